"""What the terminal and the page both say of a run: names, numbers, metrics per side, sizes, failures."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import polars as pl

from sdvae_ray import shelves
from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.run.tables import read_column
from sdvae_ray.schema import BITS, ENTROPY, ERROR, FOV_ID, latents_table
from sdvae_ray.storage import Storage

NONE = "–"  # shown where there is no number
RANDOM = "(random weights)"


@dataclass(frozen=True)
class MetricHead:
    """A metric's column: `better` is "higher", "lower", or "" where it is a description rather than a score."""

    name: str
    unit: str
    better: str

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓"}.get(self.better, "")


def label(config: RunConfig, name: str) -> str:
    """A side's or extractor's name, with what must be said beside it everywhere."""
    return f"{name} {RANDOM}" if name in config.random_weights else name


def sides(config: RunConfig, found: Iterable[str]) -> list[str]:
    """Distinct names, the originals first, then as the run file has them, then what it does not know."""
    return _ordered(found, [IMAGE_SIDE, *config.sides])


def extractors(config: RunConfig, found: Iterable[str]) -> list[str]:
    return _ordered(found, list(config.extractors))


class Placed(Protocol):
    """A row of an extractor, side and group."""

    @property
    def extractor(self) -> str: ...

    @property
    def side(self) -> str: ...

    @property
    def group(self) -> str: ...


Row = TypeVar("Row", bound=Placed)


def in_order(config: RunConfig, rows: Iterable[Row]) -> list[Row]:
    """By extractor, group and side, each as the run file has them."""
    found = list(rows)
    by_extractor = extractors(config, (row.extractor for row in found))
    by_side = sides(config, (row.side for row in found))
    return sorted(found, key=lambda row: (by_extractor.index(row.extractor), row.group, by_side.index(row.side)))


def _ordered(found: Iterable[str], known: list[str]) -> list[str]:
    names = set(found)
    return [name for name in known if name in names] + sorted(names - set(known))


def number(value: float | None, digits: int | None = None) -> str:
    """`digits` decimals, or about four significant ones; "inf" and NONE are words."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if digits is not None:
        return f"{round(value, digits) + 0.0:,.{digits}f}"  # no minus before a zero
    size = abs(value)
    if size < 1e-9:
        return "0"
    if size < 1e-4:
        return f"{value:.1e}"
    return (
        f"{value:,.0f}"
        if size >= 1000
        else f"{value:.1f}"
        if size >= 100
        else f"{value:.2f}"
        if size >= 2
        else f"{value:.4f}"
    )


def count(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


# --- metrics -----------------------------------------------------------------------------------------------------------------


def metric_head(config: RunConfig, name: str) -> MetricHead:
    """Unit and direction, as the metric's own module says."""
    shelved = config.metrics[name].name if name in config.metrics else name
    module = shelves.find("metrics", shelved) if shelved in shelves.names("metrics") else None
    directions: dict[object, str] = {True: "higher", False: "lower"}
    better = directions.get(getattr(module, "HIGHER_IS_BETTER", None), "")
    return MetricHead(name, getattr(module, "UNIT", ""), better)


def plain_metrics(metrics: pl.DataFrame) -> pl.DataFrame:
    """Rows of the metrics that are one number per part: neither rates nor spectra."""
    return metrics.filter(pl.col("band").is_null() & ~pl.col("metric").is_in([BITS, ENTROPY]))


def metric_heads(config: RunConfig, metrics: pl.DataFrame) -> list[MetricHead]:
    names = _ordered(plain_metrics(metrics)["metric"], list(config.metrics))
    return [metric_head(config, name) for name in names]


def metric_cells(config: RunConfig, metrics: pl.DataFrame) -> dict[str, dict[str, str]]:
    """side -> metric -> the mean over parts (stains or RGB passes) of the mean over patches."""
    plain = plain_metrics(metrics)
    cells: dict[str, dict[str, str]] = {side: {} for side in sides(config, plain["side"])}
    for (side, metric), rows in plain.group_by("side", "metric"):
        cells[str(side)][str(metric)] = number(mean_of(plain, str(side), str(metric))) + _median_beside(rows)
    return cells


def mean_of(metrics: pl.DataFrame, side: str, metric: str) -> float | None:
    """Mean over parts of the mean over patches; None where the metric does not apply."""
    means = metrics.filter((pl.col("side") == side) & (pl.col("metric") == metric))["mean"].drop_nulls().to_list()
    return sum(means) / len(means) if means else None


def _median_beside(rows: pl.DataFrame) -> str:
    """One exact patch makes a mean of decibels infinite: then the median is worth more."""
    middle = [value for value in rows["median"] if value is not None]
    if not middle or not any(math.isinf(value) for value in rows["mean"]) or any(math.isinf(value) for value in middle):
        return ""
    return f" (median {number(sum(middle) / len(middle))})"


# --- failures ----------------------------------------------------------------------------------------------------------------


def failures(fovs: pl.DataFrame) -> list[tuple[str, str]]:
    """(fov_id, reason) of every FOV without a usable row, sorted."""
    failed = fovs.filter(pl.col(ERROR).is_not_null()).select(FOV_ID, ERROR)
    return sorted((str(fov), str(why)) for fov, why in failed.rows())


# --- sizes -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LatentSize:
    """What a FOV's latent takes beside its pixels as the autoencoder saw them; `shape` None where no latent is stored."""

    side: str
    shape: tuple[int, ...] | None  # (P, T, Z, s, s)
    raw_bits: int
    latent_bits: int
    fewer_numbers: float  # numbers of an RGB pass per number of its latent; 1 where no latent is stored


def latent_sizes(config: RunConfig, usable: pl.DataFrame, storage: Storage) -> list[LatentSize]:
    """One row per autoencoder, from the latent of one FOV; `usable`: fov_id and files."""
    image = config.image
    raw = image.patches * len(image.stains) * image.patch**2 * image.scaling.bits
    sizes = []
    for side in config.autoencoders:
        _, stored = read_column(config.output, latents_table(side), "latent", usable.head(1), storage)
        shape = tuple(stored.shape[1:]) if len(stored) else None
        bits = math.prod(shape) * stored.dtype.itemsize * 8 if shape else 0
        fewer = 3 * image.patch**2 / math.prod(shape[2:]) if shape else 1.0
        sizes.append(LatentSize(side, shape, raw, bits, fewer))
    return sizes
