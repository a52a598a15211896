"""Average precision of every query well, by ranks: blocked matrix products and counting, never a list of pairs.

A query's list is its positives and its negatives in order of decreasing cosine similarity. Only the number of
negatives above (and level with) each positive is needed. What is a positive and what a negative is given by integer
keys; the words compound, plate and control live in activity.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma

from sdvae_ray.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Ties = Literal["average", "copairs"]

# Similarities closer than this are level: the rounding error of a matrix product depends on the block and on the order
# of rows, and must never decide an order.
SIMILARITY_STEP = 2.0**-40
_ROWS = 4096  # profiles looked at, at a time


@dataclass(frozen=True)
class AveragePrecision:
    """One value per well, in the order given.

    ap: (W,) float64 in (0, 1], NaN where the well is no query, or has no positive or no negative.
    positives, negatives: (W,) int64, the lengths of the two parts of its list, 0 where it is no query.
    zero_norm: (W,) bool, the profile is all zeros: it has no direction, and its similarity to every well is 0.
    """

    ap: Floats
    positives: Ints
    negatives: Ints
    zero_norm: NDArray[np.bool_]


def average_precision(
    features: ArrayLike,
    positive_key: ArrayLike,
    is_negative: ArrayLike,
    negative_key: ArrayLike,
    *,
    ties: Ties = "average",
    block: int = 1024,
) -> AveragePrecision:
    """Return the average precision of every well with positive_key >= 0, over its full list.

    features: (W, D) finite numbers. positive_key: (W,) int; wells that share a key >= 0 are each other's positives,
    -1 is no query. is_negative: (W,) bool. negative_key: (W,) int; a negative is in the list of the queries that
    share its negative_key (one key per group: the published cross-plate negatives; one key per plate: JUMP's recipe).

    AP = mean over positives of (positives so far / wells so far) at the positive's rank. ties="average" gives its mean
    over all orders of level wells (McSherry & Najork, ECIR 2008); ties="copairs" is that package's rule: similarities
    rounded to float32, ordered by 1 - similarity, positives first. block: wells per side of a matrix product; it
    changes memory, O(block^2 + wells x replicates), not results. Raises DataError for features that are not finite.
    """
    x, zero_norm = checked_profiles(features)
    positive, scope = np.asarray(positive_key, dtype=np.int64), np.asarray(negative_key)
    negative = np.asarray(is_negative, dtype=bool)
    if any(a.shape != (len(x),) for a in (positive, negative, scope)):
        raise ValueError(f"keys must have one entry for each of the {len(x)} profiles")
    if (negative & (positive >= 0)).any():
        raise ValueError("a well cannot be a query and a negative at once")
    ap = np.full(len(x), np.nan)
    n_positives, n_negatives = np.zeros(len(x), dtype=np.int64), np.zeros(len(x), dtype=np.int64)
    negatives_of = dict(grouped(scope, np.flatnonzero(negative)))
    for wells, keys in _positive_keys(x, positive, ties, block):
        above, level = np.zeros(keys.shape, dtype=np.int64), np.zeros(keys.shape, dtype=np.int64)
        n_positives[wells] = keys.shape[1]
        for code, rows in grouped(scope[wells], np.arange(len(wells))):
            against = negatives_of.get(code)
            if against is None:
                continue
            n_negatives[wells[rows]] = len(against)
            for part in _parts(rows, block):
                queries = unit_rows(x[wells[part]])[0]
                for others in _parts(against, block):
                    _count(queries, unit_rows(x[others])[0], keys[part], ties, above, level, part)
        if keys.shape[1]:
            ap[wells] = precision_of_counts(keys, above, level, ties)
    ap[n_negatives == 0] = np.nan
    return AveragePrecision(ap, n_positives, n_negatives, zero_norm)


def expected_average_precision(positives: ArrayLike, total: ArrayLike) -> Floats:
    """Return mu0, the mean AP over all orders of a list of `total` wells of which `positives` are positive.

    mu0(M, N) = (M - 1)/(N - 1) + (H_N / N)(N - M)/(N - 1), H_N the N-th harmonic number; NaN where M < 1 or M > N.
    """
    m, n = np.broadcast_arrays(np.asarray(positives, dtype=np.float64), np.asarray(total, dtype=np.float64))
    harmonic = digamma(n + 1) + np.euler_gamma
    rest = np.maximum(n - 1, 1)
    mu0 = np.where(n == 1, 1.0, (m - 1) / rest + harmonic / np.maximum(n, 1) * (n - m) / rest)
    return np.where((m < 1) | (m > n), np.nan, mu0)


def normalised_average_precision(ap: ArrayLike, positives: ArrayLike, total: ArrayLike) -> Floats:
    """Return (AP - mu0) / (1 - mu0): 0 at random, 1 when perfect, negative below random; NaN without negatives."""
    mu0 = expected_average_precision(positives, total)
    room = np.where(mu0 < 1, 1 - mu0, np.nan)
    return np.asarray((np.asarray(ap, dtype=np.float64) - mu0) / room)


def as_floating(features: ArrayLike) -> NDArray[np.floating]:
    """Return the features, not copied where they are floating-point numbers, else as float64."""
    x = np.asarray(features)
    return x if np.issubdtype(x.dtype, np.floating) else x.astype(np.float64)


def row_states(x: NDArray[np.floating]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return two (W,) bool of profiles (W, D): which rows have a number that is not finite, and which are all zeros.

    Takes some rows at a time. Raises ValueError if x is no matrix.
    """
    if x.ndim != 2:
        raise ValueError(f"profiles must be a matrix of wells x features, not of shape {x.shape}")
    unusable, zero = np.zeros(len(x), dtype=bool), np.zeros(len(x), dtype=bool)
    for start in range(0, len(x), _ROWS):
        part = slice(start, start + _ROWS)
        unusable[part] = ~np.isfinite(x[part]).all(axis=1)
        zero[part] = ~x[part].any(axis=1)
    return unusable, zero


def checked_profiles(features: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return the profiles as `as_floating` does, and which rows are all zeros; DataError if any number is not finite."""
    x = as_floating(features)
    unusable, zero_norm = row_states(x)
    if unusable.any():
        raise DataError(f"{int(unusable.sum())} profiles have features that are not finite")
    return x, zero_norm


def unit_rows(features: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the rows scaled to length 1 (all-zero rows stay zero) as (W, D) float64, and which rows are all zero."""
    x = np.asarray(features, dtype=np.float64)
    checked_profiles(x)
    largest = np.abs(x).max(axis=1, initial=0.0)
    zero_norm = largest == 0
    x = x / np.where(zero_norm, 1.0, largest)[:, None]  # first by the largest entry: squares then cannot underflow
    return x / np.where(zero_norm, 1.0, np.linalg.norm(x, axis=1))[:, None], zero_norm


def rank_keys(similarity: Floats, ties: Ties) -> NDArray[np.floating]:
    """Return numbers that order like the similarity, equal where the tie rule calls two similarities level."""
    if ties == "copairs":
        return similarity.astype(np.float32) - np.float32(1)  # the negative of its float32 `1 - similarity`
    if ties == "average":
        return np.rint(similarity / SIMILARITY_STEP)
    raise ValueError(f"ties must be 'average' or 'copairs', not {ties!r}")


def precision_of_counts(keys: NDArray[np.generic], above: Ints, level: Ints, ties: Ties) -> Floats:
    """Return AP from what stands above each positive.

    keys: (..., M) the positives' keys, best first, equal where level. above, level: (..., M) negatives strictly above
    and level with each. Returns (...) float64.
    """
    m = keys.shape[-1]
    position = np.arange(m)
    tied = np.any(keys[..., 1:] == keys[..., :-1]) or np.any(level)
    if ties == "copairs" or not tied:
        return np.asarray(((position + 1) / (position + 1 + above)).mean(axis=-1))
    start, stop = tie_runs(keys)
    # A run of n level wells, a of them positive, below n0 wells, start of them positive. Position i of the run is
    # positive with probability a/n and then follows (i-1)(a-1)/(n-1) of the run's positives on average; summed over i
    # with sum 1/(n0+i) = H(n0+n) - H(n0) and divided among the a positives.
    a, n0 = stop - start, start + above
    n = a + level
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, int((n0 + n).max()) + 1))])
    reciprocals = np.where(n == 1, 1.0 / (n0 + 1), harmonic[n0 + n] - harmonic[n0])
    inside = (a - 1) / np.maximum(n - 1, 1) * (n - (n0 + 1) * reciprocals)
    return np.asarray((((start + 1) * reciprocals + inside) / n).mean(axis=-1))


def tie_runs(keys: NDArray[np.generic]) -> tuple[Ints, Ints]:
    """Return where the run of equal neighbours of each entry starts and stops (exclusive) along the last axis."""
    m = keys.shape[-1]
    position = np.broadcast_to(np.arange(m), keys.shape)
    first = np.ones(keys.shape, dtype=bool)
    first[..., 1:] = keys[..., 1:] != keys[..., :-1]
    last = np.ones(keys.shape, dtype=bool)
    last[..., :-1] = first[..., 1:]
    start = np.maximum.accumulate(np.where(first, position, 0), axis=-1)
    stop = np.minimum.accumulate(np.where(last, position + 1, m)[..., ::-1], axis=-1)[..., ::-1]
    return start, stop


def _positive_keys(
    x: NDArray[np.floating], positive: Ints, ties: Ties, block: int
) -> Iterator[tuple[Ints, NDArray[np.floating]]]:
    """Yield, for each number of replicates, the query wells (Q,) and their positives' keys (Q, M), best first."""
    sets = [members for _, members in grouped(positive, np.flatnonzero(positive >= 0))]
    for size in sorted({len(s) for s in sets}):
        index = np.stack([s for s in sets if len(s) == size])
        keys = np.empty((*index.shape, size - 1), dtype=np.float32 if ties == "copairs" else np.float64)
        others = ~np.eye(size, dtype=bool)
        for part in _parts(np.arange(len(index)), max(1, block // size)):
            unit = unit_rows(x[index[part].ravel()])[0].reshape(len(part), size, -1)
            found = rank_keys(unit @ unit.transpose(0, 2, 1), ties)
            keys[part] = -np.sort(-found[:, others].reshape(len(part), size, size - 1), axis=-1)
        yield index.ravel(), keys.reshape(index.size, size - 1)


def _count(
    queries: Floats, against: Floats, keys: NDArray[np.floating], ties: Ties, above: Ints, level: Ints, rows: Ints
) -> None:
    """Add to `above` and `level` what one block of negatives holds."""
    found = rank_keys(queries @ against.T, ties)
    for j in range(keys.shape[1]):
        key = keys[:, j, None]
        above[rows, j] += np.count_nonzero(found > key, axis=1)
        if ties == "average":
            level[rows, j] += np.count_nonzero(found == key, axis=1)


def grouped(key: NDArray[np.generic], rows: Ints) -> list[tuple[int, Ints]]:
    """Return (key, rows that have it) in order of key; `rows` are indices into `key`."""
    if not len(rows):
        return []
    order = rows[np.argsort(key[rows], kind="stable")]
    cuts = np.flatnonzero(key[order][1:] != key[order][:-1]) + 1
    return [(int(key[part[0]]), part) for part in np.split(order, cuts)]


def _parts(rows: Ints, size: int) -> Iterator[Ints]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
