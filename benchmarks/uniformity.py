"""Benchmark of the type-I error of phenotypic activity on pure noise, by null and number of replicates: a markdown table.

    python benchmarks/uniformity.py                                  # 2,000 compounds of 2, 4 and 8 replicates
    python benchmarks/uniformity.py --compounds 500 --controls 16

No compound has an effect. Every plate has an effect. The wells of a compound and of its controls share an offset, so that
replicates share similarities. A compound has one well on each of its plates; the negatives of a well are the controls of its
plate. Every compound has plates of its own, because p-values that share controls are not independent: the binomial interval and
the Kolmogorov-Smirnov test would not hold for them. The mAP of two replicates takes few values, so p takes few values too. With
ties between the draws and the observed mAP broken at random, p is continuous. The last line of output is one JSON object.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import harness
import numpy as np
import polars as pl
import torch
from scipy.stats import binom, kstest

from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.tasks.activity import phenotypic_activity

LEVELS = (0.05, 0.01)
NULLS = {
    "exchange": Chance("exchange"),
    "exchange-strict": Chance("exchange", strict=True),
    "copairs, shared draw": Chance("copairs", strict=True, ties="copairs"),
}
BROKEN = "exchange, ties broken at random"
COVERAGE = 0.95


def noise(
    compounds: int, replicates: int, controls: int, seed: int = 0, features: int = 20
) -> tuple[np.ndarray, pl.DataFrame]:
    """Profiles (compounds x replicates x (1 + controls), features) float32 and their wells."""
    random = np.random.default_rng([seed, replicates])
    x = random.standard_normal((compounds, replicates, 1 + controls, features), dtype=np.float32)
    x *= np.linspace(2, 0.2, features, dtype=np.float32)
    x += 0.5 * random.standard_normal((compounds, replicates, 1, features), dtype=np.float32)  # of the plate
    x += 0.5 * random.standard_normal((compounds, 1, 1, features), dtype=np.float32)  # shared
    compound, plate, well = (axis.ravel() for axis in np.indices(x.shape[:3]))
    wells = pl.DataFrame({"compound": compound, "plate": plate + compound * replicates, "well": well})
    wells = wells.with_columns(group=pl.lit("noise"), is_control=pl.col("well") > 0)
    return x.reshape(-1, features), wells


def p_values(x: np.ndarray, wells: pl.DataFrame, null: str, draws: int, seed: int = 0) -> np.ndarray:
    """(compounds,) p, uncorrected; nothing stops early."""
    chance = replace(NULLS[null], null_size=draws, seed=seed)
    found = phenotypic_activity(x, wells, chance, key=("plate", "well"), stop_early=False)
    return found.compounds["p"].to_numpy()


def broken_ties(p: np.ndarray, strict: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """p of null >= observed and of null > observed, the same draws: one uniform between #{>} and #{>=} + 1, of draws + 1.

    Exactly uniform on (0, 1) where the observed mAP is exchangeable with its draws.
    """
    above = strict - 1 / (draws + 1)
    return above + np.random.default_rng(seed).random(len(p)) * (p - above)


def interval(compounds: int, level: float, coverage: float = COVERAGE) -> tuple[int, int]:
    """Numbers of rejections between which `coverage` of exact tests fall, both included."""
    low, high = binom.interval(coverage, compounds, level)
    return int(low), int(high)


def uniformity(p: np.ndarray) -> float:
    """p-value of the Kolmogorov-Smirnov test that `p` is uniform on (0, 1)."""
    return float(kstest(p, "uniform").pvalue)


def run(options: argparse.Namespace) -> list[harness.Record]:
    rows = []
    for replicates in options.replicates:
        x, wells = noise(options.compounds, replicates, options.controls, options.seed)
        found = {}
        for null in NULLS:
            print(f"{replicates} replicates, {null} ...", file=sys.stderr, flush=True)
            found[null] = p_values(x, wells, null, options.draws, options.seed)
        found[BROKEN] = broken_ties(found["exchange"], found["exchange-strict"], options.draws, options.seed)
        for null, p in found.items():
            row = {"replicates": replicates, "null": null, "compounds": len(p), "uniformity": uniformity(p)}
            rows.append({**row, **{f"rejected_at_{level}": int((p <= level).sum()) for level in LEVELS}})
    return rows


def show(rows: list[harness.Record], options: argparse.Namespace) -> None:
    bounds = [interval(options.compounds, level) for level in LEVELS]
    print(
        f"{options.compounds:,} compounds of noise, {options.controls} same-plate negatives, {options.draws:,} draws; an exact "
        f"test rejects, 19 times of 20,",
        " and ".join(
            f"{low / options.compounds:.2%} to {high / options.compounds:.2%} at {level:.0%}"
            for (low, high), level in zip(bounds, LEVELS, strict=True)
        ),
    )
    print()
    print(
        "| replicates | null |", " | ".join(f"rejected at {level:.0%}" for level in LEVELS), "| Kolmogorov-Smirnov p |"
    )
    print("|---:|---|" + "---:|" * (len(LEVELS) + 1))
    for row in rows:
        shares = []
        for (low, high), level in zip(bounds, LEVELS, strict=True):
            count = row[f"rejected_at_{level}"]
            said = "" if low <= count <= high else ", too few" if count < low else ", too many"
            shares.append(f"{count / row['compounds']:.2%}{said}")
        print(f"| {row['replicates']} | {row['null']} |", " | ".join(shares), f"| {row['uniformity']:.2g} |")
    print()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--compounds", type=int, default=2000)
    parser.add_argument("--replicates", type=harness.positive_numbers, default=[2, 4, 8])
    parser.add_argument("--controls", type=int, default=64, help="on each plate")
    parser.add_argument("--draws", type=int, default=1999)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    rows = run(options)
    show(rows, options)
    harness.print_json({**harness.head("uniformity", torch.device("cpu"), vars(options)), "results": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
