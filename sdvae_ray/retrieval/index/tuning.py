"""What an approximate index finds of the exact neighbours, and the cheapest settings of a search that find enough.

Measure with queries that are not in the index, or each finds itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.index import faiss_index as store
from sdvae_ray.retrieval.index.approximate import Choice, add
from sdvae_ray.retrieval.index.faiss_index import Index

RERANK_COST = 300  # vectors scanned in the time that one candidate takes to be measured again
FACTORS = (1, 2, 4, 8, 16, 32, 64)  # of k, candidates measured again
EF_SEARCH = (16, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Recall:
    """recall: mean share in [0, 1] of the k exact neighbours that were found, by id; equally near ones are not equal."""

    recall: float
    k: int
    queries: int
    queries_per_second: float
    threads: int


@dataclass(frozen=True)
class Tuned:
    """reached: whether `settings` had the recall wanted on the queries they were chosen on, where it was
    `recall_chosen_on`; `measured` is on the other queries."""

    settings: dict[str, int]
    wanted: float
    reached: bool
    recall_chosen_on: float
    measured: Recall


def measure_recall(index: Index, queries: ArrayLike, exact: Index | ArrayLike, k: int = 10, threads: int = 1) -> Recall:
    """Return recall@k and speed on `queries`, (Q, D), which should not be in the index.

    exact: a flat index of the same vectors and ids, or (Q, at least k) ids that one found, or the vectors themselves
    (floating, (N, D)) if their ids are their row numbers. Raises DataError if k is more than the vectors.
    """
    if k > index.ntotal:
        raise DataError(f"recall of {k} neighbours needs as many vectors; the index has {index.ntotal}")
    x = np.asarray(queries)
    if len(x) == 0:
        raise DataError("recall needs at least one query")
    truth = neighbours(exact, x, k, threads)
    with store.threads(threads):
        start = time.perf_counter()
        _, found = store.search(index, x, k)
        seconds = time.perf_counter() - start
    hits = (found[:, :, None] == truth[:, None, :]).any(axis=2)
    return Recall(float(hits.mean()), k, len(x), len(x) / seconds, threads)


def neighbours(exact: Index | ArrayLike, queries: ArrayLike, k: int, threads: int = 1) -> NDArray[np.int64]:
    """Return the ids of the k exact neighbours, (Q, k), from any of the forms that `measure_recall` takes."""
    if not hasattr(exact, "ntotal"):
        given = np.asarray(exact)
        if np.issubdtype(given.dtype, np.integer):
            if given.ndim != 2 or len(given) != len(np.asarray(queries)) or given.shape[1] < k:
                raise DataError(
                    f"exact neighbours must be {len(np.asarray(queries))} x {k} ids or more, not {given.shape}"
                )
            return given[:, :k].astype(np.int64)
        empty = store.create("flat", given.shape[-1], {})
        exact = add(empty, given, np.arange(len(given)), threads)
    with store.threads(threads):
        found = store.search(exact, queries, k)[1]
    if found.shape[1] < k:
        raise DataError(f"{k} exact neighbours of {found.shape[1]} vectors")
    return found


def tune(
    index: Index, queries: ArrayLike, exact: Index | ArrayLike, k: int = 10, recall: float = 0.95, threads: int = 1
) -> Tuned:
    """Give the index the cheapest settings that reach `recall` on every other query, measured on those between.

    Cost is counted, not timed, so that the same index gets the same settings: vectors scanned, and `RERANK_COST` for
    each candidate measured again. Settings below ones that failed are skipped. Where none reaches the recall, the
    index gets those with the highest. `exact` as in `measure_recall`.
    """
    x = np.asarray(queries)
    if len(x) < 2:
        raise DataError(
            f"tuning needs two queries or more, not {len(x)}: it is measured on others than it is chosen on"
        )
    truth = neighbours(exact, x, k, threads)
    failed: list[dict[str, int]] = []
    best: tuple[float, dict[str, int]] = (-1.0, {})
    for settings in _by_cost(index, k):
        if any(all(settings[name] <= value for name, value in other.items()) for other in failed if other):
            continue
        store.configure(index, settings)
        got = measure_recall(index, x[::2], truth[::2], k, threads).recall
        if got > best[0]:
            best = got, settings
        if got >= recall:
            break
        failed.append(settings)
    store.configure(index, best[1])
    measured = measure_recall(index, x[1::2], truth[1::2], k, threads)
    return Tuned(best[1], recall, best[0] >= recall, best[0], measured)


def _by_cost(index: Index, k: int) -> list[dict[str, int]]:
    """Every combination of settings of the index's kind, cheapest first."""
    kind, nlist = store.kind_of(index), store.nlist_of(index)
    probes = sorted({min(nlist, step << power) for power in range(nlist.bit_length()) for step in (2, 3)} | {1, nlist})
    per_list = index.ntotal / nlist
    if kind == "ivf_sq8":
        return [{"nprobe": probe} for probe in probes]
    if kind == "ivf_pq_refined":
        grid = [{"nprobe": probe, "k_factor": factor} for probe in probes for factor in FACTORS]
        return sorted(grid, key=lambda s: (s["nprobe"] * per_list + RERANK_COST * k * s["k_factor"], s["nprobe"]))
    return [{"efSearch": ef} for ef in EF_SEARCH if ef >= k] if kind == "hnsw" else [{}]


def record(index: Index, choice: Choice, tuned: Tuned, **more: Any) -> dict[str, Any]:
    """Return what to keep beside the index, ready for JSON: what it is, its bytes, its settings and its recall."""
    size = store.size(index)
    said: Mapping[str, Any] = {
        "kind": choice.kind,
        "dimensions": choice.dimensions,
        "parameters": choice.parameters,
        "note": choice.note,
        "faiss": store.VERSION,
        "vectors": int(index.ntotal),
        "bytes": size,
        "bytes_per_vector": size / max(1, index.ntotal),
        "settings": tuned.settings,
        "recall_wanted": tuned.wanted,
        "recall_reached": tuned.reached,
        "recall_chosen_on": tuned.recall_chosen_on,
        **asdict(tuned.measured),
    }
    return {**said, **more}
