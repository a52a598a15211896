"""Reads tables of profiles from other programs (CellProfiler, DeepProfiler, pycytominer): whose wells, and which features."""

import fnmatch
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.schema import METADATA
from sdvae_ray.settings.values import MISSING_WORDS
from sdvae_ray.sources.keys import identifier, with_canonical_keys, without_words
from sdvae_ray.sources.tables import FILE, ROW, as_text, listed, named_columns, place, read_columns
from sdvae_ray.storage import Storage

# Columns of numbers that say where an object is or how many there are, and not what it looks like
_NO_FEATURE = re.compile(
    r"index|level_\d+|.*_?(ImageNumber|ObjectNumber|TableNumber|Object_Number)|ImageId|Image_.*|(row|column|col|field|fov|count)"
    r"|Count_.*|.*_Count(_.*)?|.*_Location_Center_[XYZ]",
    re.IGNORECASE,
)
_AGAIN = re.compile(r"(.+?)(\.\d+|_duplicated_\d+)")  # a header that pandas or polars has read twice
_DECIMAL_COMMA = r"^\s*([-+]?\d*),(\d+(?:[eE][-+]?\d+)?)\s*$"


@dataclass(frozen=True)
class ProfileTable:
    """Profiles of W wells.

    wells     every Metadata_* column as text, "" for a missing value
    features  (W, D) float64, finite
    names     of the D features
    notes     sentences that a person should read
    places    file and row of the W wells; empty: not known
    """

    wells: pl.DataFrame
    features: np.ndarray
    names: list[str]
    notes: list[str]
    places: Sequence[str] = ()


Source = str | Path | pl.DataFrame


def read_profiles(
    profiles: Source | Sequence[Source],
    storage: Storage,
    prefixes: Sequence[str] = (),
    drop: Sequence[str] = (),
    missing: Sequence[str] = MISSING_WORDS,
) -> ProfileTable:
    """Return the profiles of files, URIs or frames, stacked on the columns that all of them have.

    A feature is a column of numbers that is not Metadata_*. Columns that identify, place or count (ImageNumber, Image_*, Plate,
    *_Count, ...) and headers that stand twice are features only if a prefix asks for them. prefixes: keep the features that start
    with one of them; empty: all. drop: globs of features to leave out. missing: words that mean "nothing". Numbers that are missing
    or not finite become 0, with a note. Plates, wells and sites have one form. Raises DataError for a file that is not a table, for
    files without a common feature, and for a prefix or glob that matches nothing.
    """
    sources: Sequence[Source] = [profiles] if isinstance(profiles, str | Path | pl.DataFrame) else profiles
    tables, notes = [], list[str]()
    for number, source in enumerate(sources, 1):
        if isinstance(source, pl.DataFrame):
            where = "the frame" if len(sources) == 1 else f"frame {number}"
            table = source.with_row_index(ROW, offset=1).with_columns(pl.lit(where).alias(FILE))
        else:
            table, where = read_columns(str(source), storage), str(source)
        table, more = _with_text_metadata(table, missing)
        tables.append(table)
        notes += [f"{where}: {note}" for note in more]
    where = ", ".join(str(table[FILE][0]) for table in tables if table.height)
    everywhere = set(tables[0].columns).intersection(*(table.columns for table in tables[1:]))
    common = [name for name in named_columns(tables[0]) if name in everywhere]
    if lost := sorted({name for table in tables for name in named_columns(table)} - set(common)):
        notes.append(f"{len(lost)} columns are not in every file and are left out, such as {lost[0]}")
    names = [name for name in common if not name.startswith(METADATA)]
    names, more = _without_identifiers(names, prefixes)
    notes += more
    names = _chosen(names, prefixes, drop)
    text_cells: dict[str, str] = {}
    stacked = pl.concat([_with_numbers(table, names, missing, text_cells) for table in tables], how="vertical")
    features, names, more = _features(stacked, names, text_cells)
    notes += more
    if not names:
        raise DataError(f"{where}: there is no column of features (a number, and not {METADATA}*)")
    kinds = Counter(name.split("_")[0] for name in names)
    notes.append(f"{len(names)} features: {listed((f'{kind} {count}' for kind, count in kinds.most_common()), 8)}")
    wells = stacked.select(name for name in common if name.startswith(METADATA))
    places = [place(row) for row in stacked.select(FILE, ROW).iter_rows(named=True)]
    return ProfileTable(wells, np.ascontiguousarray(features), names, notes, places)


def _with_text_metadata(table: pl.DataFrame, missing: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    metadata = [name for name in table.columns if name.startswith(METADATA)]
    text = as_text(table.select(FILE, ROW, *metadata), [name for name in metadata if identifier(name)])
    text, notes = without_words(text, metadata, missing)
    text, forms = with_canonical_keys(text)
    return table.with_columns(text.select(metadata)), notes + forms


def _without_identifiers(names: Sequence[str], prefixes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names without columns that are no features unless a prefix asks for them, and a note about those."""
    again = {name for name in names if (match := _AGAIN.fullmatch(name)) and match[1] in set(names)}
    left_out = [name for name in names if identifier(name) or _NO_FEATURE.fullmatch(name) or name in again]
    left_out = [name for name in left_out if not (prefixes and name.startswith(tuple(prefixes)))]
    notes = []
    if left_out:
        notes.append(
            f"{len(left_out)} columns identify, place or count, or repeat a header, and are no features unless --features asks "
            f"for them: {listed(left_out, 8)}"
        )
    return [name for name in names if name not in set(left_out)], notes


def _with_numbers(
    table: pl.DataFrame, names: Sequence[str], missing: Sequence[str], text_cells: dict[str, str]
) -> pl.DataFrame:
    """Return the table with the named columns as float64; a decimal comma is a point. text_cells: column -> its first cell that is
    text, with its place; columns are added.
    """
    types = table.schema
    texts = [name for name in names if not types[name].is_numeric() and types[name] != pl.Boolean]
    table = table.with_columns(pl.col(name).cast(pl.String, strict=False) for name in texts)
    numbers = table.with_columns(pl.col(names).cast(pl.Float64, strict=False))
    with_gaps = [name for name in texts if numbers[name].null_count()]
    cleaned, _ = without_words(table.select(FILE, ROW, *with_gaps), with_gaps, missing)
    points = cleaned.with_columns(
        pl.col(name).str.replace(_DECIMAL_COMMA, "$1.$2").cast(pl.Float64, strict=False) for name in with_gaps
    )
    for name in with_gaps:
        wrong = cleaned.filter(points[name].is_null() & (pl.col(name) != "").fill_null(False))
        if wrong.height:
            row = wrong.select(FILE, ROW, name).row(0, named=True)
            text_cells.setdefault(name, f"{row[name]!r} in {place(row)}")
    rest = [name for name in table.columns if name in (FILE, ROW) or name.startswith(METADATA)]
    return numbers.with_columns(points.select(with_gaps)).select(*rest, *names)


def _features(
    stacked: pl.DataFrame, names: list[str], text_cells: Mapping[str, str]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the features (W, D) float64, their names, and notes about columns and values that do not count."""
    notes = []
    text = [name for name in names if stacked[name].null_count() == stacked.height and stacked.height]
    if text:
        notes.append(f"{len(text)} columns hold no numbers and are no features, such as {text[0]}")
    kept = [name for name in names if name not in set(text)]
    if mixed := [name for name in kept if name in text_cells]:
        notes.append(
            f"{len(mixed)} columns hold numbers and text and are no features, such as {mixed[0]} ({text_cells[mixed[0]]})"
        )
        kept = [name for name in kept if name not in text_cells]
    features = stacked.select(kept).to_numpy().astype(np.float64)
    bad = ~np.isfinite(features)
    if bad.any():
        columns = int(bad.any(axis=0).sum())
        notes.append(f"{int(bad.sum())} values of {columns} features are not finite and count as 0")
        features = np.where(bad, 0.0, features)
    return features, kept, notes


def _chosen(names: list[str], prefixes: Sequence[str], drop: Sequence[str]) -> list[str]:
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise DataError(
                f"no feature starts with {prefix!r}{did_you_mean(prefix, {n.split('_')[0] for n in names})}"
            )
    for glob in drop:
        if not fnmatch.filter(names, glob):
            raise DataError(f"no feature matches {glob!r}: there are {len(names)}, such as {names[:1]}")
    kept = [name for name in names if not prefixes or name.startswith(tuple(prefixes))]
    return [name for name in kept if not any(fnmatch.fnmatchcase(name, glob) for glob in drop)]
