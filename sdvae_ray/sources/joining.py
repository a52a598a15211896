"""Joins tables to the rows of a manifest: columns under the manifest's names, one row per key, and no contradiction.

A row that has no match in a joined table gets nulls. Two files that contradict each other are a DataError that names both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.schema import METADATA
from sdvae_ray.settings.values import MISSING_WORDS
from sdvae_ray.sources.gallery import read_table
from sdvae_ray.sources.keys import identifier
from sdvae_ray.sources.tables import FILE, ROW, first_row, is_empty, named_columns, place
from sdvae_ray.storage import Storage

_THEIRS = "_theirs"  # columns of a join, dropped after it
OTHER_FILE, OTHER_ROW = "_other_file", "_other_row"


@dataclass
class TableReader:
    """Reads tables with the manifest's names of their columns, each once. words: that mean "missing"."""

    storage: Storage
    words: Sequence[str] = MISSING_WORDS
    _tables: dict[str, tuple[pl.DataFrame, list[str]]] = field(default_factory=dict)
    _places: dict[tuple[str, ...], str | None] = field(default_factory=dict)

    def read(self, uri: str) -> tuple[pl.DataFrame, list[str]]:
        """Return (the table as text, with `_file` and `_row`; notes). Raises DataError as `read_table`."""
        if uri not in self._tables:
            table, notes = read_table(uri, self.storage, self.words)
            self._tables[uri] = named(table), notes
        return self._tables[uri]

    def first_of(self, uris: Sequence[str]) -> str | None:
        """Return the first of some places where there is a file; None if there is none."""
        key = tuple(uris)
        if key not in self._places:
            self._places[key] = next((uri for uri in uris if self.storage.exists(uri)), None)
        return self._places[key]


def named(table: pl.DataFrame) -> pl.DataFrame:
    """Return the table with its columns named as in a manifest. Raises DataError if two columns get one name."""
    names = {c: identifier(c) or METADATA + c.removeprefix(METADATA) for c in named_columns(table)}
    seen: dict[str, str] = {}
    for column, name in names.items():
        if name in seen:
            raise DataError(f"{table[FILE][0]}: the columns {seen[name]!r} and {column!r} are both {name}")
        seen[name] = column
    return table.rename(names)


def one_row_each(table: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return the table without repeats of a whole row. Raises DataError if a key still has two rows."""
    table = table.unique([name for name in table.columns if name != ROW], keep="first", maintain_order=True)
    twice = table.filter(pl.struct(key).is_duplicated())
    if twice.height:
        values = twice.select(key).row(0)
        rows = twice.filter(*(pl.col(name) == value for name, value in zip(key, values, strict=True)))[ROW]
        said = ", ".join(f"{name} {value!r}" for name, value in zip(key, values, strict=True))
        raise DataError(f"{twice[FILE][0]}, rows {rows[0]} and {rows[1]}: two different rows for {said}")
    return table


def attach(table: pl.DataFrame, other: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return the left join, with `_other_file` and `_other_row`, null without a match. `key` is unique in `other`."""
    other = other.rename({FILE: OTHER_FILE, ROW: OTHER_ROW})
    both = [name for name in other.columns if name in table.columns and name not in key]
    joined = table.join(other, on=list(key), how="left", suffix=_THEIRS, maintain_order="left")
    for name in both:
        if row := first_row(
            joined, (pl.col(name) != pl.col(name + _THEIRS)) & ~is_empty(name) & ~is_empty(name + _THEIRS)
        ):
            theirs = f"{row[OTHER_FILE]}, row {row[OTHER_ROW]} says {row[name + _THEIRS]!r}"
            raise DataError(f"{place(row)}: {name} is {row[name]!r}, but {theirs}")
    filled = joined.with_columns(
        pl.coalesce(pl.when(~is_empty(one)).then(one) for one in (name, name + _THEIRS))
        .fill_null(pl.coalesce(name, name + _THEIRS))
        .alias(name)
        for name in both
    )
    return filled.drop(name + _THEIRS for name in both)
