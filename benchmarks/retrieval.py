"""Benchmark of average precision: this package against copairs in one process, then alone on a campaign of JUMP plates.

    python benchmarks/retrieval.py                                # 1,000 and 5,000 wells
    python benchmarks/retrieval.py --wells 1000,5000,20000        # copairs takes minutes and 14 GB
    python benchmarks/retrieval.py --wells 1000 --alone 1100000   # this package alone, 256 features
    python benchmarks/retrieval.py --tasks --null 1097830         # only activity with its p-values, on as many wells as JUMP

The profiles are random, with an effect per compound, in the layout of JUMP: plates of 384 wells, 64 of them controls, every
compound once on each of four plates. In `activity` the negatives are the controls of the plate. In `distinct` they are all wells
of other compounds. The last line of output is one JSON object.
"""

import argparse
import contextlib
import ctypes
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import harness
import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from sdvae_ray.retrieval.ranking.average_precision import average_precision
from sdvae_ray.retrieval.ranking.formula import TIES, Ties
from sdvae_ray.retrieval.ranking.pair_rules import PairRules
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.tasks.activity import phenotypic_activity
from sdvae_ray.retrieval.tasks.activity_tables import Activity

PLATE, CONTROLS, REPLICATES = 384, 64, 4
FEATURES, FEATURES_ALONE = 512, 256
ACTIVITY = (["compound", "reference"], [], ["plate"], ["compound", "reference"])
DISTINCT = (["compound"], [], [], ["compound"])
TASKS = {"activity": ACTIVITY, "distinct": DISTINCT}
CPU = torch.device("cpu")


def campaign(count: int, features: int, dtype: type = np.float64, seed: int = 0) -> tuple[np.ndarray, pl.DataFrame]:
    """Profiles (W, D) and their wells."""
    random = np.random.default_rng(seed)
    well = np.arange(count)
    plate, position = well // PLATE, well % PLATE
    control = position < CONTROLS
    compound = np.where(control, -1, plate // REPLICATES * (PLATE - CONTROLS) + position - CONTROLS)
    x = random.standard_normal((count, features), dtype=np.float32).astype(dtype)
    effect = random.standard_normal((int(compound.max()) + 2, features), dtype=np.float32)
    for start in range(0, count, PLATE):
        x[start : start + PLATE] += dtype(0.3) * effect[compound[start : start + PLATE]]
    reference = np.where(control, well, -1)
    return x, pl.DataFrame({"compound": compound, "plate": plate, "reference": reference, "control": control})


def of_task(task: str, count: int, features: int, dtype: type = np.float64) -> tuple[np.ndarray, pl.DataFrame]:
    """`count` wells; in `distinct` all are treated."""
    if task == "activity":
        return campaign(count, features, dtype)
    x, wells = campaign(-(-count * PLATE // (PLATE - CONTROLS)) + PLATE, features, dtype)
    treated = np.flatnonzero(~wells["control"].to_numpy())[:count]
    return x[treated], wells[treated]


def measured(call: Callable[[], np.ndarray], repeats: int) -> tuple[np.ndarray, harness.Record]:
    """What the call gave, its seconds (the median call), and the memory that it took on top of what was held."""
    samples, found = [], np.empty(0)
    with contextlib.suppress(OSError, AttributeError):  # what glibc keeps of earlier calls would hide this one's
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    harness.reset_peak_memory(CPU)
    held = harness.peak_memory(CPU)
    for _ in range(repeats):
        results: list[np.ndarray] = []
        samples.append(harness.timed(lambda results=results: results.append(call()), CPU))  # type: ignore[misc]
        found = results[0]
    middle = samples[harness.median(samples)]
    taken = harness.peak_memory(CPU) - held
    return found, {"seconds": middle.wall, "core_seconds": middle.cpu, "peak_memory_bytes": taken}


def copairs_ap(x: np.ndarray, wells: pl.DataFrame, task: str) -> np.ndarray:
    from copairs.map import average_precision

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return average_precision(wells.to_pandas(), x, *TASKS[task], progress_bar=False)["average_precision"].to_numpy()


def against_copairs(task: str, count: int, options: argparse.Namespace) -> list[harness.Record]:
    """Rows of copairs and of ours; with copairs' tie rule, so that its ranks can be told to be the same."""
    x, wells = of_task(task, count, FEATURES)
    theirs, spent = measured(lambda: copairs_ap(x, wells, task), 1)
    rows = [{"task": task, "wells": len(wells), "features": FEATURES, "by": "copairs", **spent}]
    for ties in TIES:
        ap, ours = measured(lambda: _ours(x, wells, task, ties), options.repeats)  # noqa: B023
        row = {"task": task, "wells": len(wells), "features": FEATURES, "by": "ours", "ties": ties, **ours}
        row["ratio"] = spent["seconds"] / ours["seconds"]
        both = ~np.isnan(ap)
        row["largest_difference"] = float(np.abs(ap - theirs)[both].max())
        # one place in one list of N moves AP by 1 / (3 N^2) at least; less than that is the sums' last digits
        row["wells_that_differ"] = int((np.abs(ap - theirs)[both] > 1e-12).sum())
        rows.append({**row, **_rate(task, wells, FEATURES, ours)})
    return rows


def alone(task: str, count: int) -> harness.Record:
    x, wells = of_task(task, count, FEATURES_ALONE, np.float32)
    _, ours = measured(lambda: _ours(x, wells, task, "average"), 1)
    row = {"task": task, "wells": len(wells), "features": FEATURES_ALONE, "by": "ours", "ties": "average", **ours}
    return {**row, **_rate(task, wells, FEATURES_ALONE, ours)}


def scored(count: int) -> harness.Record:
    """Phenotypic activity as `score` has it: average precision, the null by exchange with early stopping, correction."""
    x, wells = campaign(count, FEATURES_ALONE, np.float32)
    frame = wells.select(
        well_id=pl.int_range(pl.len()).cast(pl.String),
        compound=pl.col("compound").cast(pl.String),
        plate=pl.col("plate").cast(pl.String),
        group=pl.lit("all"),
        is_control="control",
    )
    found: list[Activity] = []

    def call() -> np.ndarray:
        found.append(phenotypic_activity(x, frame, Chance()))
        return found[-1].compounds["p"].to_numpy()

    _, spent = measured(call, 1)
    compounds = found[-1].compounds
    return {
        "wells": count,
        "features": FEATURES_ALONE,
        "compounds": compounds.height,
        "draws": int(compounds["draws"].sum()),
        **spent,
    }


def _ours(x: np.ndarray, wells: pl.DataFrame, task: str, ties: Ties) -> np.ndarray:
    return average_precision(x, wells, PairRules(*TASKS[task]), ties=ties).ap


def _rate(task: str, wells: pl.DataFrame, features: int, spent: harness.Record) -> harness.Record:
    """Operations that the negatives need, at two a feature and ordered pair; the positives' are left out."""
    if task == "activity":
        plates = wells.group_by("plate").agg(c=pl.col("control").sum(), t=(~pl.col("control")).sum())
        pairs = int((plates["c"] * plates["t"]).sum())
    else:
        size = wells.group_by("compound").len()["len"].to_numpy().astype(np.int64)
        pairs = len(wells) ** 2 - int((size**2).sum())
    flop = 2.0 * features * pairs
    return {"tflops": flop / spent["seconds"] / 1e12, "core_tflops": flop / spent["core_seconds"] / 1e12}


def product_rates() -> dict[str, harness.Rate]:
    """NumPy's product of blocks as large as ours, and square products by the libraries behind torch, by precision."""
    found = {}
    for name, dtype in (("float64", np.float64), ("float32", np.float32)):
        a, b = np.random.default_rng(0).standard_normal((2, 1024, FEATURES)).astype(dtype)
        flop = 2.0 * 1024**2 * FEATURES
        found[f"{name} numpy"] = harness.rate(lambda: a @ b.T, flop, CPU, repeats=15)  # noqa: B023
    wide = torch.randn(2048, 2048, dtype=torch.float64)  # oneDNN has no float64
    found["float64 matmul"] = harness.rate(lambda: wide @ wide, 2.0 * 2048**3, CPU)
    for library, rate in harness.product_rates(CPU, torch.float32, 2048).items():
        found[f"float32 {library}"] = rate
    return found


def run(options: argparse.Namespace) -> harness.Record:
    before, rows = product_rates(), []
    for count in options.wells:
        for task in options.tasks:
            print(f"{task}, {count:,} wells, copairs ...", file=sys.stderr, flush=True)
            rows += against_copairs(task, count, options)
    for count in options.alone:
        for task in options.tasks_alone:
            print(f"{task}, {count:,} wells, alone ...", file=sys.stderr, flush=True)
            rows.append(alone(task, count))
    null = []
    for count in options.null:
        print(f"activity with its null, {count:,} wells, alone ...", file=sys.stderr, flush=True)
        null.append(scored(count))
    rates = harness.faster(before, product_rates())
    for row in rows:
        if row["by"] != "copairs":
            best = max(rate.core_tflops or rate.tflops for name, rate in rates.items() if name.startswith("float64"))
            row["share_of_product"] = row["core_tflops"] / torch.get_num_threads() / best
    return {"reference": {name: vars(rate) for name, rate in rates.items()}, "results": rows, "null": null}


def show(record: harness.Record, console: Console) -> None:
    machine = record["machine"]
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} thread(s), numpy {np.__version__}")
    for name, rate in record["reference"].items():
        console.print(f"{name} product: {rate['tflops']:.3g} TFLOP/s")
    table = Table()
    names = (
        "task",
        "wells",
        "by",
        "ties",
        "seconds",
        "core-s",
        "peak GiB",
        "x copairs",
        "wells differ",
        "% of product",
    )
    for name in names:
        table.add_column(name, justify="right")
    for row in record["results"]:
        differ = row.get("wells_that_differ", "")
        table.add_row(
            row["task"],
            f"{row['wells']:,}",
            row["by"],
            row.get("ties", ""),
            f"{row['seconds']:.3g}",
            f"{row['core_seconds']:.3g}",
            f"{row['peak_memory_bytes'] / 2**30:.2f}",
            f"{row['ratio']:.0f}" if "ratio" in row else "",
            str(differ),
            f"{100 * row['share_of_product']:.0f}" if "share_of_product" in row else "",
        )
    console.print(table)
    for each in record["null"]:
        said = f"{each['wells']:,} wells, {each['compounds']:,} compounds, {each['draws']:,} draws"
        taken = each["peak_memory_bytes"] / 2**30
        spent = f"{each['seconds']:.4g} s, {each['core_seconds']:.4g} core-s, peak {taken:.2f} GiB above the profiles"
        console.print(f"activity with its null by exchange: {said}: {spent}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--wells", type=harness.positive_numbers, default=[1000, 5000], help="against copairs: 1000,5000"
    )
    parser.add_argument("--tasks", nargs="*", choices=sorted(TASKS), default=sorted(TASKS))
    parser.add_argument("--alone", type=harness.positive_numbers, default=[], help="ours alone: 100000,1100000")
    parser.add_argument("--null", type=harness.positive_numbers, default=[], help="with p by exchange: 10000,50000")
    parser.add_argument("--tasks-alone", nargs="*", choices=sorted(TASKS), default=["activity"])
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of ours; copairs has one")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of matrix products, ours too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    from threadpoolctl import threadpool_limits

    options = parse(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as cache, threadpool_limits(options.threads):
        # copairs keeps its nulls in the home directory; none is read here, and none shall be
        os.environ["HOME"], home = cache, os.environ.get("HOME", str(Path.home()))
        try:
            found = run(options)
        finally:
            os.environ["HOME"] = home
    record = {**harness.head("retrieval", CPU, vars(options)), "profiles": "random", **found}
    show(record, Console(width=160))
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
