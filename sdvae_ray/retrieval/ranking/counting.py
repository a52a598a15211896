"""Counting: how many of a query's negatives are above, and how many level with, each of its positives.

The scores of a block of queries with a block of candidates are compared with the positives' own scores and forgotten.
Where the product's error leaves a pair in doubt, that pair's score is computed again, exactly.
"""

from dataclasses import dataclass

import numpy as np

from sdvae_ray.retrieval.arrays import Bools, Floats, Ints, Profiles
from sdvae_ray.retrieval.ranking.formula import Ties
from sdvae_ray.retrieval.ranking.similarity import Euclidean, Similarity, copairs_keys

FEW = 16  # positives: above it, sorting a block costs less than comparing it with each of them
_DOUBTFUL = 0.02  # of a block's pairs: above it, the whole block is computed exactly


@dataclass(frozen=True)
class QueryBlock:
    """R queries and the scores of their positives, K columns, from the arrays of `Positives`.

    rows           (R,) wells
    low, high, key (R, K), infinite if a query has fewer than K positives
    """

    rows: Ints
    low: Floats
    high: Floats
    key: Profiles

    def count(self, similarity: Similarity, columns: slice, no_negative: Bools | None, ties: Ties) -> tuple[Ints, Ints]:
        """Return how many candidates in `columns` are negatives (above, level with) each positive, both (R, K) int64.

        no_negative: (R, C), True if a candidate is not a negative; None: all are. With ties="copairs" no candidate is level.
        """
        scores = similarity.product(self.rows, columns)
        if isinstance(similarity, Euclidean):
            error = similarity.error(self.rows, columns)
            low, high = np.maximum(self.low - error, np.finfo(np.float64).min), self.high + error
            above, doubtful = _above_and_level(_without(scores, no_negative), low, high)
            if doubtful.sum() <= _DOUBTFUL * scores.size:
                return self._settled(similarity, columns, scores, (low, high), (above, doubtful), ties)
            scores = similarity.scores(self.rows, np.arange(columns.start, columns.stop))
        if ties == "average":
            return _above_and_level(_without(scores, no_negative), self.low, self.high)
        above = _counts(_without(copairs_keys(similarity, scores), no_negative), None, self.key)[0]
        return above, np.zeros_like(above)

    def _settled(
        self,
        similarity: Euclidean,
        columns: slice,
        scores: Floats,
        bounds: tuple[Floats, Floats],
        counts: tuple[Ints, Ints],
        ties: Ties,
    ) -> tuple[Ints, Ints]:
        """Return (above, level) after the doubtful pairs are computed again, exactly. bounds: (low, high), a pair is in doubt if
        its score is between them."""
        (low, high), (above, doubtful) = bounds, counts
        level = np.zeros_like(above)
        rows, positives = np.nonzero(doubtful)
        for part in np.split(np.arange(len(rows)), np.arange(len(scores), len(rows), len(scores))):
            row, k = rows[part], positives[part]
            near = scores[row]
            pair, column = np.nonzero((near >= low[row, k, None]) & (near <= high[row, k, None]))
            row, k = row[pair], k[pair]
            exact = similarity.pairs(self.rows[row], columns.start + column)
            if ties == "average":
                is_above = exact > self.high[row, k]
                np.add.at(level, (row, k), ~is_above & (exact >= self.low[row, k]))
            else:
                is_above = copairs_keys(similarity, exact) > self.key[row, k]
            np.add.at(above, (row, k), is_above)
        return above, level


def _without(scores: Profiles, no_negative: Bools | None) -> Profiles:
    """Return the scores (R, C), changed in place: -inf if no_negative (R, C) is True."""
    if no_negative is not None:
        scores[no_negative] = -np.inf
    return scores


def _above_and_level(scores: Profiles, low: Floats, high: Floats) -> tuple[Ints, Ints]:
    """Return how many numbers of each row of scores (R, C) are above high (R, K), and how many are from low to high; (R, K)
    each.
    """
    above, at_least = _counts(scores, low, high)
    return above, at_least - above


def _counts(scores: Profiles, low: Profiles | None, high: Profiles) -> tuple[Ints, Ints]:
    """Return how many numbers of each row are above `high` and how many are at least `low`, (R, K) each; low None: zeros."""
    above, at_least = np.zeros(high.shape, dtype=np.int64), np.zeros(high.shape, dtype=np.int64)
    if high.shape[1] <= FEW:
        rows, columns = scores.shape
        hits = np.zeros((rows, -(-columns // 8) * 8), dtype=bool)
        for k in range(high.shape[1]):
            np.greater(scores, high[:, k, None], out=hits[:, :columns])
            above[:, k] = _true_per_row(hits)
            if low is not None:
                np.greater_equal(scores, low[:, k, None], out=hits[:, :columns])
                at_least[:, k] = _true_per_row(hits)
        return above, at_least
    # both counts in one search: what is above `high` is not below the next number
    limits = np.nextafter(high, np.array(np.inf, dtype=high.dtype))
    limits = limits if low is None else np.concatenate([limits, low], axis=1)
    ascending = np.sort(scores, axis=1)
    for row, limit in enumerate(limits):
        reached = scores.shape[1] - ascending[row].searchsorted(limit)
        above[row] = reached[: high.shape[1]]
        if low is not None:
            at_least[row] = reached[high.shape[1] :]
    return above, at_least


def _true_per_row(hits: Bools) -> Ints:
    """Return the number of True in each row of hits (R, 8n), (R,) int64. Eight bytes are added at a time, in sums too short to
    carry from one byte to the next."""
    words = hits.view(np.uint64)
    out = np.zeros(len(hits), dtype=np.int64)
    for start in range(0, words.shape[1], 255):
        sums = np.add.reduce(words[:, start : start + 255], axis=1)
        out += sums.view(np.uint8).reshape(-1, 8).sum(axis=1, dtype=np.int64)
    return out
