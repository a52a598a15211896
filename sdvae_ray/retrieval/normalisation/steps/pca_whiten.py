"""Project on the first k principal axes of the fit, each divided by its sample sd: scikit-learn's PCA(k, whiten=True)."""

from typing import Any

import numpy as np

from sdvae_ray.retrieval.normalisation.axes import Axes
from sdvae_ray.retrieval.normalisation.contract import Affine, Count, Fit, Fitted, Map
from sdvae_ray.retrieval.normalisation.source import ProfileSource, axes_of


def fit_to(source: ProfileSource, *, components: Count = 256, fit: Fit = "controls") -> Fitted:
    """Fit the principal axes and keep `components` of them, or as many as the rank of the fit allows."""
    axes = axes_of(source, fit)
    whitening, record = pca_whitening(axes, components)
    return Fitted((Affine("group", {"group": whitening}, axes.keep),), record)


def pca_whitening(axes: Axes, components: int) -> tuple[Map, dict[str, Any]]:
    """Return the map of the kept features, and its record: components k = min(components, n - 1, D, rank), asked, and
    Axes.record.
    """
    k = min(components, len(axes.variance))
    whitening = Map(axes.mean, axes.scale, axes.axes[:k], 1 / np.sqrt(axes.variance[:k]))
    return whitening, {"components": k, "asked": components, **axes.record(k)}
