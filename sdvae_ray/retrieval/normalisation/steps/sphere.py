"""Divide by sqrt(variance + epsilon) along the principal axes of the fit; ZCA and ZCA-cor rotate back to the features.

per plate: each plate by its own fit (ZCA and ZCA-cor alone: only these two come back to features that plates share);
features constant over the fit of any plate are dropped; epsilon, shrinkage, rank and explained_variance of the record are lists.
"""

from typing import Any, Literal

import numpy as np

from sdvae_ray.errors import ConfigError
from sdvae_ray.retrieval.arrays import Floats
from sdvae_ray.retrieval.normalisation.axes import Axes, principal_axes
from sdvae_ray.retrieval.normalisation.contract import Affine, Amount, Fit, Fitted, Map, Per
from sdvae_ray.retrieval.normalisation.moments import centre_and_scale, mean_and_variance
from sdvae_ray.retrieval.normalisation.source import ProfileSource, axes_of, per_plate

Method = Literal["PCA", "ZCA", "PCA-cor", "ZCA-cor"]
_MOST_SHRINKAGE = 0.999  # of epsilon "auto": at 1 it would be infinite
_PER_PLATE = ("epsilon", "shrinkage", "rank", "explained_variance")  # of the record


def check(*, method: Method, per: Per, **_: Any) -> None:
    """Raise ConfigError for a method that gives plates no common features, if `per` is plate."""
    if per == "plate" and method.startswith("PCA"):
        raise ConfigError(
            f"normalisation step sphere: method {method} per plate would give every plate axes of its own; "
            "use ZCA or ZCA-cor, or per: group"
        )


def fit_to(
    source: ProfileSource,
    *,
    method: Method = "ZCA-cor",
    epsilon: Amount | Literal["auto"] = "auto",
    fit: Fit = "controls",
    per: Per = "group",
) -> Fitted:
    """Fit the whitening of the group, or of every plate. method, epsilon: see `sphering`."""
    correlation = method.endswith("-cor")
    if per == "group":
        axes = axes_of(source, fit, correlation)
        whitening, record = sphering(axes, method, epsilon)
        return Fitted((Affine("group", {"group": whitening}, axes.keep),), record)
    constant = per_plate(source, fit, lambda _, profiles: centre_and_scale(*mean_and_variance(profiles))[2])
    keep = ~np.any(list(constant.values()), axis=0)

    def of_plate(plate: str, profiles: Floats) -> tuple[Map, dict[str, Any]]:
        return sphering(principal_axes(profiles[:, keep], correlation, f"plate {plate}"), method, epsilon)

    whitenings = per_plate(source, fit, of_plate)
    records = [record for _, record in whitenings.values()]
    lists = {key: [record[key] for record in records] for key in _PER_PLATE if key in records[0]}
    record = {**records[0], **lists, "dropped": int((~keep).sum()), "plates": len(records)}
    return Fitted((Affine("plate", {plate: whitening for plate, (whitening, _) in whitenings.items()}, keep),), record)


def sphering(axes: Axes, method: str, epsilon: float | str) -> tuple[Map, dict[str, Any]]:
    """Return the map of the kept features, and its record.

    C is the sample covariance of the fit (PCA, ZCA) or of its standardised features (-cor; `axes` must then be those of the
    correlation). ZCA = (C + epsilon I)^(-1/2); PCA is the same in the coordinates of C's axes (Kessy, Lewin & Strimmer 2018;
    pycytominer's Spherize, which adds its epsilon to singular values instead). Orthogonal to the axes the fit has no variance:
    PCA drops that part; ZCA divides it by sqrt(epsilon), and drops it for epsilon 0.

    epsilon: a variance, >= 0; or "auto": a m / (1 - a), where m is the mean variance over features and a the oracle
    approximating shrinkage of C to m I (Chen et al. 2010, as scikit-learn has it; at most 0.999), so that C + epsilon I is the
    shrunk covariance up to a factor. The record has method, asked, epsilon as used, shrinkage a if it was estimated, components
    of the output, and Axes.record.
    """
    record: dict[str, Any] = {"method": method, "asked": epsilon}
    if isinstance(epsilon, str):
        shrinkage = min(oracle_shrinkage(axes), _MOST_SHRINKAGE)
        ridge = shrinkage * axes.total / len(axes.mean) / (1 - shrinkage)
        record["shrinkage"] = shrinkage
    else:
        ridge = float(epsilon)
    rank, width = axes.axes.shape
    beyond = None
    if method.startswith("ZCA"):
        beyond = float(1 / np.sqrt(ridge)) if ridge > 0 and rank < width else 0.0
    whitening = Map(axes.mean, axes.scale, axes.axes, 1 / np.sqrt(axes.variance + ridge), beyond)
    return whitening, {**record, "epsilon": ridge, "components": whitening.width, **axes.record(rank)}


def oracle_shrinkage(axes: Axes) -> float:
    """Return the weight in (0, 1] of m I against the covariance: Chen, Wiesel, Eldar & Hero 2010, equation 23.

    It needs the traces of C and C^2 alone, which moments give too. The term in 2 / D is left out, as in sklearn.covariance.oas.
    """
    width = len(axes.mean)
    mean_square = float((axes.variance**2).sum()) / width**2
    square_of_mean = (axes.total / width) ** 2
    spread = (axes.n + 1) * (mean_square - square_of_mean / width)
    return 1.0 if spread <= 0 else min((mean_square + square_of_mean) / spread, 1.0)
