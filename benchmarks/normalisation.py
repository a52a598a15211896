"""Benchmark of normalisations: which one keeps most phenotype, scored without the leak, on four plates of CPJUMP1.

    python benchmarks/normalisation.py PROFILES      # a folder of <plate>_*.csv.gz, as pycytominer writes them

Every candidate is fitted on the controls of one half of the control positions. In `other half` the negatives are the controls of
the other half, which took no part in the fit. In `same half` the negatives are the controls of the fit. Scores are averages over
both ways round and over several halvings. In the floors, control wells pose as compounds, and the fit, the negatives and the posing
wells share no position. A pseudo-compound is any four wells, or one position on all plates, as a real compound is.

A candidate is chosen on the first two plates: the highest mAP (other half) among the candidates whose floor of any four wells is
nominal. It is confirmed on the last two plates, and all four plates are scored too. Two candidates are shown but never chosen:
`none`, because such profiles are already normalised by all controls of their plate, the negatives among them; and harmony, which is
fitted on the negatives too. Negatives are of the query's plate, the null is by exchange, and brightfield features are dropped. The
output is one markdown table per set of plates; the last line is one JSON object.
"""

import argparse
import datetime
import importlib.util
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np
import polars as pl
import torch
from scipy.stats import spearmanr

from sdvae_ray.errors import DataError, UserError
from sdvae_ray.retrieval.normalisation.normalise import Step, normalise
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.tasks.activity import phenotypic_activity

NOMINAL = 0.05  # by chance, this share of the compounds has a raw p of at most this number
POSERS = 4  # wells of a pseudo-compound
BRIGHTFIELD = "Brightfield|BF"


def published(components: int) -> list[Step]:
    """The published steps with `components` principal components."""
    return ["standardise", {"pca_whiten": {"components": components}}, "variance_threshold", "plate_standardise"]


def sphered(method: str, epsilon: float | str, first: Step = "plate_standardise") -> list[Step]:
    """The step `first`, then a sphering."""
    return [first, {"sphere": {"method": method, "epsilon": epsilon}}]


def polished(then: list[Step], **options: Any) -> list[Step]:
    """The effects of rows and columns taken off, then other steps."""
    return [{"median_polish": options}, *then]


MAD: Step = {"mad_robustize": {"per": "plate"}}
CANDIDATES: dict[str, list[Step]] = {
    "none": [],
    "plate_standardise": ["plate_standardise"],
    "mad_robustize per plate": [MAD],
    **{f"published, {k} components": published(k) for k in (16, 32, 64, 128, 256)},
    **{
        f"plate_standardise, pca_whiten {k}": ["plate_standardise", {"pca_whiten": {"components": k}}] for k in (32, 64)
    },
    **{f"plate_standardise, sphere PCA {e}": sphered("PCA", e) for e in (0, 0.1, 1, "auto")},
    **{f"plate_standardise, sphere ZCA-cor {e}": sphered("ZCA-cor", e) for e in (0.01, 0.1, 0.3, 1, 3, 10, "auto")},
    **{f"mad_robustize, sphere ZCA {e}": sphered("ZCA", e, MAD) for e in (1, 10, "auto")},
    "mad_robustize, sphere ZCA-cor auto": sphered("ZCA-cor", "auto", MAD),
    **{f"tvn, {k} components": [{"tvn": {"components": k}}] for k in (32, 64, 256)},
    "plate_standardise, tvn, 256 components": ["plate_standardise", "tvn"],
    **{f"median_polish, prior {n}; plate_standardise": polished(["plate_standardise"], prior=n) for n in (0, 4, 16)},
    **{
        f"median_polish of all wells{' per plate' * (per == 'plate')}; plate_standardise": polished(
            ["plate_standardise"], fit="all", per=per
        )
        for per in ("group", "plate")
    },
    "median_polish of all wells; mad_robustize per plate": polished([MAD], fit="all"),
    "median_polish of all wells; plate_standardise, sphere ZCA-cor 3": polished(sphered("ZCA-cor", 3), fit="all"),
    "median_polish of all wells; published, 32 components": polished(published(32), fit="all"),
}
if importlib.util.find_spec("harmonypy") is not None:
    CANDIDATES["published, 64 components, harmony"] = [*published(64), "harmony"]
PRESETS = ("none", "plate_standardise", "published, 256 components")
FITTED_ON_NEGATIVES = ("none", "published, 64 components, harmony")


@dataclass(frozen=True)
class Plates:
    """The profiles of some plates.

    features  (W, D) float64
    plate, position, compound  (W,) text; position is the name of the well
    control   (W,) bool, true for negative controls
    """

    features: np.ndarray
    plate: np.ndarray
    position: np.ndarray
    compound: np.ndarray
    control: np.ndarray


def read_plates(folder: Path) -> Plates:
    """The profiles of the first four files in `folder`. DataError where there are fewer."""
    files = sorted(folder.glob("*.csv.gz"))
    if len(files) < 4:
        raise DataError(f"{folder}: four plates are wanted as .csv.gz, {len(files)} are there")
    frames = [pl.read_csv(file, infer_schema_length=None) for file in files[:4]]
    table = pl.concat(frames, how="diagonal_relaxed")
    names = table.select(~pl.selectors.matches("^Metadata_") & ~pl.selectors.matches(BRIGHTFIELD)).columns
    return Plates(
        table.select(names).to_numpy().astype(np.float64),
        table["Metadata_Plate"].to_numpy(),
        table["Metadata_Well"].to_numpy(),
        table["Metadata_broad_sample"].fill_null("").to_numpy(),
        (table["Metadata_control_type"].fill_null("") == "negcon").to_numpy(),
    )


def of_plates(data: Plates, names: list[str]) -> Plates:
    """The profiles of the plates in `names`."""
    on = np.isin(data.plate, names)
    return Plates(data.features[on], data.plate[on], data.position[on], data.compound[on], data.control[on])


def activity(
    data: Plates, profiles: np.ndarray, negatives: np.ndarray, treated: np.ndarray, compound: np.ndarray, null_size: int
) -> pl.DataFrame:
    """Return the table of the compounds. negatives, treated: (W,) bool; compound: (W,) text."""
    wells = {
        "well_id": np.char.add(data.plate.astype(str), np.char.add("/", data.position.astype(str))),
        "compound": compound.astype(str),
        "plate": data.plate.astype(str),
        "group": np.full(len(profiles), "group"),
        "is_control": negatives,
        "is_treated": treated,
    }
    return phenotypic_activity(profiles, pl.DataFrame(wells), Chance(null_size=null_size), stop_early=False).compounds


def positions(data: Plates, random: np.random.Generator, parts: int) -> Iterator[np.ndarray]:
    """Yield disjoint sets of control wells, (W,) bool each, by position."""
    names = np.unique(data.position[data.control])
    for part in np.array_split(random.permutation(names), parts):
        yield data.control & np.isin(data.position, part)


def halves(data: Plates, steps: list[Step], halvings: int, null_size: int) -> dict[str, Any]:
    """Return fr_other, fr_same, map_other, map_same (means), map_other_sd over halvings, and per_compound of map_other."""
    means = defaultdict(list)
    for number in range(halvings):
        first, second = positions(data, np.random.default_rng([1, number]), 2)
        values = defaultdict(list)
        for fit, rest in ((first, second), (second, first)):
            out = normalise(data.features, fit, data.plate, steps, position=data.position, fittable=~rest)
            for name, negatives in (("other", rest), ("same", fit)):
                table = activity(data, out.features, negatives, ~data.control, data.compound, null_size)
                table = table.sort("compound")
                values[f"fr_{name}"].append(table["retrieved"].fill_null(False).mean())
                values[f"map_{name}"].append(table["map"].mean())
                if name == "other":
                    values["per_compound"].append(table["map"].to_numpy())
            values["features"].append(out.features.shape[1])
        for name, both_ways in values.items():
            means[name].append(np.mean(both_ways, axis=0))
    result: dict[str, Any] = {name: np.mean(of_halvings, axis=0) for name, of_halvings in means.items()}
    return {**result, "map_other_sd": np.std(means["map_other"], ddof=1) if halvings > 1 else np.nan}


def floors(data: Plates, steps: list[Step], repeats: int, null_size: int) -> dict[str, Any]:
    """Return floor (FR of any four wells), floor_p (its share of p <= NOMINAL) with standard error, and floor_position (FR)."""
    shuffled, raw, by_position = [], [], []
    for number in range(repeats):
        random = np.random.default_rng([2, number])
        fit, negatives, posers = positions(data, random, 3)
        out = normalise(
            data.features, fit, data.plate, steps, position=data.position, fittable=~(negatives | posers)
        ).features
        rows = random.permutation(np.flatnonzero(posers))
        rows = rows[: len(rows) // POSERS * POSERS]
        names = np.full(len(out), "", dtype=object)
        names[rows] = [f"pseudo {i // POSERS}" for i in range(len(rows))]
        table = activity(data, out, negatives, np.isin(np.arange(len(out)), rows), names, null_size)
        shuffled.append(table["retrieved"].fill_null(False).mean())
        raw.append((table["p"] <= NOMINAL).mean())
        table = activity(data, out, negatives, posers, data.position, null_size)
        by_position.append(table["retrieved"].fill_null(False).mean())
    error = float(np.std(raw, ddof=1) / np.sqrt(repeats)) if repeats > 1 else np.nan
    return {
        "floor": np.mean(shuffled),
        "floor_p": np.mean(raw),
        "floor_p_error": error,
        "floor_position": np.mean(by_position),
        "nominal": bool(np.mean(shuffled) <= NOMINAL and np.mean(raw) <= NOMINAL + 2 * error),
    }


def scored(arguments: tuple[Plates, str, argparse.Namespace]) -> dict[str, Any]:
    """The scores and floors of one candidate."""
    data, name, options = arguments
    steps = CANDIDATES[name]
    scores = halves(data, steps, options.halvings, options.null_size)
    return {"candidate": name, **scores, **floors(data, steps, options.repeats, options.null_size)}


def difference(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, float, float]:
    """Return mAP (other half) of a less that of b, and the 95 % interval of the difference over resampled compounds."""
    gain = a["per_compound"] - b["per_compound"]
    gain = gain[np.isfinite(gain)]
    draws = np.random.default_rng(3).integers(len(gain), size=(2000, len(gain)))
    low, high = np.quantile(gain[draws].mean(axis=1), [0.025, 0.975])
    return float(gain.mean()), float(low), float(high)


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Prints a markdown table, the highest mAP (other half) first."""
    print(f"\n{title}\n")
    print(
        "| steps | features | mAP other half (sd) | FR other half | FR same half | floor FR | p <= 0.05 | floor FR, position |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in sorted(rows, key=lambda row: -row["map_other"]):
        mark = "" if row["nominal"] else " (not nominal)"
        print(
            f"| {row['candidate']} | {row['features']:.0f} | {row['map_other']:.3f} ({row['map_other_sd']:.3f}) | "
            f"{row['fr_other']:.3f} | {row['fr_same']:.3f} | {row['floor']:.3f}{mark} | {row['floor_p']:.3f} | "
            f"{row['floor_position']:.3f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", type=Path, help="folder of profiles, one .csv.gz per plate")
    parser.add_argument("--null-size", type=int, default=10_000)
    parser.add_argument("--halvings", type=int, default=3, help="random halvings of the control positions")
    parser.add_argument(
        "--repeats", type=int, default=20, help="random thirds of the control positions, for the floors"
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--only", default="", help="score candidates whose names have this text alone, beside the presets"
    )
    options = parser.parse_args()
    machine = harness.machine(torch.device("cpu"))
    try:
        data = read_plates(options.profiles)
    except UserError as error:
        sys.exit(str(error))
    plates = sorted(set(data.plate.tolist()))
    sets = {"choose": plates[:2], "confirm": plates[2:], "all": plates}
    names_scored = [name for name in CANDIDATES if options.only in name or name in PRESETS]
    spawn = multiprocessing.get_context("spawn")  # a forked polars would wait for threads that do not exist
    with ProcessPoolExecutor(options.processes, mp_context=spawn) as pool:
        rows = {
            key: list(pool.map(scored, [(of_plates(data, names), name, options) for name in names_scored]))
            for key, names in sets.items()
        }
    for key, names in sets.items():
        print_table(f"{key}: {', '.join(names)}", rows[key])
    allowed = [row for row in rows["choose"] if row["nominal"] and row["candidate"] not in FITTED_ON_NEGATIVES]
    chosen = max(allowed, key=lambda row: row["map_other"])["candidate"]
    print(f"\nchosen on {', '.join(plates[:2])}: {chosen}")
    by_set = [[row["map_other"] for row in rows[key]] for key in ("choose", "confirm")]
    agreement = float(spearmanr(*by_set).statistic)
    print(f"Spearman correlation of mAP (other half) between choose and confirm, all candidates: {agreement:.2f}")
    compared = {}
    for key in sets:
        by_name = {row["candidate"]: row for row in rows[key]}
        ranked = sorted(by_name, key=lambda name: -by_name[name]["map_other"])
        ranked = [name for name in ranked if name not in FITTED_ON_NEGATIVES]
        best_other = next(name for name in ranked if name != chosen)
        against = {
            name: difference(by_name[chosen], by_name[name]) for name in (best_other, "published, 256 components")
        }
        compared[key] = {"rank": ranked.index(chosen) + 1, "less": against}
        for name, (mean, low, high) in against.items():
            print(
                f"{key}: rank {ranked.index(chosen) + 1} of {len(ranked)}; mAP less {name}: {mean:+.4f} ({low:+.4f} to {high:+.4f})"
            )
    drop = ("per_compound",)
    harness.print_json(
        {
            "benchmark": "normalisation",
            "date": datetime.date.today().isoformat(),
            "machine": machine,
            "options": {key: value for key, value in vars(options).items() if key != "profiles"},
            "chosen": chosen,
            "agreement": agreement,
            "compared": compared,
            "rows": {
                key: [
                    {k: v if isinstance(v, str | bool) else float(v) for k, v in row.items() if k not in drop}
                    for row in candidates
                ]
                for key, candidates in rows.items()
            },
        }
    )


if __name__ == "__main__":
    main()
