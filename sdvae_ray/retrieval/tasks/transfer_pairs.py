"""The pairs of groups of transfer, and the table of its scores: its columns, and its rows if nothing could be scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import polars as pl

from sdvae_ray.errors import DataError

ACTIVITY, DISTINCTIVENESS = TASKS = ("transfer_activity", "transfer_distinctiveness")
NUMBERS = ("map", "normalised_map", "fraction_retrieved")
SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("column", "source", "target", "task"), pl.String),
    **dict.fromkeys(("queries", "groups", "zero_norm"), pl.Int64),
    **dict.fromkeys(("mean_map", "mean_normalised_map", "fraction_retrieved"), pl.Float64),
    "status": pl.String,
    **{f"floor_{name}": pl.Float64 for name in NUMBERS},
    "floor_status": pl.String,
    "position_groups": pl.Int64,
    **{f"position_{name}": pl.Float64 for name in NUMBERS},
    "position_status": pl.String,
}
_MISSING = "-"  # a group without a value in a column


@dataclass(frozen=True)
class Pair:
    """Two groups, by their names, that differ in `column` alone. Transfer is scored from `first` to `second` and back."""

    column: str
    first: str
    second: str

    @property
    def ways(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Return the two directions, each as (source, target)."""
        return (self.first, self.second), (self.second, self.first)


def pairs_of(groups: pl.DataFrame, columns: Sequence[str], along: Sequence[str]) -> list[Pair]:
    """Return every pair of groups that differ in one column of `along` and agree in all others of `columns`, sorted.

    groups: rows with `group` (a name) and `columns`; rows may repeat, and a missing value is a value like any other. Raises
    DataError for a name that stands for several combinations, ValueError for a column that does not exist.
    """
    columns, along = list(dict.fromkeys(columns)), list(dict.fromkeys(along))
    for name in (*along, *columns):
        if name not in columns or name not in groups.columns:
            raise ValueError(f"no column {name!r} to transfer along, only {', '.join(columns)}")
    values = pl.col(columns).cast(pl.String).fill_null(_MISSING)
    known = groups.select("group", values).unique().sort("group")
    if known["group"].is_duplicated().any():
        text = known.filter(pl.col("group").is_duplicated())["group"][0]
        raise DataError(f"group {text!r} stands for several combinations of {', '.join(columns)}")
    pairs = []
    for column in along:
        alike: dict[tuple[str, ...], list[str]] = {}
        for row in known.rows(named=True):
            alike.setdefault(tuple(row[name] for name in columns if name != column), []).append(row["group"])
        pairs += [Pair(column, *two) for texts in alike.values() for two in combinations(texts, 2)]
    return pairs


def unscored(pair: Pair, reason: str) -> pl.DataFrame:
    """Return the rows that `transfer` would return, with null numbers and with `reason` in every status."""
    rows = [{"column": pair.column, "source": a, "target": b, "task": task} for a, b in pair.ways for task in TASKS]
    return pl.DataFrame(rows, schema=SCHEMA).with_columns(pl.col("^.*status$").fill_null(reason))
