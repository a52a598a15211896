"""Floors of the retrieval score: on four real CPJUMP1 plates, and on noise without any effect.

    python benchmarks/floors.py FOLDER     # with BR0011701{0,1,2,3}_normalized_feature_select_negcon_batch.csv.gz
    python benchmarks/floors.py --noise

The output is one table per recipe; with --noise it is one table by the effective rank of the noise, and a bar chart. The last line
is one JSON object. The profiles are those of cpg0000 (Cell Painting Gallery, CC0), in
workspace/profiles/2020_11_04_CPJUMP1/<plate>/. Brightfield features are dropped. DMSO wells are those with Metadata_control_type
negcon. Every other well is treated, except the positive controls in the recipe of JUMP.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from sdvae_ray.errors import DataError, UserError
from sdvae_ray.retrieval.floors.control_floors import floors
from sdvae_ray.retrieval.normalisation.normalise import normalise
from sdvae_ray.retrieval.significance.bootstrap import intervals
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.tasks.activity import Negatives, phenotypic_activity

PLATES = ("BR00117010", "BR00117011", "BR00117012", "BR00117013")
KEY = ("plate", "position")
BRIGHTFIELD = re.compile("Brightfield|BF")
COPAIRS = Chance("copairs", strict=True, ties="copairs")
JUMP = "JUMP: profiles as they are, same-plate negatives, copairs' null, positive controls dropped"
RECIPES: dict[str, tuple[str, Negatives, Chance]] = {  # steps, negatives, chance
    "published": ("published", "group", COPAIRS),
    "published steps, same-plate negatives, null by exchange": ("published", "plate", Chance()),
    JUMP: ("none", "plate", COPAIRS),
    "profiles as they are, same-plate negatives, null by exchange": ("none", "plate", Chance()),
}
NUMBERS = ("fraction_retrieved", "lowest", "highest", "mean_map", "mean_normalised_map")
COUNTS = ("compounds_scored", "queries", "negatives", "repeats")
RANKS = (32, 64, 96, 112, 120, 124, 127, 130, 140, 160, 192, 224, 240, 250, 255, 260, 280, 320, 400, 600)
SHOWN = ("full", "half_same", "half_other", "posing", "labels_within_treated", "labels_within_all")


def read(folder: Path) -> tuple[np.ndarray, pl.DataFrame]:
    """Features (1536, D) without brightfield, and the wells. DataError where the file of a plate is missing."""
    frames = []
    for plate in PLATES:
        path = folder / f"{plate}_normalized_feature_select_negcon_batch.csv.gz"
        if not path.is_file():
            raise DataError(f"{folder} has no {path.name}")
        frames.append(pl.read_csv(path, infer_schema_length=None))
    table = pl.concat(frames)
    kept = [name for name in table.columns if not name.startswith("Metadata_") and not BRIGHTFIELD.search(name)]
    control = (pl.col("Metadata_control_type") == "negcon").fill_null(False)
    wells = table.select(
        plate="Metadata_Plate", position="Metadata_Well", compound="Metadata_broad_sample",
        group=pl.lit("U2OS 48 h"), is_control=control,
        poscon=pl.col("Metadata_control_type").fill_null("").str.starts_with("poscon"),
    )  # fmt: skip
    return table.select(kept).to_numpy().astype(np.float64), wells


def noise(
    rank: int, seed: int, features: int = 602, plates: int = 4, controls: int = 64, compounds: int = 306
) -> tuple[np.ndarray, pl.DataFrame]:
    """Profiles (W, features) and wells of Gaussian noise without effects of plate, position or compound.

    `rank` directions have variance 1, and all others have variance 10^-6.
    """
    random = np.random.default_rng([seed, rank])
    sd = np.where(np.arange(features) < rank, 1.0, 1e-3)
    axes = np.linalg.qr(random.normal(size=(features, features)))[0]
    names = [f"W{number:03d}" for number in range(controls + compounds)]
    wells = pl.DataFrame(
        [
            {
                "plate": f"P{plate}",
                "position": name,
                "compound": name,
                "group": "noise",
                "is_control": number < controls,
            }
            for plate in range(plates)
            for number, name in enumerate(names)
        ]
    )
    return random.normal(size=(len(wells), features)) * sd @ axes, wells


def shown(value: Any) -> str:
    """The text of one cell: a dash for None, three digits for a float."""
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def real(console: Console, folder: Path, repeats: int, null_size: int) -> dict[str, Any]:
    """Prints and returns the floors and the intervals of every recipe, on the four plates in `folder`."""
    x, wells = read(folder)
    treated = wells.filter(~pl.col("is_control"))["compound"].n_unique()
    console.print(f"{len(wells)} wells, {x.shape[1]} features, {treated} compounds, {repeats} repeats")
    out: dict[str, Any] = {"wells": len(wells), "features": x.shape[1], "compounds": treated}
    for recipe, (steps, negatives, usual) in RECIPES.items():
        size = null_size if recipe == "published" else 10_000
        chance = replace(usual, null_size=size)
        dropped = pl.col("poscon") if recipe == JUMP else pl.lit(False)
        wells = wells.with_columns(is_treated=~pl.col("is_control") & ~dropped)
        found = floors(x, wells, steps, chance, position="position", key=KEY, negatives=negatives, repeats=repeats)
        table = Table(title=f"{recipe}; null of {size:,}", title_justify="left")
        for name in ("quantity", *NUMBERS, *COUNTS, "status"):
            table.add_column(name.replace("_", " "), justify="left" if name in ("quantity", "status") else "right")
        for row in found.iter_rows(named=True):
            counts = ["-" if row[name] is None else f"{row[name]:g}" for name in COUNTS]
            table.add_row(row["quantity"], *(shown(row[name]) for name in NUMBERS), *counts, row["status"])
        console.print(table)
        space = normalise(x, wells["is_control"].to_numpy(), wells["plate"].to_numpy(), steps).features
        scored = phenotypic_activity(space, wells, chance, key=KEY, negatives=negatives).compounds
        bounds = intervals(scored)
        for row in bounds.iter_rows(named=True):
            console.print(
                f"  {row['quantity']}: {row['estimate']:.3f}, 95 % over compounds {row['low']:.3f} to {row['high']:.3f}"
            )
        out[recipe] = {"floors": found.to_dicts(), "intervals": bounds.to_dicts()}
    return out


def on_noise(console: Console, repeats: int, seeds: int) -> dict[str, Any]:
    """Prints and returns the floors of the published recipe on noise of every rank, as means over `seeds` data sets."""
    rows = []
    for rank in RANKS:
        found = [
            floors(
                *noise(rank, seed), "published", replace(COPAIRS, seed=seed),
                position="position", key=KEY, negatives="group", repeats=repeats,
            )
            for seed in range(seeds)
        ]  # fmt: skip
        means = pl.concat(found).group_by("quantity").agg(pl.col("fraction_retrieved").mean())
        rows.append({"rank": rank, **dict(means.iter_rows())})
    table = Table(title=f"noise: fraction retrieved, published recipe, mean of {seeds} data sets", title_justify="left")
    for name in ("rank", *SHOWN):
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(shown(row[name]) for name in ("rank", *SHOWN)))
    console.print(table)
    for row in rows:
        bars = "  ".join(f"{'█' * round(20 * row[name]):<20}" for name in ("full", "half_same", "half_other"))
        console.print(f"{row['rank']:>4}  {bars}", highlight=False)
    return {"noise": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="folder of the profiles of the four plates")
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3, help="data sets of noise per rank")
    parser.add_argument(
        "--null-size", type=int, default=100_000, help="draws of the published recipe (in the paper: 1,000,000)"
    )
    given = parser.parse_args(arguments)
    if (given.folder is None) == (not given.noise):
        parser.error("give the folder of the profiles, or --noise")
    console = Console(width=200)
    machine = harness.machine(torch.device("cpu"))
    try:
        if given.noise:
            found = on_noise(console, given.repeats, given.seeds)
        else:
            found = real(console, given.folder, given.repeats, given.null_size)
    except UserError as error:
        sys.exit(str(error))
    print(json.dumps({"machine": machine, **found}))


if __name__ == "__main__":
    main()
