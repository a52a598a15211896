"""Quantiles that are values of the sample, so that infinity stays infinity."""

from collections.abc import Sequence

import numpy as np


def nearest_quantiles(values: np.ndarray, quantiles: Sequence[float]) -> list[float]:
    """Return for each quantile q the value at position q (n - 1), rounded, of the n sorted values; NaN is left out. Empty if all
    values are NaN."""
    known = np.sort(values[~np.isnan(values)].astype(np.float64))
    return [float(known[round(q * (len(known) - 1))]) for q in quantiles] if len(known) else []
