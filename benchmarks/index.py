"""Benchmark of approximate indices beside the exact index: seconds to build, bytes per vector, recall@10, queries per second.

    python benchmarks/index.py                                   # 100,000 x 384, every kind
    python benchmarks/index.py --vectors 1000000 --kinds ivf_pq_refined:6,ivf_sq8
    python benchmarks/index.py --embeddings crops/vectors.npy --held-out crops/region.npy     # see crops.py
    python benchmarks/index.py --embeddings RUN/embeddings/EXTRACTOR/image --column patches   # embeddings of your own run

Without embeddings the vectors are random clustered unit vectors: normal noise of length `--spread` around one of the `--centres`
unit vectors, scaled to length 1. The queries are drawn in the same way, or read from `--held-out`, or are embeddings left out at
random. No index holds a query. Every index is trained on a sample, filled in shards and merged. Its settings are tuned on half of
the queries; its recall and its speed are measured on the other half, with all queries in one call, as for the flat index. "x
Flat" is a ratio of processor times. A kind of index is a name, and after a colon the bits to refine by. The last line of output
is one JSON object.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import harness
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from sdvae_ray.errors import UserError
from sdvae_ray.retrieval.index import approximate, faiss_index, tuning
from sdvae_ray.schema import EMBEDDING, PATCHES, column_to_numpy

KINDS = "ivf_pq_refined:4,ivf_pq_refined:6,ivf_pq_refined:8,ivf_pq_refined:16,ivf_sq8"
SHARD = 100_000
GOAL = {"recall": 0.95, "times_flat": 5.0, "bytes_per_dimension": 1.0}
Vectors = NDArray[np.float32]


def clustered(count: int, dimensions: int, centres: int, spread: float, seed: int) -> Vectors:
    """(count, dimensions) float32: random vectors of length 1 around `centres` centres."""
    random = np.random.default_rng(seed)
    middle = random.standard_normal((centres, dimensions), dtype=np.float32)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    out = np.empty((count, dimensions), np.float32)
    for start in range(0, count, SHARD):
        rows = min(SHARD, count - start)
        x = random.standard_normal((rows, dimensions), dtype=np.float32)
        x *= np.float32(spread / dimensions**0.5)
        x += middle[random.integers(0, centres, rows)]
        out[start : start + rows] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return out


def load(options: argparse.Namespace) -> tuple[Vectors, Vectors]:
    """The vectors of the index, and the queries, which are not in the index."""
    if options.embeddings is None:
        centres = options.centres or max(1, options.vectors // 100)
        x = clustered(options.vectors + options.queries, options.dimensions, centres, options.spread, options.seed)
        return x[options.queries :], x[: options.queries]
    x = read(options.embeddings, options.column)
    rows = np.random.default_rng(options.seed).permutation(len(x))
    if options.held_out is not None:
        return np.asarray(x[rows[: options.vectors]], np.float32), read(options.held_out, options.column)[
            : options.queries
        ]
    rows = rows[: options.vectors + options.queries]
    return np.asarray(x[rows[options.queries :]], np.float32), np.asarray(x[rows[: options.queries]], np.float32)


def read(source: str, column: str) -> Vectors:
    """(N, D) vectors of a .npy file, or of one column of the embeddings of a run: a row per FOV, or per patch of a FOV."""
    if not Path(source).is_dir():
        return np.load(source, mmap_mode="r")
    parts = []
    for file in sorted(Path(source).glob("*.parquet")):
        values = column_to_numpy(pq.read_table(file, columns=[column])[column])  # (n, G, D); for patches (n, k, G, D)
        rows = values.shape[0] if column == EMBEDDING else values.shape[0] * values.shape[1]
        parts.append(values.reshape(rows, -1).astype(np.float32))
    return np.concatenate(parts)


def filled(x: Vectors, choice: approximate.Choice) -> tuple[faiss_index.Index, approximate.Choice, dict[str, float]]:
    """The index merged from its shards, the choice after training, and the seconds of the two steps."""
    start = time.perf_counter()
    empty, choice = approximate.train(x[: choice.sample_rows], choice)
    trained = time.perf_counter()
    ids = np.arange(len(x))
    cuts = [slice(first, first + SHARD) for first in range(0, len(x), SHARD)]
    whole = approximate.merge(approximate.add(empty, x[cut], ids[cut]) for cut in cuts)
    return whole, choice, {"train_s": trained - start, "fill_s": time.perf_counter() - trained}


def speed(index: faiss_index.Index, queries: Vectors, options: argparse.Namespace) -> dict[str, float]:
    """Queries per second, the median of the repeats after one unmeasured call; and per core-second, which load changes less."""
    device = torch.device("cpu")
    runs = [
        harness.timed(lambda: faiss_index.search(index, queries, options.k), device) for _ in range(options.repeats + 1)
    ][1:]
    middle = runs[harness.median(runs)]
    least = min(run.cpu for run in runs)
    return {"queries_per_second": len(queries) / middle.wall, "queries_per_core_second": len(queries) / least}


def measure(options: argparse.Namespace) -> harness.Record:
    """The measurements of the flat index and of every kind in `options.kinds`."""
    x, queries = load(options)
    n, dimensions = x.shape
    held_out = slice(1, None, 2)  # the queries that `tune` does not use
    flat, _, flat_seconds = filled(x, approximate.plan("flat", n, dimensions))
    _, exact = faiss_index.search(flat, queries, options.k)
    flat_speed = speed(flat, queries[held_out], options)
    results: list[harness.Record] = [
        {"kind": "flat", "bytes_per_vector": len(faiss_index.to_bytes(flat)) / n, "recall": 1.0, **flat_seconds}
        | {**flat_speed, "times_flat": 1.0, "settings": {}, "meets_goal": False}
    ]
    del flat
    for name in options.kinds.split(","):
        print(f"{name} ...", file=sys.stderr, flush=True)
        kind, _, bits = name.partition(":")
        plan = approximate.plan(kind, n, dimensions, int(bits or 6))
        index, choice, seconds = filled(x, plan)
        start = time.perf_counter()
        tuned = tuning.tune(index, queries, exact, options.k, options.recall)
        seconds["tune_s"] = time.perf_counter() - start
        result = tuning.record(index, choice, tuned, **seconds, estimated_bytes=choice.bytes_per_vector)
        result |= speed(index, queries[held_out], options)
        result["times_flat"] = result["queries_per_core_second"] / flat_speed["queries_per_core_second"]
        result["meets_goal"] = (
            result["recall"] >= GOAL["recall"]
            and result["times_flat"] >= GOAL["times_flat"]
            and result["bytes_per_vector"] <= GOAL["bytes_per_dimension"] * dimensions
        )
        results.append(result)
        del index
    return {"vectors": n, "dimensions": dimensions, "goal": GOAL, "results": results}


def show(record: harness.Record, console: Console) -> None:
    """Prints the data, the machine and a table of the results."""
    machine, settings = record["machine"], record["settings"]
    data = f"clustered, spread {settings['spread']}"
    if settings["embeddings"]:
        data = f"{settings['embeddings']}, queries {settings['held_out'] or 'left out at random'}"
    console.print(f"{record['vectors']:,} x {record['dimensions']}, {data}; recall@{settings['k']}")
    console.print(f"{machine['cpu']}, {machine['cores']} cores, threads {settings['threads']}")
    table = Table()
    for name in (
        "kind",
        "build s",
        "tune s",
        "bytes/vector",
        "settings",
        "recall",
        "queries/s",
        "/core-s",
        "x Flat",
        "goal",
    ):
        table.add_column(name, justify="right")
    for row in record["results"]:
        bits = row.get("parameters", {}).get("refine_bits")
        cells = [row["kind"] + (f":{bits}" if bits else ""), f"{row['train_s'] + row['fill_s']:.1f}"]
        cells += [f"{row.get('tune_s', 0):.1f}", f"{row['bytes_per_vector']:.0f}"]
        cells += [" ".join(f"{key} {value}" for key, value in row["settings"].items()), f"{row['recall']:.3f}"]
        cells += [f"{row[f'queries_per_{unit}']:,.0f}" for unit in ("second", "core_second")]
        cells += [f"{row['times_flat']:.1f}", "met" if row["meets_goal"] else "-"]
        table.add_row(*cells)
    console.print(table)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000, help="half to tune on, half to report on")
    parser.add_argument("--centres", type=int, help="default: one for every 100 vectors")
    parser.add_argument("--spread", type=float, default=1.5, help="length of the noise around a centre of length 1")
    parser.add_argument("--embeddings", help=".npy, (N, D), or the folder of a run's embeddings of one side")
    parser.add_argument(
        "--column", choices=(EMBEDDING, PATCHES), default=EMBEDDING, help="column of the embeddings in the folder"
    )
    parser.add_argument("--held-out", help="file or folder of the queries; default: embeddings left out at random")
    parser.add_argument("--kinds", default=KINDS)
    parser.add_argument("--recall", type=float, default=0.95, help="recall@k that the settings are tuned for")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    try:
        with faiss_index.threads(options.threads):
            measured = measure(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    given = {
        name: path and Path(path).name for name, path in vars(options).items() if name in ("embeddings", "held_out")
    }
    record = {**harness.head("index", torch.device("cpu"), {**vars(options), **given}), **measured}
    show(record, Console(width=200))
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
