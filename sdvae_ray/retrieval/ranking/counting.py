"""Counting: how many of a query's negatives are above, and how many level with, each of its positives.

The similarities of a block of queries with a block of candidates are compared with the positives' own and forgotten.
Where the working precision cannot tell, the pairs in doubt are computed again, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.retrieval.ranking.average_precision import Floats, Ints, Ties, tie_runs
from sdvae_ray.retrieval.ranking.pairs import Bools
from sdvae_ray.retrieval.ranking.similarity import Similarity, rank_keys

FEW = 16  # positives: above it, sorting a block costs less than comparing it with each of them
# A block that is sorted has so many times more candidates, and fewer queries: every list is searched less often.
WIDE = 8
_DOUBTFUL = 0.02  # of a block's pairs: above it, the whole block is computed exactly
_ELEMENTS = 1 << 22  # of an array of classes gathered at a time


@dataclass
class Positives:
    """The positives of a batch of lists, flat, list after list and best first within each.

    owner   (E,) the list
    key     (E,) equal where two of a list are level, in copairs' order where that is the rule
    low, high  (E,) float64 scores between which a negative is level with it (or, copairs, in doubt)
    """

    owner: Ints
    key: NDArray[np.floating]
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Classes:
    """Wells that share all of pos_sameby (and one label). A list is one membership: a well in a class.

    member        (N,) wells, class after class
    start, stop   (N,) the bounds of its class in `member`
    different     codes (W,) of pos_diffby
    """

    member: Ints
    start: Ints
    stop: Ints
    different: Sequence[Ints]

    def positives(self, similarity: Similarity, lists: Ints, ties: Ties, block: int) -> Positives:
        """Of the given memberships (sorted)."""
        found = [self._of_size(similarity, part, ties) for part in self._parts(lists, similarity, block)]
        empty = Positives(lists[:0], np.empty(0), np.empty(0), np.empty(0))
        columns = ("owner", "key", "low", "high")
        flat = [np.concatenate([getattr(part, name) for part in (empty, *found)]) for name in columns]
        order = np.argsort(flat[0], kind="stable")
        return Positives(*(values[order] for values in flat))

    def _parts(self, lists: Ints, similarity: Similarity, block: int) -> Iterator[Ints]:
        """Lists whose classes are of one size, as many as may be gathered at a time; never half a small class."""
        sizes = self.stop[lists] - self.start[lists]
        for size in np.unique(sizes[sizes > 1]).tolist():
            alike = lists[sizes == size]
            first = np.concatenate([[True], self.start[alike][1:] != self.start[alike][:-1]])
            starts = np.flatnonzero(first)
            if size > block:
                cuts = np.arange(0, len(alike), max(1, block // 4))
                cuts = np.union1d(cuts, starts)  # one class at a time
            else:
                cuts = starts[:: max(1, _ELEMENTS // (size * max(size, similarity.features)))]
            yield from np.split(alike, cuts[1:])

    def _of_size(self, similarity: Similarity, lists: Ints, ties: Ties) -> Positives:
        size = int(self.stop[lists[0]] - self.start[lists[0]])
        starts, which = np.unique(self.start[lists], return_inverse=True)
        others = self.member[starts[:, None] + np.arange(size)]
        own, place = self.member[lists], lists - self.start[lists]
        alone = len(starts) == 1
        scores = similarity.scores(own, others[0]) if alone else similarity.scores(others, others)[which, place]
        mine = others[which]
        no = np.arange(size) == place[:, None]
        for code in self.different:
            no |= code[mine] == code[own][:, None]
        scores[no] = -np.inf
        scores = -np.sort(-scores, axis=1)[:, : size - 1]
        real = np.arange(size - 1) < (size - no.sum(axis=1))[:, None]
        owner = np.broadcast_to(lists[:, None], real.shape)[real]
        if ties == "copairs":
            low, high = similarity.levels(scores[real], ties)
            return Positives(owner, rank_keys(similarity, scores[real], ties), low, high)
        # a run of positives each level with the next is one level, and a negative is level with it or with none of it
        low, high = similarity.levels(np.where(real, scores, 0), ties)
        key = np.zeros(scores.shape)
        key[:, 1:] = np.cumsum(np.where(real[:, 1:], scores[:, 1:] < low[:, :-1], True), axis=1)
        start, stop = tie_runs(key)
        low, high = np.take_along_axis(low, stop - 1, axis=1), np.take_along_axis(high, start, axis=1)
        return Positives(owner, key[real], low[real], high[real])


@dataclass(frozen=True)
class Block:
    """Queries with their positives side by side.

    rows           (R,) wells
    low, high, key (R, K), infinite where a query has fewer than K; low and high without gaps in their order
    """

    rows: Ints
    low: Floats
    high: Floats
    key: NDArray[np.floating]

    def count(self, similarity: Similarity, columns: slice, no: Bools | None, ties: Ties) -> tuple[Ints, Ints]:
        """Return the negatives (above, above or level), (R, K) each, among the candidates in `columns`.

        no: (R, C) where a candidate is no negative. With ties="copairs" both are the negatives above.
        """
        if not similarity.exact:
            found = similarity.product(self.rows, columns)
            if no is not None:
                found[no] = -np.inf
            error = similarity.error(self.rows, columns)
            low = np.maximum(self.low - error, np.finfo(found.dtype).min).astype(found.dtype)
            high = (self.high + error).astype(found.dtype)
            sure, maybe = _count(found, low, high)
            doubt = maybe - sure
            if doubt.sum() <= _DOUBTFUL * found.size:
                return self._settle(similarity, columns, found, (low, high), (sure, doubt), ties)
            exact = similarity.scores(self.rows, np.arange(columns.start, columns.stop))
        else:
            exact = np.asarray(similarity.product(self.rows, columns), dtype=np.float64)
        if ties == "average":
            if no is not None:
                exact[no] = -np.inf
            return _count(exact, self.low, self.high)
        keys = rank_keys(similarity, exact, ties)
        if no is not None:
            keys[no] = -np.inf
        above = _count(keys, None, self.key)[0]
        return above, above

    def _settle(
        self,
        similarity: Similarity,
        columns: slice,
        found: NDArray[np.floating],
        limits: tuple[NDArray[np.floating], NDArray[np.floating]],
        counts: tuple[Ints, Ints],
        ties: Ties,
    ) -> tuple[Ints, Ints]:
        """Ask the pairs in doubt."""
        (low, high), (above, doubt) = limits, counts
        level = above.copy()
        rows, which = np.nonzero(doubt)
        for part in np.split(np.arange(len(rows)), np.arange(len(found), len(rows), len(found))):
            row, k = rows[part], which[part]
            near = found[row]
            hit, column = np.nonzero((near >= low[row, k, None]) & (near <= high[row, k, None]))
            row, k = row[hit], k[hit]
            scores = similarity.pairs(self.rows[row], columns.start + column)
            if ties == "average":
                is_above, is_level = scores > self.high[row, k], scores >= self.low[row, k]
            else:
                is_above = is_level = rank_keys(similarity, scores, ties) > self.key[row, k]
            np.add.at(above, (row, k), is_above)
            np.add.at(level, (row, k), is_level)
        return above, level


def _count(
    found: NDArray[np.floating], low: NDArray[np.floating] | None, high: NDArray[np.floating]
) -> tuple[Ints, Ints]:
    """Return how many of each row are above `high` and, unless low is None, how many not below `low`; (R, K) each."""
    above, level = np.zeros(high.shape, dtype=np.int64), np.zeros(high.shape, dtype=np.int64)
    if high.shape[1] <= FEW:
        rows, columns = found.shape
        hits = np.zeros((rows, -(-columns // 8) * 8), dtype=bool)
        for j in range(high.shape[1]):
            np.greater(found, high[:, j, None], out=hits[:, :columns])
            above[:, j] = _true(hits)
            if low is not None:
                np.greater_equal(found, low[:, j, None], out=hits[:, :columns])
                level[:, j] = _true(hits)
        return above, level
    # both counts in one search: what is above `high` is not below the next number
    limits = np.nextafter(high, np.array(np.inf, dtype=high.dtype))
    limits = limits if low is None else np.concatenate([limits, low], axis=1)
    ascending = np.sort(found, axis=1)
    for row, each in enumerate(limits):
        reached = found.shape[1] - ascending[row].searchsorted(each)
        above[row] = reached[: high.shape[1]]
        if low is not None:
            level[row] = reached[high.shape[1] :]
    return above, level


def _true(hits: Bools) -> Ints:
    """(R, 8n) -> (R,): eight bytes are added at a time, in sums too short to carry from one byte to the next."""
    words = hits.view(np.uint64)
    out = np.zeros(len(hits), dtype=np.int64)
    for start in range(0, words.shape[1], 255):
        sums = np.add.reduce(words[:, start : start + 255], axis=1)
        out += sums.view(np.uint8).reshape(-1, 8).sum(axis=1, dtype=np.int64)
    return out
