"""Nearest-neighbour recall from the results of a search: arrays of ids in, one number per query out. No index is opened.

Ids are row numbers of the arrays of labels. One group (cell line and time) at a time: the caller searches an index
that holds this group's wells only.
"""

import numpy as np
from numpy.typing import ArrayLike

from sdvae_ray.retrieval.arrays import Bools, Floats, Ints


def replicate_recall(neighbours: Ints, queries: Ints, compound: ArrayLike, is_treated: Bools, k: int) -> Floats:
    """Return the share of a treated well's replicates that are among its k nearest other wells, (Q,) in [0, 1].

    neighbours: (Q, K) ids, nearest first, of all wells (treated and control) of the group, with K >= k + 1 or K >= all wells:
    the query itself is taken out. queries: (Q,) ids of treated wells. compound: (W,) text or codes, by id. is_treated: (W,)
    bool, by id; a well that is not treated is nobody's replicate. NaN if a query has no replicate. A query with more than k
    replicates reaches k / replicates at most. Raises ValueError for shapes that do not fit and for k < 1.
    """
    if neighbours.ndim != 2 or queries.shape != (len(neighbours),):
        raise ValueError(f"{neighbours.shape} neighbours do not fit {queries.shape} queries")
    names, codes = np.unique(np.asarray(compound).astype(str), return_inverse=True)
    nearest = without_the_query(neighbours, queries, k, len(codes))
    hits = (codes[nearest] == codes[queries][:, None]) & is_treated[nearest] & (nearest >= 0)
    replicates = np.bincount(codes[is_treated], minlength=len(names))[codes[queries]] - is_treated[queries]
    return np.asarray(hits.sum(axis=1) / np.where(replicates > 0, replicates, np.nan))


def without_the_query(neighbours: Ints, queries: Ints, k: int, wells: int) -> Ints:
    """Return the ids of the k nearest wells that are not the query, (Q, k) or fewer columns; -1 fills a row that is short."""
    if k < 1 or neighbours.shape[1] < min(k + 1, wells):
        raise ValueError(f"{neighbours.shape[1]} neighbours a query are too few for recall at k = {k}")
    itself = neighbours == queries[:, None]
    order = np.argsort(itself, axis=1, kind="stable")  # the query itself goes last, the others keep their order
    return np.take_along_axis(np.where(itself, -1, neighbours), order, axis=1)[:, :k]
