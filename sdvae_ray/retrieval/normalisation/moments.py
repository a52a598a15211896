"""Mean and spread of profiles: directly if they are held, else from moments in float64, computed part by part and merged."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sdvae_ray.retrieval.arrays import Bools, Floats

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Moments:
    """The number n of profiles, their mean (D,), and their scatter: sums of squares (D,) or of products (D, D) about the mean."""

    n: int
    mean: Floats
    scatter: Floats


def moments(profiles: ArrayLike, products: bool = True) -> Moments:
    """Return the moments of (n, D) finite numbers, float64; n may be 0. products: True: the scatter has the sums of all products,
    (D, D); False: the sums of squares alone, (D,)."""
    x = np.asarray(profiles, dtype=np.float64)
    if not len(x):
        return Moments(0, np.zeros(x.shape[1]), np.zeros((x.shape[1],) * (2 if products else 1)))
    mean = x.mean(axis=0)
    z = x - mean
    return Moments(len(x), mean, z.T @ z if products else np.einsum("nd,nd->d", z, z))


def merged(a: Moments, b: Moments) -> Moments:
    """Return the moments of both sets of profiles together (Chan, Golub & LeVeque 1983), without cancellation."""
    if not a.n or not b.n:
        return a if a.n else b
    n, between = a.n + b.n, b.mean - a.mean
    scaled = between * (a.n * b.n / n)
    scatter = np.outer(between, scaled) if a.scatter.ndim == 2 else between * scaled
    scatter += a.scatter  # in place: one matrix of D x D is made, not four
    scatter += b.scatter
    return Moments(n, a.mean + between * (b.n / n), scatter)


def mean_and_variance(profiles: Floats) -> tuple[Floats, Floats, int]:
    """Return (mean (D,), population variance (D,), n) of profiles (n, D)."""
    return profiles.mean(axis=0), profiles.var(axis=0), len(profiles)


def centre_and_scale(mean: Floats, variance: Floats, n: int) -> tuple[Floats, Floats, Bools]:
    """Return (mean, scale, constant), (D,) each, of n profiles: scale is the population sd, and 1 for a constant feature.

    scikit-learn's rule (StandardScaler, `_is_constant_feature`): a feature is constant if its variance is within the rounding
    error of its mean. Dividing by 1 leaves such a feature centred: 0 on the wells of the fit.
    """
    constant = variance <= n * _EPS * variance + (n * mean * _EPS) ** 2
    return mean, np.where(constant, 1.0, np.sqrt(variance)), constant
