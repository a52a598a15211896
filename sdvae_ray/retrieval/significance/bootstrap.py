"""Percentile intervals over compounds: compounds are resampled, never wells or patches.

A compound's AP values and its corrected p are taken as they are: the interval says how the mean over compounds would
move with other compounds of the same kind, not with other plates. Efron & Tibshirani, An Introduction to the Bootstrap
(1993), chapter 13. Where all compounds agree (none is retrieved, say) a resample cannot differ and the interval has no
width. A mistake in the arguments is a ValueError.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Floats, Ints

# quantity: its column in a table of compounds
QUANTITIES = {"fraction_retrieved": "retrieved", "mean_map": "map", "mean_normalised_map": "normalised_map"}
_BLOCK = 100  # resamples per block of the random stream


@dataclass(frozen=True)
class Interval:
    """The mean over `compounds` compounds and its percentile interval; all three numbers are NaN without a compound."""

    estimate: float
    low: float
    high: float
    compounds: int


def interval(values: ArrayLike, draws: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
    """Return the mean of `values` and its percentile interval at `level`.

    values: (C,) one number or bool per compound; a compound without a score is NaN or None and is left out. The values are
    sorted first, so the interval does not depend on the order of rows; the draws are keyed by (seed, number of compounds).
    draws: resamples. level: in (0, 1). Raises ValueError for values that are not (C,), draws < 1 and another level.
    """
    known = np.asarray(values, dtype=np.float64)
    if known.ndim != 1:
        raise ValueError(f"a bootstrap over compounds takes one number per compound, not an array of {known.shape}")
    return _interval(np.sort(known[~np.isnan(known)]), draws, level, seed)


def intervals(compounds: pl.DataFrame, draws: int = 2000, level: float = 0.95, seed: int = 0) -> pl.DataFrame:
    """Return one row per group and quantity: group, quantity, estimate, low, high, compounds.

    compounds: Activity.compounds (group, compound, retrieved, map, normalised_map). Quantities: fraction_retrieved, mean_map,
    mean_normalised_map. The numbers are null if no compound has a score. draws, level, seed: see `interval`.
    """
    rows = []
    for (group,), table in compounds.sort("group").group_by("group", maintain_order=True):
        for quantity, column in QUANTITIES.items():
            mean = interval(table[column].cast(pl.Float64).to_numpy(), draws, level, seed)
            rows.append((str(group), quantity, mean.estimate, mean.low, mean.high, mean.compounds))
    numbers = dict.fromkeys(("estimate", "low", "high"), pl.Float64)
    schema: dict[str, Any] = {"group": pl.String, "quantity": pl.String, **numbers, "compounds": pl.Int64}
    return _nulls(pl.DataFrame(rows, schema=schema, orient="row"))


def paired_difference(
    image: pl.DataFrame, side: pl.DataFrame, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> pl.DataFrame:
    """Return how a reconstruction's means differ from the originals' over the same compounds, resampled as pairs.

    image, side: Activity.compounds of the originals and of the reconstruction, one row per (group, compound). The result has
    one row per group and quantity: group, quantity, image, reconstruction (means over the pairs), difference (reconstruction
    less image), low, high, compounds (scored on both sides), unpaired (scored on one side only: left out), lost and gained
    (compounds retrieved on the image alone and on the reconstruction alone, McNemar's two counts; null for quantities other
    than fraction_retrieved).
    """
    columns = list(QUANTITIES.values())
    first, second = (table.select("group", "compound", *columns) for table in (image, side))
    both = first.join(second, on=["group", "compound"], how="full", suffix="_side", coalesce=True, validate="1:1")
    rows: list[dict[str, Any]] = []
    for (group,), table in both.sort("group", "compound").group_by("group", maintain_order=True):
        for quantity, column in QUANTITIES.items():
            before, after = (table[name].cast(pl.Float64).to_numpy() for name in (column, f"{column}_side"))
            paired = ~np.isnan(before) & ~np.isnan(after)
            x, y = before[paired], after[paired]
            difference = _interval(y - x, draws, level, seed)
            flags = quantity == "fraction_retrieved"
            rows.append(
                {
                    "group": str(group),
                    "quantity": quantity,
                    "image": float(x.mean()) if len(x) else None,
                    "reconstruction": float(y.mean()) if len(y) else None,
                    "difference": difference.estimate,
                    "low": difference.low,
                    "high": difference.high,
                    "compounds": len(x),
                    "unpaired": int((np.isnan(before) != np.isnan(after)).sum()),
                    "lost": int((x > y).sum()) if flags else None,
                    "gained": int((y > x).sum()) if flags else None,
                }
            )
    numbers = dict.fromkeys(("image", "reconstruction", "difference", "low", "high"), pl.Float64)
    counts = dict.fromkeys(("compounds", "unpaired", "lost", "gained"), pl.Int64)
    schema: dict[str, Any] = {"group": pl.String, "quantity": pl.String, **numbers, **counts}
    return _nulls(pl.DataFrame(rows, schema=schema))


def _interval(values: Floats, draws: int, level: float, seed: int) -> Interval:
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"a bootstrap needs at least 1 draw and a level between 0 and 1, not {draws} and {level}")
    if not len(values):
        return Interval(np.nan, np.nan, np.nan, 0)
    means = np.concatenate([values[index].mean(axis=1) for index in _resamples(len(values), draws, seed)])
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def _resamples(size: int, draws: int, seed: int) -> Iterator[Ints]:
    """Yield indices (b, size), `draws` rows in all; the first rows do not depend on the number of draws."""
    for block, start in enumerate(range(0, draws, _BLOCK)):
        uniform = block_generator(seed, "bootstrap", size, block=block).random((min(_BLOCK, draws - start), size))
        yield (uniform * size).astype(np.int64)


def _nulls(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(pl.col(pl.Float64).fill_nan(None))
