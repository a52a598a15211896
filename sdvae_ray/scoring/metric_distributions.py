"""Every metric over the patches of a run: mean, spread and quantiles per side, part and band."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from sdvae_ray import shelves
from sdvae_ray.distributions.quantiles import nearest_quantiles
from sdvae_ray.engine.columns import measures_posterior
from sdvae_ray.run.field_values import of_patches
from sdvae_ray.run.run import Run
from sdvae_ray.schema import METRICS, RATES, metrics_table

_NUMBERS = ("mean", "sd", "median", "q05", "q95")
_SCHEMA = {
    **dict.fromkeys(("side", "metric", "part", "band"), pl.String),
    "patches": pl.Int64,
    **dict.fromkeys(_NUMBERS, pl.Float64),
}


def metric_distributions(run: Run, usable: pl.DataFrame, bands: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """Return mean, sd and quantiles of every metric and rate over the patches of `usable` (fov_id, files).

    The mean is the `pooled` of the metric's module, if it has one. One row per side, metric, part and band; a number that does not
    exist is null. bands: metric -> names of its last axis, for the metrics that have one.
    """
    sides = [table.split("/")[1] for table in run.tables() if table.startswith(f"{METRICS}/")]
    rows = []
    for side, metric in itertools.product(sides, (*run.config.metrics, *RATES)):
        try:
            _, values = run.read(metrics_table(side), metric, usable)
        except KeyError:  # of a run that is being extended
            continue
        if not len(values):  # no field of view
            continue
        names = bands.get(metric, (None,))
        patches = of_patches(values)
        flat = patches.reshape(len(patches), -1)  # bands of a part beside each other
        latent_of = side if measures_posterior(run.config, metric) else None
        parts = run.config.parts(flat.shape[1] // len(names), latent_of)
        for index, (part, band) in enumerate(itertools.product(parts, names)):
            rows.append((side, metric, part, band, *_distribution(flat[:, index], _mean_of(run, metric))))
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _mean_of(run: Run, metric: str) -> Callable[[np.ndarray], float]:
    """Return the function that gives the mean of the values of a metric or a rate."""
    module = shelves.find("metrics", run.config.metrics[metric].name) if metric in run.config.metrics else None
    return getattr(module, "pooled", np.mean)


def _distribution(values: np.ndarray, mean: Callable[[np.ndarray], float]) -> tuple[int | float | None, ...]:
    """Return (number of values, *_NUMBERS) of the values that are not NaN; the sd is null if a value is infinite."""
    known = values[~np.isnan(values)].astype(np.float64)
    if len(known) == 0:
        return (0, *(None for _ in _NUMBERS))
    spread = float(known.std()) if np.isfinite(known).all() else None
    return len(known), float(mean(known)), spread, *nearest_quantiles(known, (0.5, 0.05, 0.95))
