"""The Cell Painting Gallery's tables: load_data files, platemaps, metadata tables, read as text and joined into rows.

Every cell stays the text that it was ('01', '4.0E-06', ''); a row that a joined table does not know gets null. Until
the manifest is whole, rows carry `_file` and `_row`, where they came from: a row of a CSV is its line, the header being
row 1 (a line break within quotes does not count); a row of a Parquet file counts from 1.

What is wrong with a file, or with how two files fit, is a DataError: one sentence that names the file and the row.
"""

import codecs
import csv
import difflib
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.schema import FOV_ID, KEYS, METADATA, channel_column, illum_column, uri_column
from sdvae_ray.storage import Storage, absolute, is_remote, join

FILE, ROW = "_file", "_row"
_BARCODES, _WELL, _SAMPLE, _THEIRS = "_barcodes", "_well", "_sample", "_theirs"  # columns of a join, dropped after it
_OTHER_FILE, _OTHER_ROW = "_other_file", "_other_row"
SOURCE, BATCH, PLATE, WELL, SITE = KEYS
PLATE_MAP = "Metadata_Plate_Map_Name"

# How a row is known: by where it is, or by what is in the well. A metadata table is joined on these and nothing else.
WHERE = (*KEYS, PLATE_MAP)
WHAT = ("Metadata_broad_sample", "Metadata_JCP2022", "Metadata_pert_iname")
IDENTIFIERS = {name.removeprefix(METADATA).lower(): name for name in (*WHERE, *WHAT)}
IDENTIFIERS |= {"assay_plate_barcode": PLATE, "well_position": WELL}  # what platemaps and experiment metadata call them

# <project>/<source>/images/<batch>/ where the project is a cpgNNNN, or the batch holds the gallery's own folders.
_LAYOUTS = (
    r"(?:^|/)cpg\d{4}[^/]*/([^/]+)/images/([^/]+)/",
    r"(?:^|/)[^/]+/([^/]+)/images/([^/]+)/(?:images|illum)/",
)
_OPTIONS = {SOURCE: "--source", BATCH: "--batch"}


def place(row: Mapping[str, Any]) -> str:
    return f"{row[FILE]}, row {row[ROW]}"


def first_row(table: pl.DataFrame, condition: pl.Expr) -> dict[str, Any] | None:
    """The first row, by file and line, for which the condition holds."""
    found = table.filter(condition)
    return found.sort(FILE, ROW).row(0, named=True) if found.height else None


def is_empty(column: str) -> pl.Expr:
    return pl.col(column).is_null() | (pl.col(column).str.strip_chars() == "")


def listed(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def read_table(uri: str, storage: Storage) -> pl.DataFrame:
    """A CSV, TSV (either may be gzipped) or Parquet file, told by its content: columns of text, `_file` and `_row`."""
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
        raise DataError(_unreadable(uri, " ".join(str(error).split()))) from error
    if table.height == 0:
        raise DataError(f"{uri} is empty: it has a header and no rows")
    return table.with_columns(pl.lit(uri).alias(FILE))


def _read_csv(data: bytes, uri: str) -> pl.DataFrame:
    """pyarrow's reader, since polars fills up a line that is too short without a word."""
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise DataError(f"{uri} is empty")
    first = re.split(rb"\r\n?|\n", data, maxsplit=1)[0].decode("utf-8-sig")
    separator = "\t" if "\t" in first else ","
    header = next(csv.reader([first], delimiter=separator), [])
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"{uri}, row 1: the column {twice[0]!r} stands twice in the header")
    arrow = pa_csv.read_csv(
        io.BytesIO(data),
        read_options=pa_csv.ReadOptions(use_threads=False),  # several threads do not know the row of an error
        parse_options=pa_csv.ParseOptions(delimiter=separator, newlines_in_values=True, ignore_empty_lines=False),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
        ),
    )
    if arrow.column_names != header:  # only the columns named above are kept as text
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
    """The manifest's name of an identifier: with or without Metadata_, in any case, or an alias. None: it is none."""
    return IDENTIFIERS.get(column.removeprefix(METADATA).lower())


def read_load_data(
    uri: str, stains: Sequence[str], defaults: Mapping[str, str], storage: Storage
) -> tuple[pl.DataFrame, list[str]]:
    """A load_data file -> rows of a manifest (with `_file` and `_row`, in its order, nothing rewritten) and notes.

    Locations are URL_<Orig|Illum><Stain>, or PathName_ and FileName_ joined by one slash. `defaults` gives keys
    (Metadata_Source, Metadata_Batch) that are no column of the file; failing that, they are read from the image paths.
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
            found = listed(table[key].unique().drop_nulls().sort())
            notes.append(f"{key} is not in the file; read from the image paths: {found}")
        else:
            raise DataError(f"{header}: no column {key}{did_you_mean(key, raw.select(f'^{METADATA}.*$').columns)}")
    return table.with_columns(pl.concat_str(KEYS, separator="/").alias(FOV_ID)), notes


def _location(columns: Sequence[str], kind: str, stain: str, header: str) -> pl.Expr:
    """Where a stain's image or illumination function is; null where the file does not say."""
    url, name, path = (f"{part}_{kind}{stain}" for part in ("URL", "FileName", "PathName"))
    found = [pl.when(~is_empty(url)).then(url)] if url in columns else []
    if name in columns:
        if path not in columns:
            raise DataError(f"{header}: {name} without {path}")
        joined = pl.concat_str(
            pl.col(path).str.strip_chars_end("/"), pl.lit("/"), pl.col(name).str.strip_chars_start("/")
        )
        found.append(pl.when(~is_empty(name) & ~is_empty(path)).then(joined))
    return pl.coalesce(found) if found else pl.lit(None, pl.String)


def _key_from_path(table: pl.DataFrame, key: str, location: str) -> pl.DataFrame:
    group = 1 if key == SOURCE else 2
    table = table.with_columns(
        pl.coalesce(pl.col(location).str.extract(layout, group) for layout in _LAYOUTS).alias(key)
    )
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
    if {PLATE, PLATE_MAP} <= known or "well_position" in columns:
        return f"{uri} is not a load_data file: it looks like a barcode map, a platemap or a metadata table"
    wanted = [f"{part}_Orig{stain}" for stain in stains for part in ("URL", "FileName")]
    near = [(column, near[0]) for column in columns if (near := difflib.get_close_matches(column, wanted, 1, 0.7))]
    hint = f"; {near[0][0]!r} is nearest to {near[0][1]!r}" if near else ""
    seen = listed(column for column in columns if column not in (FILE, ROW))
    return f"{uri} is not a load_data file: no column such as {wanted[0]} or {wanted[1]}{hint}; its columns are {seen}"


def rewrite(
    table: pl.DataFrame, stains: Sequence[str], rewrites: Sequence[tuple[str, str]]
) -> tuple[pl.DataFrame, set[tuple[str, str]]]:
    """Replaces a prefix FROM by TO in all locations; the first rule whose FROM matches is the one that counts.

    Where either side ends in a slash, one slash joins TO and the rest. A local TO is made absolute, since workers run
    elsewhere. Also returns the rules that matched something.
    """
    columns = [column(stain) for stain in stains for column in (uri_column, illum_column)]
    values: dict[str, pl.Expr] = {column: pl.col(column) for column in columns}
    done: dict[str, pl.Expr] = dict.fromkeys(columns, pl.lit(False))
    used = set()
    for start, to in rewrites:
        slash = bool(to) and (to.endswith("/") or start.endswith("/"))
        new = to if is_remote(to) or not to else absolute(to)
        new = new.rstrip("/") + "/" if slash and not new.endswith("://") else new
        found = {column: pl.col(column).str.starts_with(start) & ~done[column] for column in columns}
        if table.select(pl.any_horizontal(hit.any() for hit in found.values())).item():
            used.add((start, to))
        for column, hit in found.items():
            rest = pl.col(column).str.strip_prefix(start)
            rest = rest.str.strip_chars_start("/") if slash else rest
            values[column] = pl.when(hit).then(pl.lit(new) + rest).otherwise(values[column])
            done[column] = done[column] | hit
    return table.with_columns(value.alias(column) for column, value in values.items()), used


def join_platemaps(
    table: pl.DataFrame, platemaps: Sequence[str], drop_unmapped_wells: bool, storage: Storage
) -> tuple[pl.DataFrame, list[str]]:
    """plate -> barcode_platemap.csv -> platemap/<name>.txt -> well: adds Metadata_Plate_Map_Name and their columns.

    Each of `platemaps` is a barcode_platemap.csv or the folder that holds one. A plate that stands in several is taken
    from the one whose folder is named for its batch. Wells meet as A01 whether written A1 or A01; the load_data's text
    stays.
    """
    chosen = _maps_of_plates(table, pl.concat([_barcode_map(path, storage) for path in platemaps]))
    files = chosen.select(_BARCODES, PLATE_MAP, PLATE).unique([_BARCODES, PLATE_MAP]).sort(_BARCODES, PLATE_MAP)
    wells = pl.concat([_platemap(uri, name, plate, storage) for uri, name, plate in files.iter_rows()], how="diagonal")
    chosen = chosen.with_columns(pl.col(_BARCODES).alias(FILE))
    table = _attach(table, chosen, [BATCH, PLATE]).drop(_OTHER_FILE, _OTHER_ROW).with_columns(_well(WELL))
    table = _attach(table, wells, [_BARCODES, PLATE_MAP, _WELL])
    unmapped = pl.col(_OTHER_ROW).is_null()
    row, notes = first_row(table, unmapped), []
    if row and not drop_unmapped_wells:
        raise DataError(
            f"{place(row)}: the well {row[WELL]!r} of plate {row[PLATE]!r} is not on its platemap {row[PLATE_MAP]!r} "
            f"(of {row[_BARCODES]}); --drop-unmapped-wells leaves such wells out"
        )
    if row:
        gone = table.filter(unmapped)
        names = gone.select(pl.concat_str(PLATE, WELL, separator="/").unique().sort()).to_series().to_list()
        notes.append(f"{gone.height} FOVs of wells that are on no platemap are dropped: {listed(names)}")
    return table.filter(~unmapped).drop(_BARCODES, _WELL, _OTHER_FILE, _OTHER_ROW), notes


def _barcode_map(path: str, storage: Storage) -> pl.DataFrame:
    uri = path if path.endswith((".csv", ".csv.gz", ".tsv", ".txt")) else join(path, "barcode_platemap.csv")
    table = _named(read_table(uri, storage))
    if missing := [key for key in (PLATE, PLATE_MAP) if key not in table.columns]:
        raise DataError(f"{uri} is not a barcode map: no column {missing[0].removeprefix(METADATA)}")
    return _one_row_each(table.select(PLATE, PLATE_MAP, FILE, ROW), [PLATE])


def _maps_of_plates(table: pl.DataFrame, barcodes: pl.DataFrame) -> pl.DataFrame:
    """One row per (batch, plate) of the table: the plate map's name and the barcode map that it comes from."""
    folder = pl.col(_BARCODES).str.extract(r"([^/]+)/[^/]+$")
    plates = table.group_by(BATCH, PLATE).agg(pl.col(FILE).min())
    barcodes = barcodes.rename({FILE: _BARCODES}).unique([_BARCODES, PLATE])
    found = plates.join(barcodes, on=PLATE, how="left").sort(BATCH, PLATE, _BARCODES)
    own = (folder == pl.col(BATCH)).fill_null(False)
    found = found.filter(own | ~own.any().over(BATCH, PLATE))
    for row in found.filter(is_empty(PLATE_MAP)).head(1).iter_rows(named=True):
        maps = listed(barcodes[_BARCODES].unique().sort())
        problem = "has no plate map" if row[_BARCODES] else "is not listed"
        raise DataError(f"{row[_BARCODES] or maps}: the plate {row[PLATE]!r} of {row[FILE]} {problem}")
    for row in found.filter(pl.struct(BATCH, PLATE).is_duplicated()).head(1).iter_rows(named=True):
        maps = listed(found.filter((pl.col(BATCH) == row[BATCH]) & (pl.col(PLATE) == row[PLATE]))[_BARCODES])
        raise DataError(
            f"{maps}: the plate {row[PLATE]!r} stands in each, and no folder is named for its batch {row[BATCH]!r}"
        )
    return found


def _platemap(barcodes: str, name: str, plate: str, storage: Storage) -> pl.DataFrame:
    folder = join(barcodes.rpartition("/")[0] or ".", "platemap")
    names = [join(folder, f"{name}{suffix}") for suffix in (".txt", ".tsv", ".csv")]
    uri = next((uri for uri in names if storage.exists(uri)), None)
    if uri is None:
        raise DataError(f"{names[0]} does not exist (nor as .tsv or .csv): {barcodes} names it for the plate {plate!r}")
    table = _named(read_table(uri, storage))
    if WELL not in table.columns:
        raise DataError(f"{uri} is not a platemap: no column well_position")
    table = _one_row_each(table.with_columns(_well(WELL)).drop(WELL), [_WELL])
    return table.with_columns(pl.lit(barcodes).alias(_BARCODES), pl.lit(name).alias(PLATE_MAP))


def join_metadata(table: pl.DataFrame, uri: str, storage: Storage) -> tuple[pl.DataFrame, list[str]]:
    """Adds a metadata table's columns, joined on the identifiers that it shares with the manifest.

    Those that say where (source, batch, plate, well, site, plate map) count together. Where there is none, or where
    they do not single out a row, the first counts that says what is in the well (broad_sample, JCP2022, pert_iname).
    An empty sample meets the table's empty sample (DMSO in CPJUMP1's compounds), but not on a plate whose other samples
    are all unknown to the table: an untreated well of a CRISPR plate is no DMSO well. A row without a match gets nulls.
    A column that is there already is filled where it was null; where the two differ, the table is refused.
    """
    other = _named(read_table(uri, storage))
    shared = [name for name in (*WHERE, *WHAT) if name in other.columns and name in table.columns]
    other = other.with_columns(pl.col(shared).fill_null(""))
    where, what = [name for name in shared if name in WHERE], [name for name in shared if name in WHAT][:1]
    if not shared:
        mine = [name.removeprefix(METADATA) for name in (*WHERE, *WHAT) if name in table.columns]
        raise DataError(f"{uri} shares no identifier with the manifest, which has {', '.join(mine)}")
    rows = other.drop(ROW).unique()
    key = where if where and rows.n_unique(where) == rows.height else where + what
    said = ", ".join(key)
    if WELL in key:
        table, other = table.with_columns(_well(WELL)), other.with_columns(_well(WELL)).drop(WELL)
        key = [_WELL if name == WELL else name for name in key]
    other, notes = _one_row_each(other, key), []
    if key == what:
        sample, plate = pl.col(what[0]), (SOURCE, BATCH, PLATE)
        named = sample != ""
        foreign = ~named & named.any().over(plate) & ~(named & sample.is_in(other[what[0]].implode())).any().over(plate)
        table, other = (
            table.with_columns(pl.when(~foreign).then(sample).alias(_SAMPLE)),
            other.rename({what[0]: _SAMPLE}),
        )
        key = [_SAMPLE]
    joined = _attach(table, other, key)
    if lost := joined[_OTHER_ROW].null_count():
        few = "none" if lost == joined.height else f"{joined.height - lost}"
        notes.append(
            f"{uri}: {few} of {joined.height} FOVs have a row in it (by {said}); its columns are null for the others"
        )
    return joined.drop(_WELL, _SAMPLE, _OTHER_FILE, _OTHER_ROW, strict=False), notes


def _named(table: pl.DataFrame) -> pl.DataFrame:
    """Every column under the name that it has in a manifest."""
    names = {c: identifier(c) or METADATA + c.removeprefix(METADATA) for c in table.columns if c not in (FILE, ROW)}
    seen: dict[str, str] = {}
    for column, name in names.items():
        if name in seen:
            raise DataError(f"{table[FILE][0]}: the columns {seen[name]!r} and {column!r} are both {name}")
        seen[name] = column
    return table.rename(names)


def _well(column: str) -> pl.Expr:
    """A1, a01 and A001 -> A01, for a join; any other text as it is."""
    row, number = (pl.col(column).str.extract(r"^\s*([A-Za-z]{1,2})0*(\d+)\s*$", group) for group in (1, 2))
    return pl.coalesce(row.str.to_uppercase() + number.str.zfill(2), pl.col(column)).alias(_WELL)


def _one_row_each(table: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The table without repeats of a whole row; DataError where a key still has two rows."""
    table = table.unique([name for name in table.columns if name != ROW], keep="first", maintain_order=True)
    twice = table.filter(pl.struct(key).is_duplicated())
    if twice.height:
        values = twice.select(key).row(0)
        rows = twice.filter(*(pl.col(name) == value for name, value in zip(key, values, strict=True)))[ROW]
        said = ", ".join(f"{WELL if k == _WELL else k} {v!r}" for k, v in zip(key, values, strict=True))
        raise DataError(f"{twice[FILE][0]}, rows {rows[0]} and {rows[1]}: two different rows for {said}")
    return table


def _attach(table: pl.DataFrame, other: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Left join; adds `_other_file` and `_other_row`, null where there was no match. `key` is unique in `other`."""
    other = other.rename({FILE: _OTHER_FILE, ROW: _OTHER_ROW})
    both = [name for name in other.columns if name in table.columns and name not in key]
    joined = table.join(other, on=list(key), how="left", suffix=_THEIRS)
    for name in both:
        if row := first_row(joined, pl.col(name) != pl.col(name + _THEIRS)):
            theirs = f"{row[_OTHER_FILE]}, row {row[_OTHER_ROW]} says {row[name + _THEIRS]!r}"
            raise DataError(f"{place(row)}: {name} is {row[name]!r}, but {theirs}")
    filled = joined.with_columns(pl.coalesce(name, name + _THEIRS).alias(name) for name in both)
    return filled.drop(name + _THEIRS for name in both)
