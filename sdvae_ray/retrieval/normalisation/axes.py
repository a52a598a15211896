"""Principal axes of the wells of a fit, from their profiles, or from moments if the fit is too large to hold; in float64."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.arrays import Bools, Floats
from sdvae_ray.retrieval.normalisation.moments import Moments, centre_and_scale, mean_and_variance

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Axes:
    """The principal axes of the wells of a fit, in the space of (x[:, keep] - mean) / scale.

    n         number of wells in the fit
    keep      (D,) bool, the D' features that vary over the fit; the other features are left out
    mean      (D',) of the kept features
    scale     (D',) their population sd for axes of the correlation, else 1
    axes      (r, D') orthonormal rows; r is the rank of the fit, at most n - 1
    variance  (r,) sample variance (divided by n - 1) along each axis, decreasing, all above rounding error
    total     sum of the sample variances of all kept features
    """

    n: int
    keep: Bools
    mean: Floats
    scale: Floats
    axes: Floats
    variance: Floats
    total: float

    def record(self, k: int) -> dict[str, Any]:
        """Return rank, explained_variance (the share of the total along the first k axes) and dropped (features left out)."""
        explained = float(self.variance[:k].sum()) / self.total
        return {"rank": len(self.variance), "explained_variance": explained, "dropped": int((~self.keep).sum())}


def principal_axes(fit: Floats, correlation: bool = False, where: str = "the fit") -> Axes:
    """Return the axes of (n, D) profiles, n >= 2: the singular value decomposition of the centred profiles.

    correlation: features are first divided by their population sd. An axis whose singular value is within rounding error,
    max(n, D) * 2.2e-16 of the largest, is left out: dividing by it would blow up every other well. where: opens the error
    message. Raises DataError if all rows are the same.
    """
    mean, sd, constant = centre_and_scale(*mean_and_variance(fit))
    keep = ~constant
    scale = sd[keep] if correlation else np.ones(int(keep.sum()))
    z = (fit[:, keep] - mean[keep]) / scale
    if z.shape[1] == 0:
        raise _identical(len(fit), where)
    _, singular, axes = np.linalg.svd(z, full_matrices=False)
    rank = int((singular > max(fit.shape) * _EPS * singular[0]).sum())
    rank = min(rank, len(fit) - 1)
    variance = singular[:rank] ** 2 / (len(fit) - 1)
    total = float((z**2).sum()) / (len(fit) - 1)
    return Axes(len(fit), keep, mean[keep], scale, _signed(axes[:rank]), variance, total)


def axes_of_moments(fit: Moments, correlation: bool = False, where: str = "moments") -> Axes:
    """Return the axes from moments with all products, so that the n profiles need not be held.

    The rounding error of an eigenvalue is 2.2e-16 of the largest; `principal_axes` has that error for the square root. So a fit
    of low rank keeps fewer axes here than there; a fit of full rank gives the same transforms. where: opens the error message.
    Raises DataError for n < 2 and for moments that are not finite or have no variance.
    """
    n, squares = fit.n, np.diagonal(fit.scatter)
    if n < 2 or not (np.isfinite(fit.mean).all() and np.isfinite(fit.scatter).all()):
        raise DataError(f"{where}: finite moments of at least 2 profiles are needed, not of {n}")
    keep = ~centre_and_scale(fit.mean, squares / n, n)[2]
    if not keep.any():
        raise _identical(n, where)
    scale = np.sqrt(squares[keep] / n) if correlation else np.ones(int(keep.sum()))
    scatter = fit.scatter[np.ix_(keep, keep)] / np.outer(scale, scale)
    values, vectors = np.linalg.eigh((scatter + scatter.T) / 2)
    values, axes = values[::-1], vectors.T[::-1]
    rank = int((values > max(n, len(values)) * _EPS * values[0]).sum())
    rank = min(rank, n - 1)
    variance = values[:rank] / (n - 1)
    return Axes(n, keep, fit.mean[keep], scale, _signed(axes[:rank]), variance, float(np.trace(scatter)) / (n - 1))


def _signed(axes: Floats) -> Floats:
    """Return the axes with signs such that the largest entry of each is positive: scikit-learn's convention, whatever LAPACK
    gave.
    """
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    return axes * np.sign(largest)[:, None]


def _identical(n: int, where: str) -> DataError:
    return DataError(f"{where}: the {n} wells of the fit have identical profiles; whitening needs wells that differ")
