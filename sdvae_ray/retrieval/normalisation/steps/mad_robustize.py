"""(x - median) / (1.4826 MAD + epsilon), per feature: pycytominer's RobustMAD.

A feature whose MAD is 0 (more than half of its values are equal) is only centred. pycytominer divides it by epsilon,
1e-18, and this feature then outweighs all others.
"""

from dataclasses import replace

import numpy as np

from sdvae_ray.retrieval.arrays import Bools, Floats
from sdvae_ray.retrieval.normalisation.contract import Amount, Fit, Fitted, Per
from sdvae_ray.retrieval.normalisation.source import ProfileSource, by_columns, per_plate
from sdvae_ray.retrieval.normalisation.steps.standardise import scaled

MAD_TO_SD = 1.4826  # of a normal distribution; pycytominer's RobustMAD has these digits


def fit_to(source: ProfileSource, *, epsilon: Amount = 1e-18, fit: Fit = "controls", per: Per = "group") -> Fitted:
    """Fit the median and the MAD of every feature, on the group or on every plate. epsilon: added to the scaled MAD of a feature
    that varies; a feature that does not vary is only centred."""

    def median_and_mad(profiles: Floats) -> tuple[Floats, Floats, Bools]:
        median = np.median(profiles, axis=0)
        deviation = MAD_TO_SD * np.median(np.abs(profiles - median), axis=0)
        constant = deviation <= 4 * np.finfo(np.float64).eps * np.abs(median)
        return median, np.where(constant, 1.0, deviation + epsilon), constant

    if per == "plate":
        fitted = scaled("plate", per_plate(source, fit, lambda _, profiles: median_and_mad(profiles)))
    else:
        median, scale, constant = by_columns(source, fit, median_and_mad)
        fitted = scaled("group", {"group": (median, scale, constant)})
    return replace(fitted, record={**fitted.record, "epsilon": epsilon})
