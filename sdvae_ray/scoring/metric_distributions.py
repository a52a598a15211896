"""Every metric over the patches of a run: mean, spread and quantiles per side, part and band; a task reads a plate of a side.

The numbers of a run of up to EXACT fields are those of all values together. Of a larger run a task hands on a summary of its plate,
whose quantiles have a stated error; the column `quantile_error` says which it is.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from sdvae_ray import shelves
from sdvae_ray.cluster.ordered_tasks import mapped
from sdvae_ray.distributions.quantiles import nearest_quantiles
from sdvae_ray.distributions.summary import ERROR, Summary
from sdvae_ray.engine.columns import measures_posterior
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.field_values import joined, of_patches
from sdvae_ray.run.stored.plates import PLACE, Mapper, PlateRows
from sdvae_ray.schema import FOV_ID, METRICS, RATES, metrics_table
from sdvae_ray.scoring.inputs.fovs import Fovs

EXACT = 1 << 14  # fields of view: up to so many the driver holds their values, side by side
_QUANTILES = (0.5, 0.05, 0.95)
_NUMBERS = ("mean", "sd", "median", "q05", "q95")
_SCHEMA = {
    **dict.fromkeys(("side", "metric", "part", "band"), pl.String),
    "patches": pl.Int64,
    **dict.fromkeys(_NUMBERS, pl.Float64),
    "quantile_error": pl.Float64,
}
Mean = Callable[..., float]
Numbers = tuple[int | float | None, ...]


@dataclass(frozen=True)
class _Values:
    """A metric of the FOVs of a plate. places: (n,) where the FOVs stand in fovs/. values: as `field_values`."""

    places: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class _Summaries:
    """A metric of the FOVs of a plate or of several: a summary and the mean of every value of a patch."""

    summaries: list[Summary]
    means: list[float]

    def merged(self, other: "_Summaries", mean: Mean) -> "_Summaries":
        """Return the summaries of both together."""
        pairs = list(zip(self.summaries, other.summaries, strict=True))
        means = [
            _weighted(mean, [(a.n, own), (b.n, others)])
            for (a, b), own, others in zip(pairs, self.means, other.means, strict=True)
        ]
        return _Summaries([a.merged(b) for a, b in pairs], means)

    def numbers(self) -> Iterator[Numbers]:
        """Yield (number of values, *_NUMBERS, quantile_error) of every value of a patch."""
        for summary, mean in zip(self.summaries, self.means, strict=True):
            nothing = [None] * len(_QUANTILES)
            quantiles = summary.quantiles(_QUANTILES) or nothing
            yield summary.n, mean if summary.n else None, summary.sd, *quantiles, ERROR if summary.n else None


def metric_distributions(
    run: Run, usable: Fovs, bands: Mapping[str, Sequence[str]], mapper: Mapper[Any] = mapped
) -> pl.DataFrame:
    """Return mean, sd and quantiles of every metric and rate over the patches of `usable`. mapper: where plates are read.

    The mean is the `pooled` of the metric's module, if it has one. One row per side, metric, part and band; a number that does not
    exist is null. quantile_error: of the quantiles, relative, at most; 0: they are values of patches. bands: metric -> names of its
    last axis, for the metrics that have one.
    """
    sides = [table.split("/")[1] for table in run.tables() if table.startswith(f"{METRICS}/")]
    rows = []
    for side in sides:
        metrics = (*run.config.metrics, *RATES)
        whole = usable.height <= EXACT
        plates = mapper(_plate_metrics, [(run, side, metrics, whole, plate) for plate in usable.plates])
        numbers = _exact(run, plates) if whole else _merged(run, plates)
        for metric in filter(numbers.__contains__, metrics):
            names = bands.get(metric, (None,))
            latent_of = side if measures_posterior(run.config, metric) else None
            parts = run.config.parts(len(numbers[metric]) // len(names), latent_of)
            for (part, band), values in zip(itertools.product(parts, names), numbers[metric], strict=True):
                rows.append((side, metric, part, band, *values))
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _plate_metrics(
    run: Run, side: str, metrics: Sequence[str], whole: bool, plate: PlateRows
) -> dict[str, _Values] | dict[str, _Summaries]:
    """Return metric -> its values or summaries of the FOVs of a plate, of the metrics that the plate has."""
    fovs = plate.table()
    columns = run.read_columns(metrics_table(side), metrics, fovs)
    held = {metric: column for metric, column in columns.items() if len(column.values)}
    if whole:
        return {metric: _Values(_places(fovs, fov_ids), values) for metric, (fov_ids, values) in held.items()}
    return {metric: _summaries(values, _mean_of(run, metric)) for metric, (_, values) in held.items()}


def _places(fovs: pl.DataFrame, fov_ids: Sequence[str]) -> np.ndarray:
    rows = pl.DataFrame({FOV_ID: fov_ids}).join(
        fovs.select(FOV_ID, PLACE), on=FOV_ID, how="left", maintain_order="left"
    )
    return rows[PLACE].to_numpy()


def _summaries(values: np.ndarray, mean: Mean) -> _Summaries:
    columns = list(_flat(values).T)
    return _Summaries([Summary.of(column) for column in columns], [_mean(_known(column), mean) for column in columns])


def _flat(values: np.ndarray) -> np.ndarray:
    """Return the values of patches, (patches, values of a patch): bands of a part beside each other."""
    patches = of_patches(values)
    return patches.reshape(len(patches), -1)


def _exact(run: Run, plates: Iterator[dict[str, _Values]]) -> dict[str, list[Numbers]]:
    """Return metric -> (number of values, *_NUMBERS, quantile_error) of every value of a patch: bands of a part beside each other.

    The values are taken in the order of fovs/, so that a sum has the same last bits however many plates there are.
    """
    parts: dict[str, list[_Values]] = {}
    for plate in plates:
        for metric, values in plate.items():
            parts.setdefault(metric, []).append(values)
    numbers = {}
    for metric, held in parts.items():
        order = np.argsort(np.concatenate([part.places for part in held]), kind="stable")
        flat = _flat(joined([part.values for part in held])[order])
        mean = _mean_of(run, metric)
        numbers[metric] = [_distribution(column, mean) for column in flat.T]
    return numbers


def _merged(run: Run, plates: Iterator[dict[str, _Summaries]]) -> dict[str, list[Numbers]]:
    """Return what `_exact` returns, from summaries."""
    total: dict[str, _Summaries] = {}
    for plate in plates:
        for metric, summaries in plate.items():
            total[metric] = total[metric].merged(summaries, _mean_of(run, metric)) if metric in total else summaries
    return {metric: list(summaries.numbers()) for metric, summaries in total.items()}


def _mean_of(run: Run, metric: str) -> Mean:
    """Return the function that gives the mean of the values of a metric or a rate."""
    module = shelves.find("metrics", run.config.metrics[metric].name) if metric in run.config.metrics else None
    return getattr(module, "pooled", np.average)


def _known(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)].astype(np.float64)


def _mean(known: np.ndarray, mean: Mean) -> float:
    return float(mean(known)) if len(known) else 0.0


def _weighted(mean: Mean, parts: Sequence[tuple[int, float]]) -> float:
    """Return the mean of parts. parts: (number of values, their mean)."""
    counted: list[Any] = [(number, value) for number, value in parts if number]
    if len(counted) < 2:
        return float(counted[0][1]) if counted else 0.0
    numbers, values = zip(*counted, strict=True)
    return float(mean(np.array(values), weights=np.array(numbers)))


def _distribution(values: np.ndarray, mean: Mean) -> Numbers:
    """Return (number of values, *_NUMBERS, 0) of the values that are not NaN; the sd is null if a value is infinite."""
    known = _known(values)
    if len(known) == 0:
        return (0, *(None for _ in (*_NUMBERS, "quantile_error")))
    spread = float(known.std()) if np.isfinite(known).all() else None
    return len(known), _mean(known, mean), spread, *nearest_quantiles(known, _QUANTILES), 0.0
