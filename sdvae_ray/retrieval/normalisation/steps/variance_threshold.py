"""Keep the features whose population variance over the fit is above `threshold`: scikit-learn's VarianceThreshold."""

import numpy as np

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.normalisation.contract import Affine, Amount, Fit, Fitted, Map
from sdvae_ray.retrieval.normalisation.source import ProfileSource, mean_and_variance_of


def fit_to(source: ProfileSource, *, threshold: Amount = 1e-6, fit: Fit = "controls") -> Fitted:
    """Fit which features to keep: those with a variance above `threshold`. Raises DataError if no feature is kept."""
    _, variance, n = mean_and_variance_of(source, fit)
    keep = variance > threshold
    if not keep.any():
        raise DataError(
            f"{source.wells.where()}: no feature varies by more than {threshold:g} over the {n} wells of the fit"
        )
    selection = Affine("group", {"group": Map(np.zeros(keep.sum()))}, keep)
    return Fitted((selection,), {"threshold": threshold, "dropped": int((~keep).sum())})
