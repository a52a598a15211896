"""Frechet distance between two sets of feature vectors, from moments that merge.

d^2 = |mu_a - mu_b|^2 + tr C_a + tr C_b - 2 tr (C_a C_b)^(1/2)   (Dowson & Landau 1982; Heusel et al. 2017, FID).

With any factors C_a = A A^T and C_b = B B^T, tr (C_a C_b)^(1/2) is the sum of the singular values of A^T B: real and
not negative by construction, defined even if a covariance is singular (fewer vectors than features), and free of the
square root of rounding errors that a matrix square root of the product suffers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh, svdvals

from sdvae_ray.distributions._matrices import Floats, check_count, check_lengths, matrix


@dataclass(frozen=True)
class Moments:
    """The moments of n vectors x of D features, float64.

    sum    (D,) sum of x - shift
    outer  (D, D) sum of (x - shift)(x - shift)^T
    shift  (D,) a fixed vector near the mean, equal in all moments that will be merged. Merging is then plain addition, and
           the covariance does not drown in the square of the mean
    """

    n: int
    sum: Floats
    outer: Floats
    shift: Floats


def moments(x: ArrayLike, shift: ArrayLike | None = None) -> Moments:
    """Return the moments of x, (n, D) finite numbers of any dtype, about `shift`, (D,); None: about zeros.

    Raises DataError if x is not such a matrix, ValueError if the shift has another length.
    """
    values = matrix(x)
    origin = np.zeros(values.shape[1]) if shift is None else np.asarray(shift, dtype=np.float64)
    if origin.shape != (values.shape[1],):
        raise ValueError(f"a shift of shape {origin.shape} does not fit vectors of {values.shape[1]} features")
    values = values - origin
    return Moments(len(values), values.sum(axis=0), values.T @ values, origin)


def merge(a: Moments, b: Moments) -> Moments:
    """Return the moments of both sets together. Raises ValueError if the shifts or their lengths differ."""
    if not np.array_equal(a.shift, b.shift):
        raise ValueError("moments taken about different shifts cannot be merged")
    return Moments(a.n + b.n, a.sum + b.sum, a.outer + b.outer, a.shift)


def mean_and_covariance(m: Moments) -> tuple[Floats, Floats]:
    """Return the mean (D,) and the sample covariance (D, D), divided by n - 1. Raises DataError for n < 2."""
    check_count(m.n, 2, "a Frechet distance")
    centre = m.sum / m.n
    covariance = (m.outer - m.n * np.outer(centre, centre)) / (m.n - 1)
    return m.shift + centre, (covariance + covariance.T) / 2


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return the squared Frechet distance d^2 >= 0 between two sets, from their moments.

    Eigenvalues of a covariance at the level of its rounding error count as 0, and so do all eigenvalues beyond the n - 1 that n
    vectors can have. So a singular covariance costs no accuracy if the shift is near the mean (tests: 1e-9 relative). A negative
    number within rounding is returned as 0. Raises DataError for n < 2 and for vectors of different lengths.
    """
    check_lengths(a.shift.size, b.shift.size)
    (mean_a, covariance_a), (mean_b, covariance_b) = mean_and_covariance(a), mean_and_covariance(b)
    return _distance(mean_a - mean_b, _root(covariance_a, a), _root(covariance_b, b))


def _distance(between: Floats, a: Floats, b: Floats) -> float:
    """Return d^2 for means that differ by `between`, (D,), and for factors a and b, (r, D), of the covariances a^T a and b^T b."""
    spread = float((a**2).sum() + (b**2).sum())
    distance = float(between @ between) + spread - 2 * float(svdvals(a @ b.T).sum())
    if distance < -1e-6 * spread:
        raise FloatingPointError(f"Frechet distance {distance} is negative beyond rounding")
    return max(distance, 0.0)


def _root(covariance: Floats, m: Moments) -> Floats:
    """Return (r, D) with covariance = root^T root, for the r eigenvalues above rounding error.

    The covariance is a difference of two matrices as large as the square of the mean, which sets its rounding error.
    """
    values, vectors = eigh(covariance)
    size = max(values[-1], 0.0) + float((m.sum / m.n) @ (m.sum / m.n))
    keep = values > size * len(values) * np.finfo(np.float64).eps
    keep[: max(len(values) - (m.n - 1), 0)] = False
    return np.asarray((vectors[:, keep] * np.sqrt(values[keep])).T)
