"""(x - mean) / population sd, per feature: scikit-learn's StandardScaler. A feature constant over the fit is only centred.

precision: float16 computes as StandardScaler does for profiles in float16, as published: the mean and the sd are taken in float64
and rounded, and the subtraction and the division are float16's. The profiles are in float64 again after the step.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from sdvae_ray.retrieval.arrays import Bools, Floats
from sdvae_ray.retrieval.normalisation.contract import Affine, Fit, Fitted, Map, Per
from sdvae_ray.retrieval.normalisation.moments import centre_and_scale, mean_and_variance
from sdvae_ray.retrieval.normalisation.source import ProfileSource, mean_and_variance_of, per_plate

Precision = Literal["float64", "float16"]


def fit_to(
    source: ProfileSource, *, fit: Fit = "controls", per: Per = "group", precision: Precision = "float64"
) -> Fitted:
    """Fit the mean and the sd of every feature on the group, or on every plate."""
    if per == "plate":
        scales = per_plate(source, fit, lambda _, x: centre_and_scale(*mean_and_variance(x)))
    else:
        scales = {"group": centre_and_scale(*mean_and_variance_of(source, fit))}
    return scaled(per, scales, precision)


def scaled(per: Per, scales: Mapping[str, tuple[Floats, Floats, Bools]], precision: Precision = "float64") -> Fitted:
    """Return the fitted step (x - centre) / scale. scales: plate, or "group" -> (centre, scale, constant), (D,) each. precision:
    the dtype that the step computes in.
    """
    constant = np.any([constant for _, _, constant in scales.values()], axis=0)
    maps = {name: Map(centre.astype(precision), scale.astype(precision)) for name, (centre, scale, _) in scales.items()}
    record = {"constant": int(constant.sum())}
    if per == "plate":
        record["plates"] = len(maps)
    return Fitted((Affine(per, maps),), record)
