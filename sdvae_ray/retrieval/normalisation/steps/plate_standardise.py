"""`standardise`, plate by plate."""

from sdvae_ray.retrieval.normalisation.contract import Fit, Fitted
from sdvae_ray.retrieval.normalisation.source import ProfileSource
from sdvae_ray.retrieval.normalisation.steps import standardise

PER = "plate"


def fit_to(source: ProfileSource, *, fit: Fit = "controls") -> Fitted:
    """Fit the mean and the sd of every feature on every plate."""
    return standardise.fit_to(source, fit=fit, per="plate")
