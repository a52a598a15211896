"""Means and sums of squares of profiles that are never all held: taken part by part in float64, and merged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """n profiles: their mean (D,), and about it the sum of squares (D,) or of all products (D, D)."""

    n: int
    mean: Floats
    scatter: Floats


def moments(profiles: ArrayLike, products: bool = True) -> Moments:
    """Return the moments of (n, D) finite numbers; n may be 0."""
    x = np.asarray(profiles, dtype=np.float64)
    if not len(x):
        return Moments(0, np.zeros(x.shape[1]), np.zeros((x.shape[1],) * (2 if products else 1)))
    mean = x.mean(axis=0)
    z = x - mean
    return Moments(len(x), mean, z.T @ z if products else np.einsum("nd,nd->d", z, z))


def merged(a: Moments, b: Moments) -> Moments:
    """Return the moments of both together (Chan, Golub & LeVeque 1983): no difference of large numbers."""
    if not a.n or not b.n:
        return a if a.n else b
    n, between = a.n + b.n, b.mean - a.mean
    scaled = between * (a.n * b.n / n)
    scatter = np.outer(between, scaled) if a.scatter.ndim == 2 else between * scaled
    scatter += a.scatter  # in place: one matrix of D x D is made, not four
    scatter += b.scatter
    return Moments(n, a.mean + between * (b.n / n), scatter)
