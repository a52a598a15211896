"""Pseudo-compounds: wells drawn in a compound's place, and the mean average precision that they get.

Ranks come from exchange_ranks.py and uniform numbers from exchange.py; here is the arithmetic of a draw. Arrays have
draws along their last axis, and few replicates are sorted by a network of minima and maxima over all draws at once.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.retrieval.arrays import Floats, Ints
from sdvae_ray.retrieval.ranking.formula import Ties, average_precision_of_counts, runs_of_equals
from sdvae_ray.retrieval.significance.exchange_ranks import Ranks

_CHUNK = 1 << 16  # ranks gathered at a time: what a core's own cache holds
_NETWORK = 16  # more positives than this are sorted by np.sort
_LEVEL = 31  # bits of each packed count where wells are level


class Scorer:
    """Computes the mean AP of any R wells of a pool: np.nanmean, over the queries, of what average_precision would give.

    ranks: the ranks of the P wells of the pool. own: (R,) places of the compound's wells; well i of a draw takes the place own[i].
    queries: (Q,) indices into `own` of the wells that have a negative.
    """

    def __init__(self, ranks: Ranks, own: Ints, queries: Ints, ties: Ties) -> None:
        self._queries, self._ties = queries, ties
        place = np.arange(len(own) - 1)[:, None]
        self._others = place + (place >= queries)  # (R - 1, Q), the columns that are not the query's own
        self._size = len(ranks.scope)
        self._apart = len(np.unique(ranks.scope[own])) == len(own)  # no drawn well is among another's negatives
        self._tied = ranks.level is not None and not (self._apart and ties == "copairs")
        self._packed = self._fields(ranks).ravel()

    def _fields(self, ranks: Ranks) -> NDArray[np.signedinteger]:
        """Return (P, P) integers that pack three fields and sort as the row does: wells above, wells level, is the column a
        negative.
        """
        if ranks.level is not None and self._tied:
            return (ranks.above.astype(np.int64) << _LEVEL | ranks.level) << 1 | ranks.local()
        return ranks.above if self._apart else ranks.above << 1 | ranks.local()

    def mean_ap(self, drawn: Ints) -> Floats:
        """Return the mean AP (B,) of B draws; drawn: (R, B) places in the pool."""
        out = np.empty(drawn.shape[1])
        step = max(1, _CHUNK // self._others.size)
        for start in range(0, len(out), step):
            part = drawn[:, start : start + step]
            cells = self._packed.take(part[self._queries] * self._size + part[self._others])
            out[start : start + step] = self._of_tied(cells) if self._tied else self._of_cells(cells)
        return out

    def _of_cells(self, cells: NDArray[np.signedinteger]) -> Floats:
        """Return the mean AP (B,) from numbers of wells above, (R - 1, Q, B). A number has one more bit if a drawn well can be a
        negative of another: the bit says that the well is one."""
        cells = _sorted(cells)
        total = np.zeros(cells.shape[1:])
        rank = np.empty(cells.shape[1:])
        drawn_above = np.zeros(cells.shape[1:], dtype=cells.dtype)
        for position, above in enumerate(cells, start=1):
            if self._apart:
                np.add(above, float(position), out=rank)
            else:
                np.add((above >> 1) - drawn_above, float(position), out=rank)
                drawn_above += above & 1
            total += np.divide(position, rank, out=rank)
        return np.asarray(total.sum(axis=0) / cells[..., 0].size)

    def _of_tied(self, cells: Ints) -> Floats:
        """Return the mean AP (B,) from the packed counts (R - 1, Q, B) of `_fields`, in which wells may be level."""
        cells = np.sort(np.moveaxis(cells, 0, -1), axis=-1)  # (Q, B, R - 1)
        local = cells & 1
        local_before = np.cumsum(local, axis=-1) - local
        keys = cells >> 1
        start, stop = runs_of_equals(keys)
        drawn_above = np.take_along_axis(local_before, start, axis=-1)
        drawn_level = np.take_along_axis(local_before + local, stop - 1, axis=-1) - drawn_above
        above, level = keys >> _LEVEL, keys & ((1 << _LEVEL) - 1)
        return average_precision_of_counts(keys, above - drawn_above, level - drawn_level, self._ties).mean(axis=0)


def draw(uniform: Floats, pools: Sequence[Ints], counts: Sequence[int]) -> Ints:
    """Return places (R, B): counts[i] distinct places of pools[i], for one pool after the other. uniform: (B, R) random numbers in
    [0, 1)."""
    columns = np.ascontiguousarray(uniform.T)
    first, parts = 0, []
    for pool, count in zip(pools, counts, strict=True):
        parts.append(pool[_distinct(columns[first : first + count], len(pool))])
        first += count
    return np.concatenate(parts)


def _distinct(uniform: Floats, size: int) -> Ints:
    """Return (k, B) distinct integers of [0, size) from (k, B) uniforms: a partial Fisher-Yates shuffle.

    It swaps place i with a later place, k times. A place that no swap has reached holds its own number, so the `size` numbers
    need not be stored for each draw.
    """
    count = len(uniform)
    reached = np.empty(uniform.shape, dtype=np.int64)
    moved = np.empty(uniform.shape, dtype=np.int64)  # what swap i left at place reached[i]
    out = np.empty(uniform.shape, dtype=np.int64)
    for i in range(count):
        reached[i] = i + (uniform[i] * (size - i)).astype(np.int64)
        here, there = np.full(uniform.shape[1], i), reached[i].copy()
        for j in range(i):
            np.copyto(here, moved[j], where=reached[j] == i)
            np.copyto(there, moved[j], where=reached[j] == reached[i])
        moved[i], out[i] = here, there
    return out


def _sorted(cells: NDArray[np.signedinteger]) -> NDArray[np.signedinteger]:
    """Sort along the first axis, in place."""
    if len(cells) > _NETWORK:
        return np.sort(cells, axis=0)
    for i, j in _comparators(len(cells)):
        low = np.minimum(cells[i], cells[j])
        np.maximum(cells[i], cells[j], out=cells[j])
        cells[i] = low
    return cells


@cache
def _comparators(size: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs (i, j), i < j, of a sorting network: Batcher's merge exchange (Knuth, TAOCP 3, 5.2.2, M)."""
    pairs = []
    top = 1 << max(0, (size - 1).bit_length() - 1)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(size - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return tuple(pairs)
