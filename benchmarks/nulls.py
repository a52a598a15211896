"""Benchmark of copairs' null, the AP of random arrangements: this package against copairs in one process, and counted exactly.

    python benchmarks/nulls.py
    python benchmarks/nulls.py --lists 3:259,7:5000 --draws 1000000

A list M:N has M positives among N wells. For every draw copairs shuffles all N wells, and this package draws the M ranks, so the
ratio grows with N / M. `exact` counts the arrangements that reach each of 306 mAPs, where they can be counted. The last rows are
the p-values of 306 compounds of four replicates, computed from their AP. Seconds are of processor time, which other work on the
machine changes less than the clock. The last line of output is one JSON object.
"""

import argparse
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence

import harness
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from sdvae_ray.retrieval.significance.arrangements import arrangements_reaching, is_countable
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.p_values import arrangement_null, arrangement_p_values

CPU = torch.device("cpu")
LISTS = "1:65,3:67,3:259,7:263,7:1000,7:5000,15:100,50:100,50:1000,199:2000"
COMPOUNDS, REPLICATES = 306, 4
MEMORY = 4 << 30  # bytes of shuffled ranks; copairs is not run where it needs more
# negatives of the four replicates: the 256 controls of the group, or the controls of four plates, of which a few are missing
CAMPAIGNS = {"one list (group negatives)": (256,) * 4, "four lists (negatives of the plate)": (64, 62, 60, 57)}


def lists(text: str) -> list[tuple[int, int]]:
    """The (M, N) of a text such as 3:259,7:5000, for argparse."""
    pairs = [(int(m), int(n)) for m, n in (pair.split(":") for pair in text.split(","))]
    if any(not 1 <= m <= n for m, n in pairs):
        raise argparse.ArgumentTypeError(f"lists of 1 <= M <= N are wanted, as in 3:259, got {text}")
    return pairs


def core_seconds(call: Callable[[], object], repeats: int) -> float:
    """The median processor time of the calls, over all threads."""
    return statistics.median(harness.timed(call, CPU).cpu for _ in range(repeats))


def copairs_null(positives: int, total: int, draws: int) -> np.ndarray:
    """(draws,) AP of copairs' null. The cache is empty: copairs keeps its nulls in the home directory, and none may be read."""
    from copairs.compute import get_null_dists

    with tempfile.TemporaryDirectory() as cache:
        return get_null_dists(np.array([[positives, total]]), draws, 0, cache_dir=cache, progress_bar=False)[0]


def of_list(positives: int, total: int, draws: int, repeats: int) -> harness.Record:
    """The measurements of one list of `positives` among `total` wells."""
    ours = arrangement_null(positives, total, draws, 0)
    spent = core_seconds(lambda: arrangement_null(positives, total, draws, 0), repeats)
    row = {"positives": positives, "total": total, "draws": draws, "core_seconds": spent}
    bytes_shuffled = draws * total * (2 if total < 2**16 else 4)
    if bytes_shuffled <= MEMORY:
        theirs = copairs_null(positives, total, draws)
        row["copairs_core_seconds"] = core_seconds(lambda: copairs_null(positives, total, draws), 1)
        row["ratio"] = row["copairs_core_seconds"] / spent
        row["largest_difference_in_sd"] = largest_difference(ours, theirs)
    if is_countable(positives, total):
        least = np.linspace(*np.quantile(ours, [0.5, 1]), COMPOUNDS)
        row["exact_core_seconds"] = core_seconds(lambda: arrangements_reaching(positives, total, least), repeats)
    return row


def largest_difference(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference between the shares of two nulls that reach a level, over 19 levels.

    Its unit is the standard deviation of the difference.
    """
    levels = np.quantile(second, np.linspace(0.05, 0.95, 19)) - 1e-6  # copairs' values are float32
    a, b = (np.array([(values >= level).mean() for level in levels]) for values in (first, second))
    middle = (a + b) / 2
    sd = np.sqrt(middle * (1 - middle) * (1 / len(first) + 1 / len(second)))
    return float((np.abs(a - b) / np.where(sd > 0, sd, 1)).max())


def of_campaign(name: str, negatives: Sequence[int], draws: int, repeats: int) -> harness.Record:
    """The measurements of the p-values of COMPOUNDS compounds. negatives: of every replicate."""
    from copairs.map.map import get_map_pvalue

    compound = np.repeat(np.arange(COMPOUNDS), REPLICATES)
    ap = np.random.default_rng(0).beta(1, 9, len(compound))
    m, n = np.full(len(ap), REPLICATES - 1), np.tile(negatives, COMPOUNDS)
    scores = pd.DataFrame(
        {
            "compound": compound,
            "average_precision": ap,
            "normalized_average_precision": ap,
            "n_pos_pairs": m,
            "n_total_pairs": m + n,
        }
    )

    def theirs() -> np.ndarray:
        with tempfile.TemporaryDirectory() as cache, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = get_map_pvalue(scores, ["compound"], draws, 0, progress_bar=False, cache_dir=cache)
        return table["p_value"].to_numpy()

    draw = Chance("copairs", null_size=draws, strict=True)
    count = Chance("copairs_exact", null_size=draws, strict=True)
    drawn = core_seconds(lambda: arrangement_p_values(compound, ap, m, n, draw), repeats)
    exact = core_seconds(lambda: arrangement_p_values(compound, ap, m, n, count), repeats)
    known = theirs()
    p = arrangement_p_values(compound, ap, m, n, draw).p
    taken = core_seconds(theirs, 1)
    return {
        "campaign": name, "compounds": COMPOUNDS, "draws": draws, "core_seconds": drawn, "exact_core_seconds": exact,
        "copairs_core_seconds": taken, "ratio": taken / drawn, "largest_difference_of_p": float(np.abs(p - known).max()),
    }  # fmt: skip


def show(record: harness.Record, console: Console) -> None:
    """Prints the machine, a table of the lists, and a line per campaign."""
    machine = record["machine"]
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} thread(s), numpy {np.__version__}")
    names = (
        "M",
        "N",
        "draws",
        "copairs core-s",
        "ours core-s",
        "times copairs",
        "largest difference, sd",
        "exact, 306 mAPs",
    )
    table = Table()
    for name in names:
        table.add_column(name, justify="right")
    for row in record["lists"]:
        table.add_row(
            f"{row['positives']:,}",
            f"{row['total']:,}",
            f"{row['draws']:,}",
            f"{row['copairs_core_seconds']:.3g}" if "ratio" in row else "not run",
            f"{row['core_seconds']:.3g}",
            f"{row['ratio']:.3g}" if "ratio" in row else "",
            f"{row['largest_difference_in_sd']:.1f}" if "ratio" in row else "",
            f"{row['exact_core_seconds']:.3g}" if "exact_core_seconds" in row else "too many",
        )
    console.print(table)
    for row in record["campaigns"]:
        console.print(
            f"p of {row['compounds']} compounds, {row['campaign']}, {row['draws']:,} draws: copairs"
            f" {row['copairs_core_seconds']:.3g} core-s, ours {row['core_seconds']:.3g} ({row['ratio']:.3g} times), counted"
            f" {row['exact_core_seconds']:.3g}; p differ by {row['largest_difference_of_p']:.2g} at most"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lists", type=lists, default=lists(LISTS), help=f"M:N, by default {LISTS}")
    parser.add_argument("--draws", type=int, default=100_000)
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed calls of this package; copairs has one, after one to warm up"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        measurements = {
            "lists": [of_list(*pair, options.draws, options.repeats) for pair in options.lists],
            "campaigns": [of_campaign(name, n, options.draws, options.repeats) for name, n in CAMPAIGNS.items()],
        }
    record = {**harness.head("nulls", CPU, vars(options)), **measurements}
    show(record, Console(width=160))
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
