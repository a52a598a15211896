"""Benchmark of the type-I error of `score`, the function that a user runs, on noise without any effect: a markdown table.

    python benchmarks/type_one.py                                  # 2,000 compounds a cell; see --cells for fewer
    python benchmarks/type_one.py --compounds 400 --cells "one plate"
    python benchmarks/type_one.py --profiles FOLDER                # also DMSO wells of CPJUMP1 that pose as compounds

Every cell is a layout of wells, a kind of noise and a normalisation. Noise is written as the embeddings of a run, one field per
well, and `score` is run on that run with the fit across (the default) and with the fit on the negatives (`fit: controls`). A cell
has many groups of few compounds, each with controls of its own, because p-values that share controls are not independent: the
binomial interval would not hold for them. The last line of output is one JSON object.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import floors as floors_benchmark
import harness
import numpy as np
import torch
from rich.console import Console
from scipy.stats import binom

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import EMBEDDINGS, ERROR, FOV_ID, ROW, fov_id
from sdvae_ray.scoring.score import score
from sdvae_ray.storage import Storage

LEVELS = (0.05, 0.01)
FITS = ("cross", "controls")


@dataclass(frozen=True)
class Cell:
    """A layout, a kind of noise and a normalisation.

    controls: on each plate, one number or one per plate. per_plate: wells of a compound on each plate. rank: directions of the
    noise; the rest vary a thousand times less. tails: Student's t of 3 degrees of freedom. shift: sd of what a plate adds, in sd
    of a well.
    """

    name: str
    steps: str
    plates: int = 4
    controls: tuple[int, ...] = (16,)
    per_plate: int = 1
    features: int = 30
    rank: int = 30
    tails: bool = False
    shift: float = 1.0
    negatives: str = "plate"

    def controls_of(self, plate: int) -> int:
        return self.controls[plate % len(self.controls)]


PLATE, PUBLISHED = "plate_standardise", "published"
ONE = {"plates": 1, "per_plate": 4}
CELLS = (
    Cell("one plate, 24 controls", PLATE, controls=(24,), **ONE),
    Cell("one plate, 24 controls, 300 features", PLATE, controls=(24,), features=300, rank=300, **ONE),
    Cell("one plate, 24 controls, rank 60", PUBLISHED, controls=(24,), features=300, rank=60, **ONE),
    Cell("one plate, 24 controls, rank 300", PUBLISHED, controls=(24,), features=300, rank=300, **ONE),
    Cell("one plate, 8 controls", PLATE, controls=(8,), **ONE),
    Cell("one plate, 64 controls", PLATE, controls=(64,), **ONE),
    Cell("four plates, 16 controls", PLATE),
    Cell("four plates, 16 controls, 300 features", PLATE, features=300, rank=300),
    Cell("four plates, 16 controls, rank 60", PUBLISHED, features=300, rank=60),
    Cell("four plates, 16 controls, rank 300", PUBLISHED, features=300, rank=300),
    Cell("four plates, 4 controls", PLATE, controls=(4,)),
    Cell("four plates, 64 controls", PLATE, controls=(64,)),
    Cell("four plates, 8 to 32 controls", PLATE, controls=(8, 16, 24, 32)),
    Cell("four plates, 16 controls, heavy tails", PLATE, tails=True),
    Cell("four plates, 16 controls, plate shifts of 5 sd", PLATE, shift=5.0),
    Cell("four plates, 16 controls, plate shifts of 5 sd, rank 60", PUBLISHED, features=300, rank=60, shift=5.0),
    Cell("four plates, 16 controls, negatives of the group", PLATE, negatives="group"),
    Cell("four plates, 16 controls, no normalisation", "none"),
    Cell("two plates, 2 wells on each, 16 controls", PLATE, plates=2, per_plate=2),
)


def noise(cell: Cell, groups: int, compounds: int, seed: int) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Return embeddings (n, D) without any effect of compounds, and the rows of their fields: `groups` data sets of their own."""
    features, rows = [], []
    for group in range(groups):
        random = np.random.default_rng([seed, group])
        axes = random.standard_normal((cell.rank, cell.features)) * np.linspace(2, 0.2, cell.rank)[:, None]
        for plate in range(cell.plates):
            names = ["" for _ in range(cell.controls_of(plate))]
            names += [f"compound {number}" for number in range(compounds) for _ in range(cell.per_plate)]
            size = (len(names), cell.rank)
            values = random.standard_t(3, size) if cell.tails else random.standard_normal(size)
            x = values @ axes + 1e-3 * random.standard_normal((len(names), cell.features))
            features.append(x + cell.shift * x.std() * random.standard_normal(cell.features))
            rows += [_row(f"{group}-{plate}", well, name, str(group)) for well, name in enumerate(names)]
    return np.concatenate(features), rows


def dmso(folder: Path, draws: int, seed: int) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Return the profiles of the DMSO wells of four real plates, `draws` times: 32 of 64 pose on every plate as compounds.

    A compound is any four wells, one on each plate; the others are the controls."""
    x, wells = floors_benchmark.read(folder)
    features, rows = [], []
    for draw in range(draws):
        random = np.random.default_rng([seed, draw])
        for plate in wells["plate"].unique().sort():
            own = np.flatnonzero((wells["is_control"] & (wells["plate"] == plate)).to_numpy())
            order = random.permutation(own)
            features.append(x[order])
            names = [f"pose {number}" if number < 32 else "" for number in range(len(order))]
            places = [f"{draw}-{wells['position'][int(at)]}" for at in order]
            rows += [_row(f"{draw}-{plate}", place, name, str(draw)) for place, name in zip(places, names, strict=True)]
    return np.concatenate(features), rows


def _row(plate: str, well: object, compound: str, group: str) -> dict[str, str]:
    keys = {"Metadata_Source": "s", "Metadata_Batch": "b", "Metadata_Plate": plate, "Metadata_Well": str(well)}
    kind = "" if compound else "negcon"
    return {
        **keys,
        "Metadata_Site": "1",
        "Metadata_broad_sample": compound,
        "Metadata_control_type": kind,
        "Metadata_Set": group,
    }


def run_of(folder: Path, x: np.ndarray, rows: list[dict[str, str]], **settings: Any) -> RunConfig:
    """Return a run under `folder` whose embeddings are `x` (n, D); settings: keys of its section `score`."""
    config = parse_run(
        {
            "manifest": str(folder / "manifest.parquet"),
            "output": str(folder / "run"),
            "image": {"crop": 128, "patch": 64},
            "autoencoders": {"identity": {"name": "identity"}},
            "extractors": {"made": {"name": "intensity"}},
            "score": {
                "group": ["Metadata_Set"],
                "tasks": [],
                "floor_repeats": 0,
                "distributions": {"metrics": []},
                **settings,
            },
        }
    )
    columns = {FOV_ID: np.array([fov_id(row) for row in rows], object), ERROR: np.full(len(rows), "", object)}
    columns[ROW] = np.array([json.dumps(row) for row in rows], object)
    columns[f"{EMBEDDINGS}/made/{IMAGE_SIDE}:embedding"] = x[:, None, :].astype(np.float16)
    write_rows(config.output, "part-0", columns, Storage(config.storage))
    return config


def p_values(config: RunConfig, fit: str, address: str | None = None) -> tuple[np.ndarray, float, int]:
    """Return (p (compounds,) uncorrected, the mean fraction retrieved over the groups, the splits of most groups), as `score` has
    them for a fit."""
    settings = config.score.model_copy(update={"fit": fit})
    scores = score(Run(config.model_copy(update={"score": settings})), Console(quiet=True), address)
    if scores.compounds.height == 0:
        raise SystemExit(scores.summary["status"][0])
    fractions = scores.summary["fraction_retrieved"].drop_nulls().to_numpy()
    splits = int(np.median(scores.summary["splits"].to_numpy()))
    return scores.compounds["p"].drop_nulls().to_numpy(), float(fractions.mean()) if len(fractions) else np.nan, splits


def interval(compounds: int, level: float, coverage: float = 0.95) -> tuple[int, int]:
    """Return the numbers of rejections between which `coverage` of exact tests fall, both included."""
    low, high = binom.interval(coverage, compounds, level)
    return int(low), int(high)


def measured(cell: str, fit: str, config: RunConfig, address: str | None) -> dict[str, Any]:
    p, fraction, splits = p_values(config, fit, address)
    rejected = {f"rejected_at_{level}": int((p <= level).sum()) for level in LEVELS}
    steps = config.score.normalise
    return {
        "cell": cell,
        "steps": steps,
        "fit": fit,
        "splits": splits,
        "compounds": len(p),
        **rejected,
        "fraction_retrieved": fraction,
    }


def verdict(row: dict[str, Any]) -> str:
    """Return the share of rejections at 5 % and where it stands to the interval of an exact test."""
    low, high = interval(row["compounds"], 0.05)
    count = row["rejected_at_0.05"]
    said = "" if low <= count <= high else " (too few)" if count < low else " (**too many**)"
    return f"{count / row['compounds']:.1%}{said}"


def show(rows: list[dict[str, Any]]) -> None:
    print("| layout | steps | splits | cross, 5 % | 1 % | fit on the negatives, 5 % | 1 % |")
    print("|---|---|---:|---:|---:|---:|---:|")
    by_fit = {(row["cell"], row["fit"]): row for row in rows}
    for cell, fit in by_fit:
        if fit == "cross":
            cross, controls = by_fit[cell, "cross"], by_fit.get((cell, "controls"))
            numbers = [verdict(cross), f"{cross['rejected_at_0.01'] / cross['compounds']:.1%}"]
            if controls:
                numbers += [verdict(controls), f"{controls['rejected_at_0.01'] / controls['compounds']:.1%}"]
            print(f"| {cell} | {cross['steps']} | {cross['splits'] or '-'} |", " | ".join(numbers), "|")
    print()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--compounds", type=int, default=2000, help="of a cell")
    parser.add_argument("--per-group", type=int, default=10, help="compounds that share controls")
    parser.add_argument("--cells", default="", help="only the cells whose name has this text")
    parser.add_argument("--draws", type=int, default=999)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profiles", type=Path, help="folder of the profiles of four CPJUMP1 plates")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []

    def measure(name: str, x: np.ndarray, wells: list[dict[str, str]], **settings: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            config = run_of(Path(folder), x, wells, null_size=options.draws, **settings)
            for fit in FITS:
                rows.append(measured(name, fit, config, "local"))
                print(f"{name}, {fit}: {verdict(rows[-1])}", file=sys.stderr, flush=True)

    for cell in CELLS:
        if options.cells in cell.name:
            x, wells = noise(cell, options.compounds // options.per_group, options.per_group, options.seed)
            measure(cell.name, x, wells, normalise=cell.steps, negatives=cell.negatives)
    if options.profiles:
        x, wells = dmso(options.profiles, options.compounds // 32, options.seed)
        for steps in (PLATE, PUBLISHED):
            measure(f"DMSO wells of four real plates, {steps}", x, wells, normalise=steps)
    show(rows)
    harness.print_json({**harness.head("type_one", torch.device("cpu"), vars(options)), "results": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
