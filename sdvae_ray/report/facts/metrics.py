"""Metrics of a run: the column of each in a table, and its mean over the parts of a side."""

import math
from collections.abc import Sequence

import polars as pl

from sdvae_ray import shelves
from sdvae_ray.config import RunConfig
from sdvae_ray.report.facts.scored import ScoredRun, in_order_of
from sdvae_ray.report.facts.table import Beside, Column, Value, number
from sdvae_ray.schema import RATES


def metric_column(config: RunConfig, name: str) -> Column:
    """Return the table column of a metric of the run file, with the unit and direction that the metric's module gives."""
    shelved = config.metrics[name].name if name in config.metrics else name
    module = shelves.find("metrics", shelved) if shelved in shelves.names("metrics") else None
    is_better: bool | None = getattr(module, "HIGHER_IS_BETTER", None)
    better = "" if is_better is None else "higher" if is_better else "lower"
    return Column(name, name, better=better, unit=getattr(module, "UNIT", ""))


def against_stains(config: RunConfig) -> list[str]:
    """Return the metrics of the run file that compare every stain with every stain."""
    modules = {name: shelves.find("metrics", metric.name) for name, metric in config.metrics.items()}
    return [name for name, module in modules.items() if getattr(module, "AGAINST_STAINS", False)]


def plain_metrics(metrics: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the metrics that are one number per part: neither rates nor spectra."""
    return metrics.filter(pl.col("band").is_null() & ~pl.col("metric").is_in(list(RATES)))


def metric_columns(scored: ScoredRun) -> list[Column]:
    """Return one table column per plain metric, in the order of the run file."""
    names = in_order_of(plain_metrics(scored.scores.metrics)["metric"], list(scored.config.metrics))
    return [metric_column(scored.config, name) for name in names]


def mean_of(metrics: pl.DataFrame, side: str, metric: str, column: str = "mean") -> float | None:
    """Return the mean over parts (stains or RGB passes) of a column of scores/metrics; None if the metric does not apply."""
    rows = metrics.filter((pl.col("side") == side) & (pl.col("metric") == metric))
    return mean(rows[column].drop_nulls().to_list())


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, summed in the order of the values; None without values."""
    return sum(values) / len(values) if values else None


def shown_mean(metrics: pl.DataFrame, side: str, metric: str) -> Value:
    """Return `mean_of`; with the median in words if one exact patch makes a mean of decibels infinite."""
    average, median = mean_of(metrics, side, metric), mean_of(metrics, side, metric, "median")
    if average is None or median is None or not math.isinf(average) or math.isinf(median):
        return average
    return Beside(average, f"(median {number(median)})")
