"""Average precision of one list in random order: every arrangement counted, or arrangements drawn.

An arrangement is the set of ranks r_1 < ... < r_M that M positives have among N wells; its AP is (1/M) sum i / r_i.
Under copairs' null all C(N, M) of them are equally likely. p_values.py makes p-values of the counts.
"""

from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.retrieval.arrays import Floats, Ints
from sdvae_ray.retrieval.ranking.ranges import numbers_of_ranges

# Ways to place all positives but the last that are listed to count: 230 MiB, and 3 s for 300 thresholds. Three positives
# among 2,897 wells are within it (4e9 arrangements), four among 295, five among 102, two among four million.
_LISTED = 1 << 22
_BLOCK = 1 << 16  # of these ways, compared at a time
_DRAWN = 1 << 18  # ranks drawn at a time: they stay in the cache
_WALKED = 1 << 16  # lists walked down at a time
# Lists with fewer wells than this for every positive are walked down, unless few draws repeat a rank: M^2 <= 2 N.
_DENSE = 8
# Positives up to which exchanging neighbours sorts all rows sooner than sorting each.
_EXCHANGED = 16


def is_countable(positives: int, total: int) -> bool:
    """Return whether `arrangements_reaching` can count every arrangement: C(N - 1, M - 1) is at most 2^22."""
    return 1 <= positives <= total and comb(total - 1, positives - 1) <= _LISTED


def arrangements_reaching(positives: int, total: int, least: ArrayLike) -> Ints:
    """Return how many of the C(total, positives) arrangements have AP >= each of `least`; least (T,) -> (T,) int64.

    Sums of M + 1 terms are rounded, so choose a `least` that is not exactly a possible AP. All places of the first M - 1
    positives are listed; the places of the last positive are counted, because its term falls with its rank. Raises ValueError
    if there are too many arrangements (`is_countable`).
    """
    if not is_countable(positives, total):
        raise ValueError(f"{positives} of {total} wells have too many arrangements to be counted")
    last, sums = _all_but_the_last(positives, total)
    best = sums + positives / (last + 1)
    order = np.argsort(-best)
    last, sums, best = last[order], sums[order], best[order]
    needed = np.asarray(least, dtype=np.float64) * positives
    reaching = np.searchsorted(-best, -needed, side="right")
    out = np.zeros(needed.shape, dtype=np.int64)
    lowest = positives / (total + 0.5)  # less than what the last rank of all adds
    for start in range(0, len(last), _BLOCK):
        for i in np.flatnonzero(reaching > start):
            part = slice(start, min(start + _BLOCK, int(reaching[i])))
            rank = (positives / np.maximum(needed[i] - sums[part], lowest)).astype(np.int64)
            out[i] += np.maximum(rank - last[part], 0).sum()
    return out


def _all_but_the_last(positives: int, total: int) -> tuple[Ints, Floats]:
    """Return r_(M-1) and the sum over i < M of i / r_i, for all ways to place M - 1 positives that leave room for one more."""
    last, sums = np.zeros(1, dtype=np.int64), np.zeros(1)
    for i in range(1, positives):
        stop = np.full(len(last), total - positives + i + 1)
        sums = np.repeat(sums, stop - last - 1)
        last = numbers_of_ranges(last + 1, stop)
        sums += i / last
    return last, sums


def draw_arrangements(positives: int, total: int, draws: int, random: np.random.Generator) -> Floats:
    """Return the AP of uniformly random arrangements, (draws,).

    A draw costs O(positives), whatever the length of the list; O(total) if more than an eighth of the list is positive.
    """
    dtype = np.uint16 if total <= 1 << 16 else np.uint32
    dense = positives * _DENSE > total and positives**2 > 2 * total
    out = np.empty(draws)
    size = _WALKED if dense else max(1, _DRAWN // positives)
    for start in range(0, draws, size):
        part = out[start : start + size]
        part[:] = 0
        if dense:
            _walk(part, positives, total, random, dtype)
        else:
            for i, rank in enumerate(_ranks(positives, total, len(part), random, dtype), 1):
                part += i / (rank + 1.0)
    out /= positives
    return out


def _walk(
    out: Floats, positives: int, total: int, random: np.random.Generator, dtype: type[np.unsignedinteger]
) -> None:
    """Add to `out` the sums of i / r_i, walking down each list: a rank is positive with probability (positives left) / (wells
    left).
    """
    left = np.full(len(out), positives, dtype=dtype)
    for rank in range(1, total + 1):
        is_positive = random.integers(0, total - rank + 1, len(out), dtype=dtype) < left
        left -= is_positive
        seen = positives - left
        seen *= is_positive
        out += seen * (1 / rank)


def _ranks(
    positives: int, total: int, draws: int, random: np.random.Generator, dtype: type[np.unsignedinteger]
) -> NDArray[np.unsignedinteger]:
    """Return (M, B) ranks from 0, ascending in each column.

    Ranks are drawn, and a rank that repeats is drawn again. At every step each set of d distinct ranks is as likely as any
    other, so at the end each set of M is.
    """
    ranks = _ascending(random.integers(0, total, (positives, draws), dtype=dtype))
    again = np.flatnonzero((ranks[1:] == ranks[:-1]).any(axis=0))
    while len(again):
        some = ranks[:, again]
        repeated = some[1:] == some[:-1]
        some[1:][repeated] = random.integers(0, total, np.count_nonzero(repeated), dtype=dtype)
        some = _ascending(some)
        ranks[:, again] = some
        again = again[(some[1:] == some[:-1]).any(axis=0)]
    return ranks


def _ascending(ranks: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """Sort every column."""
    if len(ranks) > _EXCHANGED:
        return np.sort(ranks.T, axis=1).T
    for stop in range(len(ranks) - 1, 0, -1):
        for i in range(stop):
            smaller = np.minimum(ranks[i], ranks[i + 1])
            np.maximum(ranks[i], ranks[i + 1], out=ranks[i + 1])
            ranks[i] = smaller
    return ranks
