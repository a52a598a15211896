"""Benchmark of consistency: the exact average precision of every compound of a library against all others, by target.

    python benchmarks/consistency.py                               # 116,753 compounds x 256, one target each
    python benchmarks/consistency.py --targets 1.5 --features 512  # 1.5 targets on average, every one a query
    python benchmarks/consistency.py --compounds 2000 --check 200  # also against a loop over 200 queries

The consensus profiles are synthetic: noise plus an effect per target. 2 to 200 compounds share a target (log-uniform sizes).
JUMP has 116,753 compounds, and most have no known target. Here every compound has a target, which is the worst case. The
positives of a query share its target; the negatives share none of its targets. The last line of output is one JSON object.
"""

import argparse
import sys
from collections.abc import Sequence

import harness
import numpy as np
import polars as pl
import torch
from retrieval import measured
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score

from sdvae_ray.retrieval.ranking.average_precision import AveragePrecision, average_precision
from sdvae_ray.retrieval.ranking.pair_rules import PairRules

CPU = torch.device("cpu")
COMPOUNDS, FEATURES = 116_753, 256
SMALLEST, LARGEST = 2, 200  # compounds of a target
EFFECT = 0.3  # sd of what a target adds to each feature, whose noise has sd 1


def library(compounds: int, features: int, targets: float, seed: int = 0) -> tuple[np.ndarray, pl.DataFrame]:
    """Profiles (W, D) float32, and wells with `target`: its number, or a list of `targets` numbers on average."""
    random = np.random.default_rng(seed)
    memberships = round(compounds * targets)
    sizes = np.exp(random.uniform(np.log(SMALLEST), np.log(LARGEST + 1), memberships)).astype(np.int64)
    sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), memberships)) + 1]
    target = np.repeat(np.arange(len(sizes)), sizes)[:memberships]
    compound = np.concatenate([random.permutation(compounds), random.integers(0, compounds, memberships - compounds)])
    target = random.permutation(target)
    x = random.standard_normal((compounds, features), dtype=np.float32)
    effect = np.float32(EFFECT) * random.standard_normal((len(sizes), features), dtype=np.float32)
    for start in range(0, memberships, compounds):  # a compound at most once in each part but the last ones
        np.add.at(x, compound[start : start + compounds], effect[target[start : start + compounds]])
    lists = pl.DataFrame({"compound": compound, "target": target}).group_by("compound").agg("target")
    wells = lists.sort("compound").select("compound", pl.col("target").list.unique().list.sort())
    if targets == 1:
        wells = wells.with_columns(pl.col("target").list.first())
    return x, wells


def score(x: np.ndarray, wells: pl.DataFrame, block: int) -> AveragePrecision:
    label = "target" if wells["target"].dtype.is_nested() else None
    rules = PairRules(["target"], neg_diffby=["target"], multilabel_col=label)
    return average_precision(x, wells, rules, block=block)


def largest_error(x: np.ndarray, wells: pl.DataFrame, found: AveragePrecision, queries: int) -> float:
    """Of AP against scikit-learn's on float64 cosines, over that many queries."""
    unit = x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    targets = wells["target"].to_list()
    sets = [set(t) if isinstance(t, list) else {t} for t in targets]
    label = wells["target"].to_numpy()[found.well] if found.label is None else found.label.to_numpy()
    errors = []
    for i in np.linspace(0, len(found.well) - 1, queries).astype(int):
        well, wanted = int(found.well[i]), label[i]
        positive = np.array([wanted in s for s in sets])
        listed = positive | np.array([not (s & sets[well]) for s in sets])
        listed[well] = False
        if positive[listed].any():
            errors.append(abs(average_precision_score(positive[listed], (unit @ unit[well])[listed]) - found.ap[i]))
    return float(max(errors))


def product_rate() -> harness.Rate:
    """Of NumPy's product of float64 blocks as large as ours."""
    a, b = np.random.default_rng(0).standard_normal((2, 2048, 512))
    return harness.rate(lambda: a @ b.T, 2.0 * 2048**2 * 512, CPU, repeats=15)


def run(options: argparse.Namespace) -> harness.Record:
    before = {"float64": product_rate()}
    x, wells = library(options.compounds, options.features, options.targets)
    print(f"{len(x):,} compounds ...", file=sys.stderr, flush=True)
    kept: list[AveragePrecision] = []

    def call() -> np.ndarray:
        kept.append(score(x, wells, options.block))
        return kept[-1].ap

    ap, spent = measured(call, 1)
    row = {**spent, "mean_ap": float(np.nanmean(ap)), "queries": int((~np.isnan(ap)).sum())}
    row["positives"] = int(kept[-1].positives.sum())
    flop = 2.0 * options.features * len(x) * (len(x) - 1)
    row["tflops"], row["core_tflops"] = flop / spent["seconds"] / 1e12, flop / spent["core_seconds"] / 1e12
    if options.check:
        row["largest_error"] = largest_error(x, wells, kept[-1], options.check)
    best = harness.faster(before, {"float64": product_rate()})
    # by processor time, which other work on the machine blurs less
    row["share_of_product"] = row["core_tflops"] / torch.get_num_threads() / best["float64"].core_tflops
    reference = {name: vars(rate) for name, rate in best.items()}
    return {"targets": int(wells["target"].explode().n_unique()), "reference": reference, "results": [row]}


def show(record: harness.Record, console: Console) -> None:
    machine, settings = record["machine"], record["settings"]
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} thread(s), numpy {np.__version__}")
    console.print(
        f"{settings['compounds']:,} compounds x {settings['features']}, {record['targets']:,} targets, synthetic; "
        + ", ".join(
            f"{name} product {rate['core_tflops']:.3g} TFLOP/core-s" for name, rate in record["reference"].items()
        )
    )
    table = Table()
    for name in ("queries", "positives", "seconds", "core-s", "peak GiB", "% of product", "largest error"):
        table.add_column(name, justify="right")
    for row in record["results"]:
        table.add_row(
            f"{row['queries']:,}",
            f"{row['positives']:,}",
            f"{row['seconds']:.4g}",
            f"{row['core_seconds']:.4g}",
            f"{row['peak_memory_bytes'] / 2**30:.2f}",
            f"{100 * row['share_of_product']:.0f}",
            f"{row['largest_error']:.1e}" if "largest_error" in row else "",
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--compounds", type=int, default=COMPOUNDS)
    parser.add_argument("--features", type=int, default=FEATURES)
    parser.add_argument("--targets", type=float, default=1.0, help="of a compound on average; 1: one each, no lists")
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--check", type=int, default=0, help="queries whose AP scikit-learn computes again")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of matrix products, ours too")
    options = parser.parse_args(arguments)
    if options.targets < 1:
        parser.error("every compound has one target at least")
    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        found = run(options)
    record = {**harness.head("consistency", CPU, vars(options)), "profiles": "synthetic", **found}
    show(record, Console(width=160))
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
