"""Reads a table of any program: load_data, platemaps, metadata, profiles. One reader, one set of messages.

A table is CSV (commas, semicolons or tabs; UTF-8 or UTF-16, with or without a byte order mark; any line ends; quotes) or Parquet,
and either may be gzipped. Its content tells, not its name. A row carries its origin in `_file` and `_row`: the row of a CSV is its
line, the header being row 1 (a line break within quotes does not count); the rows of a Parquet file count from 1.

A fault of a file is a DataError: one sentence that names the file and the row.
"""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from sdvae_ray.errors import DataError, one_line
from sdvae_ray.storage import Storage

FILE, ROW = "_file", "_row"
_INDEX = re.compile(r"Unnamed: \d+(_level_\d+)?|__index_level_\d+__")  # the names that pandas gives to an index
_SEPARATORS = ",\t;"  # the first of those that give equally many columns
_EXCEL = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # xlsx (a zip file), xls
_BLOCK = 1 << 20  # bytes: pyarrow wants a row within a block


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


def named_columns(table: pl.DataFrame) -> list[str]:
    """Return the names of the columns that the file has: all without `_file` and `_row`."""
    return [name for name in table.columns if name not in (FILE, ROW)]


def read_columns(uri: str, storage: Storage) -> pl.DataFrame:
    """Read a table: columns of text from a CSV, columns of their own types from Parquet; `_file` and `_row`.

    Columns that pandas wrote as an index are left out. Raises DataError for a file that is absent, damaged, empty or not a table,
    for a header that has a name twice, and for a row that repeats the header.
    """
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise DataError(f"{uri} does not exist") from error
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        is_parquet = data[:4] == b"PAR1"
        table = pl.read_parquet(io.BytesIO(data)).with_row_index(ROW, offset=1) if is_parquet else _read_csv(data, uri)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{uri} is damaged: its gzip stream ends early or is not gzip") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(f"{uri} cannot be read: {one_line(error)}") from error
    if table.height == 0:
        raise DataError(f"{uri} is empty: it has a header and no rows")
    return table.select(name for name in table.columns if not _INDEX.fullmatch(name)).with_columns(
        pl.lit(uri).alias(FILE)
    )


def as_text(table: pl.DataFrame, whole: Iterable[str] = ()) -> pl.DataFrame:
    """Return the table with every column as text; null is "".

    whole: columns whose numbers are written without a fraction if none has one, since pandas stores whole numbers with a gap as
    floats. Raises DataError for a column that has no text, such as a list.
    """
    types = table.schema
    floats = [name for name in whole if types[name].is_float()]
    numbers = table.with_columns(pl.col(name).fill_nan(None) for name in floats)
    integers = [name for name in floats if (numbers[name] == numbers[name].floor()).all()]
    try:
        texts = numbers.with_columns(pl.col(integers).cast(pl.Int64)).with_columns(
            pl.col(name).cast(pl.String).fill_null("") for name in named_columns(table)
        )
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{table[FILE][0]} cannot be read: {one_line(error)}") from error
    return texts


def _read_csv(data: bytes, uri: str) -> pl.DataFrame:
    """Read a CSV with pyarrow, since polars fills up a line that is too short without an error."""
    if data.startswith(_EXCEL):
        raise DataError(f"{uri} is a spreadsheet or a zip file; save it as CSV, TSV or Parquet")
    data = _as_utf8(data, uri)
    if not data.strip():
        raise DataError(f"{uri} is empty")
    lines_before = 0
    if hint := re.match(rb"sep=(.)\r?\n", data):  # Excel's own first line
        data, lines_before = data[hint.end() :], 1
    header, separator = _header(data, uri, lines_before + 1)
    names = [name or f"_unnamed_{number}" for number, name in enumerate(header)]
    texts = dict.fromkeys(_raw_header(data, separator), pa.string())
    try:
        arrow = pa_csv.read_csv(
            io.BytesIO(data),
            # with several threads an error does not name its row
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=max(_BLOCK, min(len(data), 1 << 30))),
            parse_options=pa_csv.ParseOptions(delimiter=separator, newlines_in_values=True, ignore_empty_lines=False),
            convert_options=pa_csv.ConvertOptions(column_types=texts, strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        raise DataError(_unreadable(uri, one_line(error, None), lines_before)) from error
    if arrow.num_columns != len(names):
        raise DataError(f"{uri}, row {lines_before + 1}: the header is not one line of column names")
    table = pl.DataFrame(pl.from_arrow(arrow.rename_columns(names))).with_row_index(ROW, offset=lines_before + 2)
    table = table.filter(pl.any_horizontal(pl.col(name) != "" for name in names))  # blank lines count and are no rows
    unnamed = [name for name, given in zip(names, header, strict=True) if not given]
    for name in unnamed:
        if name != names[0] and (table[name].str.strip_chars() != "").any():
            raise DataError(f"{uri}, row {lines_before + 1}: column {names.index(name) + 1} has values and no name")
    table = table.drop(unnamed)  # an index that pandas wrote, or the empty columns after the last one
    again = pl.all_horizontal(pl.col(name).str.strip_chars() == name for name in table.columns if name != ROW)
    if table.width > 2 and (rows := table.filter(again)).height:
        raise DataError(f"{uri}, row {rows[ROW][0]}: the header stands there again")
    return table


def _as_utf8(data: bytes, uri: str) -> bytes:
    """Return the text as UTF-8 without a byte order mark; UTF-16 is told by its mark, or by its zero bytes."""
    if data.startswith(codecs.BOM_UTF8):
        return data[len(codecs.BOM_UTF8) :]
    start = data[:512]
    encoding = "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None
    zeros = [start[parity::2].count(0) for parity in (0, 1)]
    if encoding is None and sum(zeros) > len(start) / 4:
        encoding = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    try:
        text = data if encoding is None else data.decode(encoding).encode()
    except UnicodeError:
        text = data
    if b"\0" in text:
        raise DataError(f"{uri} is no table: it is neither text nor Parquet")
    return text


def _first_line(data: bytes) -> bytes:
    return re.split(rb"\r\n?|\n", data, maxsplit=1)[0]


def _raw_header(data: bytes, separator: str) -> list[str]:
    return next(csv.reader([_first_line(data).decode(errors="replace")], delimiter=separator), [])


def _header(data: bytes, uri: str, row: int) -> tuple[list[str], str]:
    """Return the names of the columns, without spaces around them, and the separator."""
    try:
        first = _first_line(data).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{uri}, row {row}: the header is not UTF-8 text") from error
    if first.count('"') % 2:
        raise DataError(f"{uri}, row {row}: the header is not one line of column names")
    separator = max(_SEPARATORS, key=lambda one: len(next(csv.reader([first], delimiter=one), [])))
    header = ["" if _INDEX.fullmatch(name) else name.strip() for name in _raw_header(data, separator)]
    if twice := sorted(name for name, count in Counter(header).items() if name and count > 1):
        second = _raw_header(data[len(_first_line(data)) :].lstrip(), separator)
        two_lines = len(set(second)) == len(header) and not any(re.match(r"\s*[-+.\d]", name) for name in second)
        hint = "; its names seem to be in row 2: delete row 1" if two_lines else ""
        raise DataError(f"{uri}, row {row}: the column {twice[0]!r} stands twice in the header{hint}")
    return header, separator


def _unreadable(uri: str, message: str, lines_before: int) -> str:
    """Return the error of pyarrow as ours. lines_before: lines of the file that pyarrow has not seen."""
    if row := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", message):
        return f"{uri}, row {int(row[1]) + lines_before}: {row[3]} values where the header has {row[2]} columns"
    if row := re.search(r"Row #(\d+): .*invalid UTF8", message):
        return f"{uri}, row {int(row[1]) + lines_before}: not UTF-8 text"
    return f"{uri} cannot be read: {message[:200]}"
