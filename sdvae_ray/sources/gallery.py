"""Reads the Cell Painting Gallery's files: its tables as text, and load_data files in both header forms.

A cell keeps its text ('01', '4.0E-06', ''). Until the manifest is whole, a row carries its origin in `_file` and `_row`: the row of
a CSV is its line, the header being row 1 (a line break within quotes does not count); the rows of a Parquet file count from 1.

A fault of a file is a DataError: one sentence that names the file and the row.
"""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from sdvae_ray.errors import DataError, did_you_mean, nearest, one_line
from sdvae_ray.schema import (
    BATCH_COLUMN,
    FOV_ID,
    KEYS,
    METADATA,
    PLATE_COLUMN,
    SOURCE_COLUMN,
    WELL_COLUMN,
    channel_column,
    illum_column,
    uri_column,
)
from sdvae_ray.storage import Storage, absolute, is_remote

FILE, ROW = "_file", "_row"
PLATE_MAP = "Metadata_Plate_Map_Name"

# A row is known by where it is, or by what is in the well. A metadata table is joined on these columns alone.
WHERE = (*KEYS, PLATE_MAP)
WHAT = ("Metadata_broad_sample", "Metadata_JCP2022", "Metadata_pert_iname")
IDENTIFIERS = {name.removeprefix(METADATA).lower(): name for name in (*WHERE, *WHAT)}
# the names in platemaps and in experiment metadata
IDENTIFIERS |= {"assay_plate_barcode": PLATE_COLUMN, "well_position": WELL_COLUMN}

# <project>/<source>/images/<batch>/ where the project is a cpgNNNN, or the batch holds the gallery's own folders.
_LAYOUTS = (r"(?:^|/)cpg\d{4}[^/]*/([^/]+)/images/([^/]+)/", r"(?:^|/)[^/]+/([^/]+)/images/([^/]+)/(?:images|illum)/")
_OPTIONS = {SOURCE_COLUMN: "--source", BATCH_COLUMN: "--batch"}


def place(row: Mapping[str, Any]) -> str:
    """Return the file and the row, for an error."""
    return f"{row[FILE]}, row {row[ROW]}"


def first_row(table: pl.DataFrame, condition: pl.Expr) -> dict[str, Any] | None:
    """Return the first row, by file and line, for which the condition holds; None if it holds for no row."""
    rows = table.filter(condition)
    return rows.sort(FILE, ROW).row(0, named=True) if rows.height else None


def is_empty(column: str) -> pl.Expr:
    """Return an expression: True if the column is null, or text of spaces alone."""
    return pl.col(column).is_null() | (pl.col(column).str.strip_chars() == "")


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return the first `most` names joined by commas, with the number of all names if there are more."""
    names = list(names)
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def read_table(uri: str, storage: Storage) -> pl.DataFrame:
    """Read a CSV or TSV file, gzipped or not, or a Parquet file, told by its content: columns of text, `_file` and `_row`.

    Raises DataError for a file that is absent, damaged, empty or not a table.
    """
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise DataError(f"{uri} does not exist") from error
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        table = _read_parquet(data) if data[:4] == b"PAR1" else _read_csv(data, uri)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{uri} is damaged: its gzip stream ends early or is not gzip") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{uri}, row 1: the header is not UTF-8 text") from error
    except (pa.ArrowInvalid, pl.exceptions.PolarsError) as error:
        raise DataError(_unreadable(uri, one_line(error, None))) from error
    if table.height == 0:
        raise DataError(f"{uri} is empty: it has a header and no rows")
    return table.with_columns(pl.lit(uri).alias(FILE))


def _read_csv(data: bytes, uri: str) -> pl.DataFrame:
    """Read a CSV with pyarrow, since polars fills up a line that is too short without an error."""
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise DataError(f"{uri} is empty")
    first = re.split(rb"\r\n?|\n", data, maxsplit=1)[0].decode("utf-8-sig")
    separator = "\t" if "\t" in first else ","
    header = next(csv.reader([first], delimiter=separator), [])
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"{uri}, row 1: the column {twice[0]!r} stands twice in the header")
    arrow = pa_csv.read_csv(
        io.BytesIO(data),
        read_options=pa_csv.ReadOptions(use_threads=False),  # with several threads an error does not name its row
        parse_options=pa_csv.ParseOptions(delimiter=separator, newlines_in_values=True, ignore_empty_lines=False),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
        ),
    )
    if arrow.column_names != header:  # only the columns of `header` are kept as text
        raise DataError(f"{uri}, row 1: the header is not one line of column names")
    table = pl.DataFrame(pl.from_arrow(arrow)).with_row_index(ROW, offset=2)
    return table.filter(pl.any_horizontal(pl.col(name) != "" for name in header))  # blank lines count and are no rows


def _read_parquet(data: bytes) -> pl.DataFrame:
    table = pl.read_parquet(io.BytesIO(data))
    numbers = [
        name  # pandas stores a column of whole numbers with a gap as floats
        for name, dtype in table.schema.items()
        if dtype.is_float() and identifier(name) and (table[name] == table[name].floor()).all()
    ]
    return table.with_columns(pl.col(numbers).cast(pl.Int64)).cast(pl.String).with_row_index(ROW, offset=1)


def _unreadable(uri: str, message: str) -> str:
    if row := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", message):
        return f"{uri}, row {row[1]}: {row[3]} values where the header has {row[2]} columns"
    if row := re.search(r"Row #(\d+): .*invalid UTF8", message):
        return f"{uri}, row {row[1]}: not UTF-8 text"
    return f"{uri} cannot be read: {message[:200]}"


def identifier(column: str) -> str | None:
    """Return the manifest's name of an identifier: with or without Metadata_, in any case, or an alias;
    None for another column.
    """
    return IDENTIFIERS.get(column.removeprefix(METADATA).lower())


def read_load_data(
    uri: str, stains: Sequence[str], defaults: Mapping[str, str], storage: Storage
) -> tuple[pl.DataFrame, list[str]]:
    """Return (rows of a manifest with `_file` and `_row`, in the order of the load_data file, nothing rewritten; notes).

    Locations are URL_<Orig|Illum><Stain>, or PathName_ and FileName_ joined by one slash. defaults: keys (Metadata_Source,
    Metadata_Batch) that the file has no column for; without a default they are read from the image paths. Raises DataError for a
    file that is not load_data, and for a stain or key that is missing.
    """
    raw = read_table(uri, storage)
    here = {match[1] for name in raw.columns if (match := re.fullmatch(r"(?:URL|FileName)_Orig(.+)", name))}
    if not here:
        raise DataError(_not_load_data(uri, raw.columns, stains))
    header = uri if raw[ROW].min() == 1 else f"{uri}, row 1 (the header)"
    if missing := [stain for stain in stains if stain not in here]:
        wanted = "URL_Orig{0}, or FileName_Orig{0} with PathName_Orig{0}".format(missing[0])
        raise DataError(
            f"{header}: no images of the stain {missing[0]!r} ({wanted}); its stains are {listed(sorted(here), 12)}"
        )
    notes = []
    if others := sorted(stain for stain in here - set(stains) if not stain.lower().startswith("brightfield")):
        notes.append(f"stains that were not asked for are left out: {', '.join(others)}")
    table = raw.select(
        pl.col(f"^{METADATA}.*$"),
        *(_location(raw.columns, "Orig", stain, header).alias(uri_column(stain)) for stain in stains),
        *(_location(raw.columns, "Illum", stain, header).alias(illum_column(stain)) for stain in stains),
        *(pl.lit(0, pl.Int32).alias(channel_column(stain)) for stain in stains),
        FILE,
        ROW,
    )
    for key in KEYS:
        if key in raw.columns:
            if key in defaults and (raw[key] != defaults[key]).any():
                notes.append(f"{key} is in the file and stays; {defaults[key]!r} is not used")
        elif key in defaults:
            table = table.with_columns(pl.lit(defaults[key]).alias(key))
        elif key in _OPTIONS:
            table = _key_from_path(table, key, uri_column(stains[0]))
            values = listed(table[key].unique().drop_nulls().sort())
            notes.append(f"{key} is not in the file; read from the image paths: {values}")
        else:
            raise DataError(f"{header}: no column {key}{did_you_mean(key, raw.select(f'^{METADATA}.*$').columns)}")
    return table.with_columns(pl.concat_str(KEYS, separator="/").alias(FOV_ID)), notes


def _location(columns: Sequence[str], kind: str, stain: str, header: str) -> pl.Expr:
    """Return the location of a stain's image or illumination function; null if the file has none."""
    url, name, path = (f"{part}_{kind}{stain}" for part in ("URL", "FileName", "PathName"))
    locations = [pl.when(~is_empty(url)).then(url)] if url in columns else []
    if name in columns:
        if path not in columns:
            raise DataError(f"{header}: {name} without {path}")
        joined = pl.col(path).str.strip_chars_end("/") + "/" + pl.col(name).str.strip_chars_start("/")
        locations.append(pl.when(~is_empty(name) & ~is_empty(path)).then(joined))
    return pl.coalesce(locations) if locations else pl.lit(None, pl.String)


def _key_from_path(table: pl.DataFrame, key: str, location: str) -> pl.DataFrame:
    group = 1 if key == SOURCE_COLUMN else 2
    values = pl.coalesce(pl.col(location).str.extract(layout, group) for layout in _LAYOUTS)
    table = table.with_columns(values.alias(key))
    if row := first_row(table, pl.col(key).is_null() & pl.col(location).is_not_null()):
        raise DataError(
            f"{place(row)}: no column {key}, and {row[location]} has no <project>/<source>/images/<batch>/ to read it "
            f"from; give it with {_OPTIONS[key]}"
        )
    return table


def _not_load_data(uri: str, columns: Sequence[str], stains: Sequence[str]) -> str:
    known = {identifier(column) for column in columns}
    if FOV_ID in columns:
        return f"{uri} is not a load_data file: it looks like a manifest"
    if {PLATE_COLUMN, PLATE_MAP} <= known or "well_position" in columns:
        return f"{uri} is not a load_data file: it looks like a barcode map, a platemap or a metadata table"
    wanted = [f"{part}_Orig{stain}" for stain in stains for part in ("URL", "FileName")]
    matches = [(column, match) for column in columns if (match := nearest(column, wanted, 0.7))]
    hint = f"; {matches[0][0]!r} is nearest to {matches[0][1]!r}" if matches else ""
    seen = listed(column for column in columns if column not in (FILE, ROW))
    return f"{uri} is not a load_data file: no column such as {wanted[0]} or {wanted[1]}{hint}; its columns are {seen}"


def rewrite(
    table: pl.DataFrame, stains: Sequence[str], rewrites: Sequence[tuple[str, str]]
) -> tuple[pl.DataFrame, set[tuple[str, str]]]:
    """Return the table with a prefix FROM replaced by TO in all locations, by the first rule that matches; and the rules that
    matched.

    If FROM or TO ends in a slash, one slash joins TO and the rest. A local TO is made absolute, since workers run elsewhere.
    """
    columns = [column(stain) for stain in stains for column in (uri_column, illum_column)]
    values: dict[str, pl.Expr] = {column: pl.col(column) for column in columns}
    done: dict[str, pl.Expr] = dict.fromkeys(columns, pl.lit(False))
    used = set()
    for start, to in rewrites:
        slash = bool(to) and (to.endswith("/") or start.endswith("/"))
        new = to if is_remote(to) or not to else absolute(to)
        new = new.rstrip("/") + "/" if slash and not new.endswith("://") else new
        hits = {column: pl.col(column).str.starts_with(start) & ~done[column] for column in columns}
        if table.select(pl.any_horizontal(hit.any() for hit in hits.values())).item():
            used.add((start, to))
        for column, hit in hits.items():
            rest = pl.col(column).str.strip_prefix(start)
            rest = rest.str.strip_chars_start("/") if slash else rest
            values[column] = pl.when(hit).then(pl.lit(new) + rest).otherwise(values[column])
            done[column] = done[column] | hit
    return table.with_columns(value.alias(column) for column, value in values.items()), used
