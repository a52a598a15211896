"""Percentile intervals over compounds, or over compounds and plates; wells and patches are never resampled by themselves.

A compound's AP values and its corrected p are taken as they are: an interval over compounds says how the mean would move with other
compounds of the same kind, not with other plates. Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Where
all compounds agree (none is retrieved, say) a resample cannot differ and the interval has no width. A mistake in the arguments is
a ValueError.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Floats, Ints

# quantity: its column in a table of compounds
QUANTITIES = {"fraction_retrieved": "retrieved", "mean_map": "map", "mean_normalised_map": "normalised_map"}
_OF_WELLS = {"mean_map": "ap", "mean_normalised_map": "normalised_ap"}  # quantity: its column in a table of wells
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


def intervals(
    compounds: pl.DataFrame,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    *,
    wells: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return one row per group and quantity: group, quantity, estimate, low, high, compounds, plates.

    compounds: Activity.compounds (group, compound, retrieved, map, normalised_map). wells: Activity.wells (group, compound, plate,
    ap, normalised_ap). Quantities: fraction_retrieved over compounds; mean_map and mean_normalised_map over compounds and plates
    (`hierarchical`); without `wells` over compounds alone. plates: the number of plates that were resampled, 1 if none was. The
    numbers are null if no compound has a score. draws, level, seed: see `interval`.
    """
    rows = []
    for (group,), table in compounds.sort("group").group_by("group", maintain_order=True):
        for quantity, column in QUANTITIES.items():
            if wells is not None and quantity in _OF_WELLS:
                own = wells.filter(pl.col("group") == group)
                mean, plates = hierarchical(
                    own.select("compound", "plate", value=_OF_WELLS[quantity]), draws, level, seed
                )
            else:
                mean, plates = interval(table[column].cast(pl.Float64).to_numpy(), draws, level, seed), 1
            rows.append((str(group), quantity, mean.estimate, mean.low, mean.high, mean.compounds, plates))
    numbers = dict.fromkeys(("estimate", "low", "high"), pl.Float64)
    counts = dict.fromkeys(("compounds", "plates"), pl.Int64)
    schema: dict[str, Any] = {"group": pl.String, "quantity": pl.String, **numbers, **counts}
    return _nulls(pl.DataFrame(rows, schema=schema, orient="row"))


@dataclass(frozen=True)
class Resampled:
    """Means over compounds and plates. means: (C,) of every compound over its wells. drawn: (draws,) means over resampled
    compounds, over resampled plates too where there are several. plate_means: (P,) of every plate, over the means of the compounds
    on it."""

    means: Floats
    drawn: Floats
    plate_means: Floats


def hierarchical(wells: pl.DataFrame, draws: int = 2000, level: float = 0.95, seed: int = 0) -> tuple[Interval, int]:
    """Return the mean over compounds of the mean over a compound's wells, its interval over compounds and plates, and the plates.

    The arguments are those of `resampled`. With one plate the interval says nothing about another plate. level: in (0, 1).
    """
    values = resampled(wells, draws, seed)
    plates = len(values.plate_means)
    if plates < 2:
        return _interval(np.sort(values.means), draws, level, seed), plates
    tail = (1 - level) / 2
    low, high = np.nanquantile(values.drawn, [tail, 1 - tail])
    return Interval(float(values.means.mean()), float(low), float(high), len(values.means)), plates


def resampled(wells: pl.DataFrame, draws: int = 2000, seed: int = 0) -> Resampled:
    """Return the means of compounds, and means over compounds and plates that are drawn with replacement.

    wells: compound, plate, value; rows with a null value are left out. Each draw resamples the plates, takes each compound's mean
    over its wells on the plates drawn, and resamples the compounds; a compound with no well on these plates is left out of the
    draw. With one plate the compounds alone are resampled. The wells' values are taken as they are: a draw ranks nothing again.
    """
    known = wells.filter(pl.col("value").is_not_null() & pl.col("value").is_not_nan()).sort(
        "compound", "plate", "value"
    )
    sums = known.group_by("compound", "plate", maintain_order=True).agg(pl.col("value").sum(), n=pl.len())
    names, compound = np.unique(sums["compound"].to_numpy().astype(str), return_inverse=True)
    plates, plate = np.unique(sums["plate"].to_numpy().astype(str), return_inverse=True)
    total, count = np.zeros((2, len(names), len(plates)))
    total[compound, plate], count[compound, plate] = sums["value"].to_numpy(), sums["n"].to_numpy()
    means = total.sum(axis=1) / count.sum(axis=1)
    of_cells = (sums["value"] / sums["n"]).to_numpy()  # of a compound on a plate
    plate_means = np.bincount(plate, of_cells, len(plates)) / np.bincount(plate, minlength=len(plates))
    if len(plates) < 2:
        return Resampled(means, _drawn_means(np.sort(means), draws, seed), plate_means)
    drawn = []
    for block, start in enumerate(range(0, draws, _BLOCK)):
        size = min(_BLOCK, draws - start)
        random = block_generator(seed, "hierarchical", len(names), len(plates), block=block)
        times = random.multinomial(len(plates), np.full(len(plates), 1 / len(plates)), size).T.astype(np.float64)
        wells_drawn = count @ times
        with np.errstate(invalid="ignore"):
            values = (total @ times) / np.where(wells_drawn > 0, wells_drawn, np.nan)  # (C, draws)
        chosen = random.integers(0, len(names), (len(names), size))
        drawn.append(np.nanmean(np.take_along_axis(values, chosen, axis=0), axis=0))
    return Resampled(means, np.concatenate(drawn), plate_means)


def paired_difference(
    image: pl.DataFrame,
    side: pl.DataFrame,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    *,
    wells: tuple[pl.DataFrame, pl.DataFrame] | None = None,
    key: Sequence[str] = ("well_id",),
) -> pl.DataFrame:
    """Return how a reconstruction's means differ from the originals' over the same compounds, resampled as pairs.

    image, side: Activity.compounds of the originals and of the reconstruction, one row per (group, compound). wells: the
    Activity.wells of both; None: plates are not resampled. key: the columns that name a well. The result has one row per group
    and quantity: group, quantity, image, reconstruction (means over the pairs), difference (reconstruction less image), low, high
    (as in `intervals`: differences of mAP over compounds and plates), compounds (scored on both sides), unpaired (scored on one
    side only: left out); and for fraction_retrieved, else null: lost and gained (compounds retrieved on the image alone and on
    the reconstruction alone), mcnemar_p (McNemar's exact p of these two counts, two-sided; 1 if both are 0).
    """
    columns = list(QUANTITIES.values())
    first, second = (table.select("group", "compound", *columns) for table in (image, side))
    both = first.join(
        second,
        on=["group", "compound"],
        how="full",
        suffix="_side",
        coalesce=True,
        validate="1:1",
        maintain_order="left_right",
    )
    names, values = list(dict.fromkeys([*key, "group", "compound", "plate"])), list(_OF_WELLS.values())
    pairs = None
    if wells is not None:
        before_wells, after_wells = (table.select(*names, *values) for table in wells)
        pairs = before_wells.join(after_wells, on=names, suffix="_side", maintain_order="left")
    rows: list[dict[str, Any]] = []
    for (group,), table in both.sort("group", "compound").group_by("group", maintain_order=True):
        for quantity, column in QUANTITIES.items():
            before, after = (table[name].cast(pl.Float64).to_numpy() for name in (column, f"{column}_side"))
            paired = ~np.isnan(before) & ~np.isnan(after)
            x, y = before[paired], after[paired]
            difference = _interval(y - x, draws, level, seed)
            if pairs is not None and quantity in _OF_WELLS:
                value = _OF_WELLS[quantity]
                apart = pairs.filter(pl.col("group") == group).select(
                    "compound", "plate", value=pl.col(f"{value}_side") - pl.col(value)
                )
                of_wells, _ = hierarchical(apart, draws, level, seed)
                difference = replace(difference, low=of_wells.low, high=of_wells.high)
            flags = quantity == "fraction_retrieved"
            lost, gained = int((x > y).sum()), int((y > x).sum())
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
                    "lost": lost if flags else None,
                    "gained": gained if flags else None,
                    "mcnemar_p": mcnemar_p(lost, gained) if flags and len(x) else None,
                }
            )
    numbers = dict.fromkeys(("image", "reconstruction", "difference", "low", "high"), pl.Float64)
    counts = dict.fromkeys(("compounds", "unpaired", "lost", "gained"), pl.Int64)
    schema: dict[str, Any] = {"group": pl.String, "quantity": pl.String, **numbers, **counts, "mcnemar_p": pl.Float64}
    return _nulls(pl.DataFrame(rows, schema=schema))


def mcnemar_p(lost: int, gained: int) -> float:
    """Return McNemar's exact p, two-sided: how likely `lost` and `gained` are to be so unequal if each change is a coin's throw."""
    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def _interval(values: Floats, draws: int, level: float, seed: int) -> Interval:
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"a bootstrap needs at least 1 draw and a level between 0 and 1, not {draws} and {level}")
    if not len(values):
        return Interval(np.nan, np.nan, np.nan, 0)
    tail = (1 - level) / 2
    low, high = np.quantile(_drawn_means(values, draws, seed), [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def _drawn_means(values: Floats, draws: int, seed: int) -> Floats:
    if not len(values):
        return np.full(draws, np.nan)
    return np.concatenate([values[index].mean(axis=1) for index in _resamples(len(values), draws, seed)])


def _resamples(size: int, draws: int, seed: int) -> Iterator[Ints]:
    """Yield indices (b, size), `draws` rows in all; the first rows do not depend on the number of draws."""
    for block, start in enumerate(range(0, draws, _BLOCK)):
        uniform = block_generator(seed, "bootstrap", size, block=block).random((min(_BLOCK, draws - start), size))
        yield (uniform * size).astype(np.int64)


def _nulls(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(pl.col(pl.Float64).fill_nan(None))
