"""The recall of an approximate index, and the cheapest settings of its search that reach a recall.

    tuned = tune(index, queries, exact, k, recall)     # sets nprobe and k_factor
    record(index, choice, tuned)                       # to keep beside the index

Measure with queries that are not in the index: a query that is in it finds itself.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.retrieval.index import faiss_index
from sdvae_ray.retrieval.index.approximate import Choice
from sdvae_ray.retrieval.index.faiss_index import Index

RERANK_COST = 300  # vectors scanned in the time that it takes to refine one candidate's similarity
FACTORS = (1, 2, 4, 8, 16, 32, 64)  # candidates that are refined, over k


@dataclass(frozen=True)
class Recall:
    """The measured recall of an index on some queries.

    recall: mean share, in [0, 1], of the k exact neighbours that a search found. Neighbours are compared by id, so an equally
    near vector with another id does not count. threads: FAISS threads while `queries_per_second` was measured.
    """

    recall: float
    k: int
    queries: int
    queries_per_second: float
    threads: int


@dataclass(frozen=True)
class Tuned:
    """Search settings that were chosen on one half of the queries, and the recall `measured` on the other half.

    recall_chosen_on: the recall on the half that chose the settings. reached: whether recall_chosen_on is at least `wanted`.
    """

    settings: dict[str, int]
    wanted: float
    reached: bool
    recall_chosen_on: float
    measured: Recall


def measure_recall(index: Index, queries: ArrayLike, exact: NDArray[np.int64], k: int = 10) -> Recall:
    """Return recall@k and speed on `queries`, (Q, D), which should not be in the index. exact: ids of the exact neighbours,
    nearest first, (Q, K) with K >= k. Raises ValueError for other shapes and for no queries."""
    x = np.asarray(queries)
    if len(x) == 0 or len(exact) != len(x) or exact.shape[1] < k:
        raise ValueError(f"exact neighbours of {len(x)} queries must be {len(x)} x {k} ids or more, not {exact.shape}")
    start = time.perf_counter()
    _, ids = faiss_index.search(index, x, k)
    seconds = time.perf_counter() - start
    hits = (ids[:, :, None] == exact[:, None, :k]).any(axis=2)
    return Recall(float(hits.mean()), k, len(x), len(x) / seconds, faiss_index.thread_count())


def tune(index: Index, queries: ArrayLike, exact: NDArray[np.int64], k: int = 10, recall: float = 0.95) -> Tuned:
    """Set the cheapest settings that reach `recall` on every second query, measure them on the other queries, and return both.

    Cost is counted, not timed, so that the same index gets the same settings: a vector scanned costs 1, and a candidate that is
    refined costs `RERANK_COST`. Settings are skipped if wider settings have already failed. If no settings reach the recall,
    the index gets the settings with the highest recall. exact: see `measure_recall`. Raises ValueError for fewer than two
    queries.
    """
    x = np.asarray(queries)
    if len(x) < 2:
        raise ValueError(f"tuning needs two queries or more, not {len(x)}: some to choose on, others to measure")
    failed: list[dict[str, int]] = []
    best: tuple[float, dict[str, int]] = (-1.0, {})
    for settings in _by_cost(index, k):
        if any(all(settings[name] <= value for name, value in wider.items()) for wider in failed if wider):
            continue
        faiss_index.configure(index, settings)
        reached = measure_recall(index, x[::2], exact[::2], k).recall
        if reached > best[0]:
            best = reached, settings
        if reached >= recall:
            break
        failed.append(settings)
    faiss_index.configure(index, best[1])
    return Tuned(best[1], recall, best[0] >= recall, best[0], measure_recall(index, x[1::2], exact[1::2], k))


def _by_cost(index: Index, k: int) -> list[dict[str, int]]:
    """Return every combination of settings of the index's kind, cheapest first."""
    kind, nlist = faiss_index.kind_of(index), faiss_index.nlist_of(index)
    if kind == "flat":
        return [{}]
    probes = sorted({min(nlist, step << power) for power in range(nlist.bit_length()) for step in (2, 3)} | {1, nlist})
    if kind == "ivf_sq8":
        return [{"nprobe": probe} for probe in probes]
    per_list = index.ntotal / nlist
    grid = [{"nprobe": probe, "k_factor": factor} for probe in probes for factor in FACTORS]
    return sorted(grid, key=lambda s: (s["nprobe"] * per_list + RERANK_COST * k * s["k_factor"], s["nprobe"]))


def record(index: Index, choice: Choice, tuned: Tuned, **more: Any) -> dict[str, Any]:
    """Return a JSON-ready record of the index: its kind, bytes, settings and recall, and the fields of `more`."""
    size = len(faiss_index.to_bytes(index))
    return {
        **asdict(choice),
        "faiss": faiss_index.VERSION,
        "vectors": int(index.ntotal),
        "bytes": size,
        "bytes_per_vector": size / max(1, index.ntotal),
        "settings": tuned.settings,
        "recall_wanted": tuned.wanted,
        "recall_reached": tuned.reached,
        "recall_chosen_on": tuned.recall_chosen_on,
        **asdict(tuned.measured),
        **more,
    }
