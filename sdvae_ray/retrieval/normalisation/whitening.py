"""Whitening from the wells of a fit, or from their merged moments where the fit is too large to hold.

First the principal axes (`principal_axes`, `axes_of_moments`), then a transform made of them (`pca_whitening`,
`sphering`), which any wells can be put through. float64 throughout; which wells are fitted on is not decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.normalisation.moments import Moments

Floats = NDArray[np.float64]

METHODS = ("PCA", "ZCA", "PCA-cor", "ZCA-cor")
MOST_SHRINKAGE = 0.999  # of epsilon "auto": at 1 it would be infinite
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
    keep: NDArray[np.bool_]
    mean: Floats
    scale: Floats
    axes: Floats
    variance: Floats
    total: float


@dataclass(frozen=True)
class Whitening:
    """A fitted linear transform; call it with (W, D) profiles. Made by `pca_whitening` and `sphering`.

    z = (x[:, keep] - mean) / scale is projected on `axes` and multiplied by `gain`. rotate_back: and rotated back to the
    features, where what is orthogonal to all axes is multiplied by `gain_beyond`.
    """

    keep: NDArray[np.bool_]
    mean: Floats
    scale: Floats
    axes: Floats
    gain: Floats
    rotate_back: bool = False
    gain_beyond: float = 0.0

    def __call__(self, x: ArrayLike) -> Floats:
        z = (np.asarray(x, dtype=np.float64)[:, self.keep] - self.mean) / self.scale
        along = z @ self.axes.T
        if not self.rotate_back:
            return along * self.gain
        back = (along * (self.gain - self.gain_beyond)) @ self.axes
        return back + self.gain_beyond * z if self.gain_beyond else back


def centre_and_scale(fit: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return the mean and the population standard deviation of each column, and which columns are constant (sd given as 1)."""
    mean = fit.mean(axis=0)
    constant, sd = constant_and_sd(mean, fit.var(axis=0), len(fit))
    return mean, sd, constant


def constant_and_sd(mean: Floats, variance: Floats, n: int) -> tuple[NDArray[np.bool_], Floats]:
    """Return which of the columns of n rows are constant, and the sd of each, 1 where it is constant.

    scikit-learn's rule (StandardScaler, `_is_constant_feature`): a column is constant when its variance is within the
    rounding error of its mean. Dividing by 1 leaves such a column centred: 0 on the wells of the fit.
    """
    constant = variance <= n * _EPS * variance + (n * mean * _EPS) ** 2
    return constant, np.where(constant, 1.0, np.sqrt(variance))


def principal_axes(fit: Floats, correlation: bool = False, where: str = "the fit") -> Axes:
    """Return the axes of (n, D) profiles by a singular value decomposition of them centred, n >= 2.

    correlation: of features divided by their population sd. An axis whose singular value is within rounding error,
    max(n, D) * 2.2e-16 of the largest, is no axis of the data: dividing by it would blow up every other well.
    Raises DataError, opening with `where`, if all rows are the same.
    """
    mean, sd, constant = centre_and_scale(fit)
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
    constant, _ = constant_and_sd(fit.mean, squares / n, n)
    keep = ~constant
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


def pca_whitening(axes: Axes, components: int) -> tuple[Whitening, dict[str, Any]]:
    """Project on the first k axes, each divided by its sample sd: scikit-learn's PCA(k, whiten=True).

    k = min(components, n - 1, D, rank). The record: components, asked, rank, explained_variance (share of the fit's
    total variance along the k axes), dropped (features constant over the fit).
    """
    k = min(components, len(axes.variance))
    gain = 1 / np.sqrt(axes.variance[:k])
    record = {"components": k, "asked": components, **_facts(axes, k)}
    return Whitening(axes.keep, axes.mean, axes.scale, axes.axes[:k], gain), record


def sphering(axes: Axes, method: str, epsilon: float | str) -> tuple[Whitening, dict[str, Any]]:
    """Divide by sqrt(variance + epsilon) along each axis; PCA stays in the axes, ZCA rotates back to the features.

    With C the sample covariance of the fit (PCA, ZCA) or that of its standardised features (-cor, for which `axes` must be
    of the correlation): ZCA = (C + epsilon I)^(-1/2), PCA = the same in the coordinates of C's axes (Kessy, Lewin &
    Strimmer 2018; pycytominer's Spherize, which adds its epsilon to singular values instead). Orthogonal to the axes the
    fit has no variance: PCA drops that part; ZCA divides it by sqrt(epsilon), and drops it for epsilon 0.
    epsilon: a variance, >= 0; or "auto": a m / (1 - a), where m is the mean variance over features and a the oracle
    approximating shrinkage of C to m I (Chen et al. 2010, as scikit-learn has it; at most 0.999), so that C + epsilon I
    is the shrunk covariance up to a factor. The record: method, epsilon as used, asked, shrinkage a where it was
    estimated, components of the output, rank, explained_variance, dropped.
    """
    record: dict[str, Any] = {"method": method, "asked": epsilon}
    if isinstance(epsilon, str):
        shrinkage = min(oracle_shrinkage(axes), MOST_SHRINKAGE)
        ridge = shrinkage * axes.total / len(axes.mean) / (1 - shrinkage)
        record["shrinkage"] = shrinkage
    else:
        ridge = float(epsilon)
    rank, width = axes.axes.shape
    back = method.startswith("ZCA")
    beyond = 1 / np.sqrt(ridge) if back and ridge > 0 and rank < width else 0.0
    made = Whitening(
        axes.keep, axes.mean, axes.scale, axes.axes, 1 / np.sqrt(axes.variance + ridge), back, float(beyond)
    )
    return made, {**record, "epsilon": ridge, "components": width if back else rank, **_facts(axes, rank)}


def oracle_shrinkage(axes: Axes) -> float:
    """Return the weight in (0, 1] of m I against the covariance: Chen, Wiesel, Eldar & Hero 2010, equation 23.

    Of the traces of C and C^2 alone, hence of moments too; without the term in 2 / D, as in sklearn.covariance.oas.
    """
    width = len(axes.mean)
    mean_square = float((axes.variance**2).sum()) / width**2
    square_of_mean = (axes.total / width) ** 2
    spread = (axes.n + 1) * (mean_square - square_of_mean / width)
    return 1.0 if spread <= 0 else min((mean_square + square_of_mean) / spread, 1.0)


def ridge_power(covariance: Floats, ridge: float, power: float) -> Floats:
    """Return (covariance + ridge I)^power, symmetric; a direction without variance gets 0 where the power is negative."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0) + ridge
    values[values <= len(values) * _EPS * values.max(initial=0.0)] = 0.0
    raised = np.zeros_like(values)
    np.power(values, power, out=raised, where=values > 0)
    return np.asarray((vectors * raised) @ vectors.T)


def _facts(axes: Axes, k: int) -> dict[str, Any]:
    return {
        "rank": len(axes.variance),
        "explained_variance": float(axes.variance[:k].sum()) / axes.total,
        "dropped": int((~axes.keep).sum()),
    }


def _signed(axes: Floats) -> Floats:
    """Largest entry of each row positive, scikit-learn's convention: the sign is no accident of LAPACK."""
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    return axes * np.sign(largest)[:, None]


def _identical(n: int, where: str) -> DataError:
    return DataError(f"{where}: the {n} wells of the fit have identical profiles; whitening needs wells that differ")
