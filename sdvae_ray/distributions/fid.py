"""Frechet distance between two sets of feature vectors, from moments that merge or from the samples themselves.

d^2 = |mu_a - mu_b|^2 + tr C_a + tr C_b - 2 tr (C_a C_b)^(1/2)   (Dowson & Landau 1982; Heusel et al. 2017, FID).

With any factors C_a = A A^T and C_b = B B^T, tr (C_a C_b)^(1/2) is the sum of the singular values of A^T B: real and
not negative by construction, defined where a covariance is singular (fewer vectors than features), and free of the
square root of rounding errors that a matrix square root of the product suffers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh, qr, svdvals

from sdvae_ray.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """What merging needs of n vectors x of D features: n, sum(x - shift) and sum((x - shift)(x - shift)^T), float64.

    shift: (D,) a fixed vector near the mean, the same in all moments that will be merged: then merging is plain
    addition, and the covariance does not drown in the square of the mean.
    """

    n: int
    sum: Floats  # (D,)
    outer: Floats  # (D, D)
    shift: Floats  # (D,)


def moments(x: ArrayLike, shift: ArrayLike | None = None) -> Moments:
    """Return the moments of x, (n, D) finite numbers of any dtype; shift: (D,), zeros if None."""
    values = _matrix(x)
    origin = np.zeros(values.shape[1]) if shift is None else np.asarray(shift, dtype=np.float64)
    if origin.shape != (values.shape[1],):
        raise DataError(f"a shift of shape {origin.shape} does not fit vectors of {values.shape[1]} features")
    values = values - origin
    return Moments(len(values), values.sum(axis=0), values.T @ values, origin)


def merge(a: Moments, b: Moments) -> Moments:
    """Return the moments of both sets together. Raises DataError if their shifts or widths differ."""
    if not np.array_equal(a.shift, b.shift):
        raise DataError("moments taken about different shifts cannot be merged")
    return Moments(a.n + b.n, a.sum + b.sum, a.outer + b.outer, a.shift)


def mean_and_covariance(m: Moments) -> tuple[Floats, Floats]:
    """Return the mean (D,) and the sample covariance (D, D), divided by n - 1. Raises DataError for n < 2."""
    if m.n < 2:
        raise DataError(f"a Frechet distance needs at least 2 vectors on each side, not {m.n}")
    centre = m.sum / m.n
    covariance = (m.outer - m.n * np.outer(centre, centre)) / (m.n - 1)
    return m.shift + centre, (covariance + covariance.T) / 2


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return the squared Frechet distance d^2 >= 0 between two sets given by their moments.

    Eigenvalues of a covariance at the level of its rounding error, and all beyond the n - 1 that n vectors can have,
    count as 0, so a singular covariance costs no accuracy as long as the shift is near the mean (tests: 1e-9 relative).
    A negative within rounding is returned as 0.
    """
    if a.shift.shape != b.shift.shape:
        raise DataError(f"vectors of {a.shift.size} and {b.shift.size} features cannot be compared")
    (mean_a, covariance_a), (mean_b, covariance_b) = mean_and_covariance(a), mean_and_covariance(b)
    return _distance(mean_a - mean_b, _root(covariance_a, a), _root(covariance_b, b))


def frechet_distance_from_samples(x: ArrayLike, y: ArrayLike) -> float:
    """Return the squared Frechet distance between x, (n, D), and y, (m, D), without forming a covariance.

    The centred samples are themselves factors: tr (C_x C_y)^(1/2) is the sum of the singular values of the (n, m)
    matrix X Y^T / sqrt((n - 1)(m - 1)). A side with more vectors than features is first reduced to its (D, D)
    triangular factor (QR), which changes no singular value, so the largest decomposition is min(n, D) x min(m, D).
    """
    first, second = _matrix(x), _matrix(y)
    if first.shape[1] != second.shape[1]:
        raise DataError(f"vectors of {first.shape[1]} and {second.shape[1]} features cannot be compared")
    return _distance(first.mean(axis=0) - second.mean(axis=0), _sample_factor(first), _sample_factor(second))


def _distance(between: Floats, a: Floats, b: Floats) -> float:
    """a, b: (r, D) factors, covariance = a^T a."""
    spread = float((a**2).sum() + (b**2).sum())
    distance = float(between @ between) + spread - 2 * float(svdvals(a @ b.T).sum())
    if distance < -1e-6 * spread:
        raise FloatingPointError(f"Frechet distance {distance} is negative beyond rounding")
    return max(distance, 0.0)


def _root(covariance: Floats, m: Moments) -> Floats:
    """Return (r, D) with covariance = root^T root, r the number of eigenvalues above rounding error.

    The covariance is a difference of two matrices as large as the square of the mean, which sets its rounding error.
    """
    values, vectors = eigh(covariance)
    size = max(values[-1], 0.0) + float((m.sum / m.n) @ (m.sum / m.n))
    keep = values > size * len(values) * np.finfo(np.float64).eps
    keep[: max(len(values) - (m.n - 1), 0)] = False
    return np.asarray((vectors[:, keep] * np.sqrt(values[keep])).T)


def _sample_factor(x: Floats) -> Floats:
    if len(x) < 2:
        raise DataError(f"a Frechet distance needs at least 2 vectors on each side, not {len(x)}")
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    if len(x) <= x.shape[1]:
        return centred
    return np.asarray(qr(centred, mode="r", pivoting=False)[0][: x.shape[1]])


def _matrix(x: ArrayLike) -> Floats:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 2:
        raise DataError(f"features must be a matrix of vectors x features, not an array of shape {values.shape}")
    if not np.isfinite(values).all():
        raise DataError(f"{int((~np.isfinite(values).all(axis=1)).sum())} vectors have features that are not finite")
    return values
