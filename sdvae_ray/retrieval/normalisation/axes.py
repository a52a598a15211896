"""Principal axes of the wells of a fit, or of their merged moments where the fit is too large to hold; float64 throughout."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.arrays import Bools, Floats
from sdvae_ray.retrieval.normalisation.moments import Moments, centre_and_scale, mean_and_variance

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Axes:
    """Principal axes of the wells of a fit, in the space of (x[:, keep] - mean) / scale.

    n         wells in the fit
    keep      (D,) bool, the features that vary over the fit; the D' others have no axis
    mean      (D',) of the kept features
    scale     (D',) their population sd where the axes are those of the correlation, else 1
    axes      (r, D') orthonormal rows; r is the rank of the fit, at most n - 1
    variance  (r,) sample variance (divided by n - 1) along each, decreasing, all above rounding error
    total     sum of the sample variances of all features
    """

    n: int
    keep: Bools
    mean: Floats
    scale: Floats
    axes: Floats
    variance: Floats
    total: float

    def record(self, k: int) -> dict[str, Any]:
        """Return the rank, the share of the total variance along the first k axes, and the number of features without an axis."""
        explained = float(self.variance[:k].sum()) / self.total
        return {"rank": len(self.variance), "explained_variance": explained, "dropped": int((~self.keep).sum())}


def principal_axes(fit: Floats, correlation: bool = False, where: str = "the fit") -> Axes:
    """Return the axes of (n, D) profiles by a singular value decomposition of them centred, n >= 2.

    correlation: of features divided by their population sd. An axis whose singular value is within rounding error,
    max(n, D) * 2.2e-16 of the largest, is no axis of the data: dividing by it would blow up every other well.
    Raises DataError, opening with `where`, if all rows are the same.
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
    """Return the axes from moments with all products: nothing as long as the fit is ever held.

    An eigenvalue is known to within 2.2e-16 of the largest (principal_axes knows its root as well as that), so a fit of
    low rank keeps fewer axes here; on a fit of full rank the transforms agree with the direct ones. Raises DataError for
    n < 2, and, opening with `where`, for moments without variance or that are not finite.
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
    """Return axes whose largest entry is positive, scikit-learn's convention: the sign is no accident of LAPACK."""
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    return axes * np.sign(largest)[:, None]


def _identical(n: int, where: str) -> DataError:
    return DataError(f"{where}: the {n} wells of the fit have identical profiles; whitening needs wells that differ")
