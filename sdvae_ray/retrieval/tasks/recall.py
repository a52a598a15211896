"""Nearest-neighbour recall from search results: arrays of ids in, one value per query out. No index is opened here.

Ids are row numbers of the arrays of labels. One group (cell line and time) at a time: the caller searches an index
that holds this group's wells only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class ReplicateRecall:
    """One value per query. hit, recall: (Q,) float64, NaN where the query has no replicate.

    replicates: (Q,) int64, the other treated wells of its compound. hit: 1 if any of them is among the k nearest.
    recall: the fraction of them that is; at most k / replicates.
    """

    hit: NDArray[np.float64]
    recall: NDArray[np.float64]
    replicates: NDArray[np.int64]


@dataclass(frozen=True)
class ReconstructionRecall:
    """One value per query, all (Q,) float64 of 0 or 1 (NaN: undefined).

    same_well: the nearest original is the well's own. same_compound: one of the k nearest originals is of its compound,
    its own well included. other_replicate: the same with its own well left out; NaN where it has no replicate.
    """

    same_well: NDArray[np.float64]
    same_compound: NDArray[np.float64]
    other_replicate: NDArray[np.float64]


def replicate_recall(
    neighbours: ArrayLike, queries: ArrayLike, compound: ArrayLike, is_treated: ArrayLike, k: int
) -> ReplicateRecall:
    """Return whether treated wells find their replicates among their k nearest other wells.

    neighbours: (Q, K) int ids, nearest first, of all wells (treated and control) of the group, K >= k + 1 or all of
    them: the query itself is taken out. queries: (Q,) int ids. compound: (W,) text or codes by id; is_treated: (W,)
    bool by id; a well that is not treated is nobody's replicate.
    """
    found, ids, labels = _arrays(neighbours, queries, compound)
    treated = np.asarray(is_treated, dtype=bool)
    nearest = _without_self(found, ids, k, len(labels))
    replicates = _replicates(labels, treated, ids)
    same = _same_compound(nearest, ids, labels) & treated[nearest] & (nearest >= 0)
    some = np.where(replicates > 0, replicates, np.nan)
    recall = same.sum(axis=1) / some
    return ReplicateRecall(np.where(np.isnan(recall), np.nan, same.any(axis=1)), recall, replicates)


def reconstruction_recall(
    neighbours: ArrayLike, queries: ArrayLike, compound: ArrayLike, is_treated: ArrayLike, k: int
) -> ReconstructionRecall:
    """Return whether a well's reconstruction finds the original of the same well, and of the same compound.

    neighbours: (Q, K) int ids of originals nearest to each reconstruction, nearest first, K >= k + 1 or all originals.
    queries: (Q,) int, the id of each reconstruction's own original. compound, is_treated: (W,) by id.
    """
    found, ids, labels = _arrays(neighbours, queries, compound)
    treated = np.asarray(is_treated, dtype=bool)
    others = _without_self(found, ids, k, len(labels))
    other = (_same_compound(others, ids, labels) & treated[others] & (others >= 0)).any(axis=1)
    top = found[:, :k]
    own = top == ids[:, None]
    return ReconstructionRecall(
        same_well=(found[:, 0] == ids).astype(np.float64),
        same_compound=(_same_compound(top, ids, labels) & (treated[top] | own) & (top >= 0)).any(axis=1) * 1.0,
        other_replicate=np.where(_replicates(labels, treated, ids) > 0, other, np.nan),
    )


def _arrays(
    neighbours: ArrayLike, queries: ArrayLike, compound: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    found, ids = np.asarray(neighbours, dtype=np.int64), np.asarray(queries, dtype=np.int64)
    if found.ndim != 2 or ids.shape != (len(found),):
        raise ValueError(f"{found.shape} neighbours do not fit {ids.shape} queries")
    labels = np.unique(np.asarray(compound).astype(str), return_inverse=True)[1].ravel()
    return found, ids, labels.astype(np.int64)


def _replicates(labels: NDArray[np.int64], treated: NDArray[np.bool_], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    counts = np.bincount(labels[treated], minlength=int(labels.max(initial=0)) + 1)
    return np.asarray(counts[labels[ids]] - treated[ids], dtype=np.int64)


def _same_compound(
    neighbours: NDArray[np.int64], ids: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    return np.asarray(labels[neighbours] == labels[ids][:, None])


def _without_self(neighbours: NDArray[np.int64], ids: NDArray[np.int64], k: int, wells: int) -> NDArray[np.int64]:
    """Return the k nearest that are not the query, (Q, k) or fewer columns; -1 pads where there are no more."""
    if k < 1 or neighbours.shape[1] < min(k + 1, wells):
        raise ValueError(f"{neighbours.shape[1]} neighbours a query are too few for recall at k = {k}")
    own = neighbours == ids[:, None]
    order = np.argsort(own, axis=1, kind="stable")  # the query itself goes last, the others keep their order
    moved = np.take_along_axis(np.where(own, -1, neighbours), order, axis=1)
    return moved[:, :k]
