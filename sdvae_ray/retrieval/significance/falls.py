"""Compounds whose average precision falls from the originals to a side, one test per compound, corrected by Holm over them.

The test is a t of the wells' differences, with two departures, because a compound has few wells and their APs are not independent
(every well is a positive of the others):

* the variance is the mean of the compound's own and of the mean over all compounds, with 2 (R - 1) degrees of freedom for R wells
  (a moderated variance, after Smyth 2004 with a fixed weight);
* the variance of the mean is doubled. In simulations without an effect it was 1.6 to 2.4 times that of independent wells.

With both, one or more of eight compounds without a change were called fallen in 1.4 to 4.2 % of simulations at 5 %
(benchmarks/verdicts.py). The test is of the plates at hand, not of another plate.
"""

import numpy as np
import polars as pl
from scipy.stats import t as student

_DEPENDENCE = 2.0  # the variance of a compound's mean AP over that of as many independent wells


def falls(wells: pl.DataFrame) -> pl.DataFrame:
    """Return one row per compound: compound, wells, image, side (mean normalised AP), fall (image less side), p (one-sided).

    wells: compound, image, side: the normalised AP of every well, on both sides. p is null for a compound with one well, and 1
    where nothing differs. The rows are sorted by compound.
    """
    difference = pl.col("image") - pl.col("side")
    table = (
        wells.drop_nulls()
        .group_by("compound")
        .agg(
            wells=pl.len(),
            image=pl.col("image").mean(),
            side=pl.col("side").mean(),
            fall=difference.mean(),
            variance=difference.var(),
        )
        .sort("compound")
    )
    count = table["wells"].to_numpy()
    own = table["variance"].to_numpy().astype(np.float64)  # NaN with one well
    several = count > 1
    pooled = float(own[several].mean()) if several.any() else 0.0
    variance = _DEPENDENCE * (own + pooled) / 2 / count
    fall = table["fall"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(fall == 0, -np.inf, fall / np.sqrt(variance))
    p = student.sf(t, np.where(several, 2 * (count - 1), 1))
    return (
        table.drop("variance")
        .with_columns(p=pl.Series(np.where(several, p, np.nan)))
        .with_columns(pl.col("p").fill_nan(None))
    )
