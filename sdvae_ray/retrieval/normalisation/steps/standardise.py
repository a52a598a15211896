"""(x - mean) / population sd, per feature: scikit-learn's StandardScaler. A feature constant over the fit is only centred."""

from collections.abc import Mapping

import numpy as np

from sdvae_ray.retrieval.arrays import Bools, Floats
from sdvae_ray.retrieval.normalisation.contract import Affine, Fit, Fitted, Map, Per
from sdvae_ray.retrieval.normalisation.moments import centre_and_scale, mean_and_variance
from sdvae_ray.retrieval.normalisation.source import ProfileSource, mean_and_variance_of, per_plate


def fit_to(source: ProfileSource, *, fit: Fit = "controls", per: Per = "group") -> Fitted:
    """Fit the mean and the sd of every feature on the group, or on every plate."""
    if per == "plate":
        return scaled("plate", per_plate(source, fit, lambda _, x: centre_and_scale(*mean_and_variance(x))))
    return scaled("group", {"group": centre_and_scale(*mean_and_variance_of(source, fit))})


def scaled(per: Per, scales: Mapping[str, tuple[Floats, Floats, Bools]]) -> Fitted:
    """Return the fitted step (x - centre) / scale. scales: plate, or "group" -> (centre, scale, constant), (D,) each."""
    constant = np.any([constant for _, _, constant in scales.values()], axis=0)
    maps = {name: Map(centre, scale) for name, (centre, scale, _) in scales.items()}
    record = {"constant": int(constant.sum())}
    if per == "plate":
        record["plates"] = len(maps)
    return Fitted((Affine(per, maps),), record)
