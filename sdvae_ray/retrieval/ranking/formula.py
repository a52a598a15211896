"""Average precision (AP) as a formula: from ranks, as a mean over the orders of level wells, and what it is at random.

The rank list of a query holds its positives and its negatives, the most similar first. Its AP is the mean over the
positives of (positives so far) / (wells so far). So only the number of negatives above each positive, and level with
it, is needed.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma

from sdvae_ray.retrieval.arrays import Floats, Ints

# average: AP is its mean over all orders of level wells (McSherry & Najork, ECIR 2008).
# copairs: that package's rule. Similarities are rounded to float32 and ordered by 1 - similarity, positives first.
Ties = Literal["average", "copairs"]
TIES: tuple[Ties, ...] = ("average", "copairs")

# Similarities closer than this are level: the rounding error of a matrix product depends on the block and on the order
# of rows, and must never decide an order.
SIMILARITY_STEP = 2.0**-40


def average_precision_of_counts(keys: NDArray[np.generic], above: Ints, level: Ints, ties: Ties) -> Floats:
    """Return the AP of rank lists of M positives, (...) float64 in (0, 1].

    keys: (..., M) one per positive, the most similar first; two positives are level if their keys are equal. above, level:
    (..., M) how many negatives are above, and level with, each positive.
    """
    size = keys.shape[-1]
    position = np.arange(size)
    tied = np.any(keys[..., 1:] == keys[..., :-1]) or np.any(level)
    if ties == "copairs" or not tied:
        return np.asarray(((position + 1) / (position + 1 + above)).mean(axis=-1))
    start, stop = runs_of_equals(keys)
    # A run of `wells` level wells, `positives` of them positive, stands below `before` wells, `start` of them positive.
    # Position i of the run is positive with probability positives / wells and then follows (i - 1)(positives - 1) /
    # (wells - 1) of the run's positives on average; summed over i with sum 1 / (before + i) = H(before + wells) -
    # H(before), H the harmonic numbers, and divided among the positives of the run.
    positives, before = stop - start, start + above
    wells = positives + level
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, int((before + wells).max()) + 1))])
    reciprocals = np.where(wells == 1, 1.0 / (before + 1), harmonic[before + wells] - harmonic[before])
    inside = (positives - 1) / np.maximum(wells - 1, 1) * (wells - (before + 1) * reciprocals)
    return np.asarray((((start + 1) * reciprocals + inside) / wells).mean(axis=-1))


def runs_of_equals(keys: NDArray[np.generic]) -> tuple[Ints, Ints]:
    """Return (start, stop) of the run of equal keys that each entry is part of, along the last axis; stop is not included."""
    size = keys.shape[-1]
    position = np.broadcast_to(np.arange(size), keys.shape)
    first = np.ones(keys.shape, dtype=bool)
    first[..., 1:] = keys[..., 1:] != keys[..., :-1]
    last = np.ones(keys.shape, dtype=bool)
    last[..., :-1] = first[..., 1:]
    start = np.maximum.accumulate(np.where(first, position, 0), axis=-1)
    stop = np.minimum.accumulate(np.where(last, position + 1, size)[..., ::-1], axis=-1)[..., ::-1]
    return start, stop


def expected_average_precision(positives: ArrayLike, total: ArrayLike) -> Floats:
    """Return mu0, the mean AP over all orders of a list of `total` wells of which `positives` are positive.

    mu0(M, N) = (M - 1)/(N - 1) + (H_N / N)(N - M)/(N - 1), H_N the N-th harmonic number; NaN if M < 1 or M > N.
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
