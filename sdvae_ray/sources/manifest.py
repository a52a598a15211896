"""Builds, checks, writes and reads the manifest: one row per field of view (FOV), with its images and its metadata.

fov_id             text     source/batch/plate/well/site, unique
Metadata_*         text     the five keys, not empty and without "/"; then all other columns by name, null = unknown
uri_<stain>        text     where the pixels are
channel_<stain>    int32    plane of that file, 0
illum_<stain>      text     where the illumination function is, null = ones

Rows are sorted by source, batch, plate, well and site (sites that are numbers as numbers), so that the same rows in any
order, in any files, give the same bytes. Parquet, zstd, row groups of 1,024 rows.
"""

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import polars as pl

from sdvae_ray.errors import ConfigError, DataError, did_you_mean
from sdvae_ray.schema import FOV_ID, KEYS, METADATA, PLATE_COLUMN, SHARD, channel_column, illum_column, uri_column
from sdvae_ray.sources import gallery
from sdvae_ray.sources.gallery import FILE, ROW, first_row, is_empty, listed, place
from sdvae_ray.sources.manifest_row import located_stains
from sdvae_ray.sources.platemaps import join_metadata, join_platemaps
from sdvae_ray.sources.shards import shard_uri
from sdvae_ray.storage import Storage

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")
ROWS_PER_GROUP = 1024
_READERS = 8  # load_data files read at a time


@dataclass(frozen=True)
class Manifest:
    """The rows of a manifest (`table`), and sentences about their origin that a person should read (`notes`)."""

    table: pl.DataFrame
    notes: list[str]


def build_manifest(
    load_data: Sequence[str],
    *,
    platemaps: Sequence[str] = (),
    metadata: Sequence[str] = (),
    rewrites: Sequence[tuple[str, str]] = (),
    stains: Sequence[str] = STAINS,
    defaults: Mapping[str, str] = {},
    drop_unmapped_wells: bool = False,
    storage: Storage,
) -> Manifest:
    """Return the checked manifest of load_data files (CSV, CSV.gz, Parquet; FileName/PathName or URL), platemaps and metadata.

    rewrites    (FROM, TO) prefixes of image and illumination locations; the first that matches counts
    defaults    Metadata_Source, Metadata_Batch, ... for files that lack the column
    Raises DataError (a file, with the row), ConfigError (an option) and StorageError.
    """
    if not load_data:
        raise ConfigError("no load_data file is given")
    for key in defaults:
        if key not in KEYS:
            raise ConfigError(f"unknown key {key!r}{did_you_mean(key, KEYS)}")
    if without := [to for start, to in rewrites if not start]:
        raise ConfigError(f"a rewrite is FROM=TO with a prefix to look for, not ={without[0]}")
    table, notes = _read_all(load_data, stains, defaults, rewrites, storage)
    check_manifest(table, stains, "load_data")
    notes += _relative(table, stains)
    if platemaps:
        table, more = join_platemaps(table, platemaps, drop_unmapped_wells, storage)
        notes += more
        if table.height == 0:
            raise DataError("no FOV is left: not one well of the load_data files is on its platemap")
    for uri in metadata:
        table, more = join_metadata(table, uri, storage)
        notes += more
    notes += _without_illumination(table, stains)
    return Manifest(_ordered(table, stains), notes)


def _read_all(
    load_data: Sequence[str],
    stains: Sequence[str],
    defaults: Mapping[str, str],
    rewrites: Sequence[tuple[str, str]],
    storage: Storage,
) -> tuple[pl.DataFrame, list[str]]:
    """Return the checked and rewritten rows of all files, and notes; a note that several files share is one note."""
    used: set[tuple[str, str]] = set()

    def read(uri: str) -> tuple[pl.DataFrame, list[str]]:
        table, notes = gallery.read_load_data(uri, stains, defaults, storage)
        check_manifest(table, stains, uri)
        table, matched = gallery.rewrite(table, stains, rewrites)
        used.update(matched)
        return table, notes

    with ThreadPoolExecutor(_READERS) as readers:
        futures = [readers.submit(read, uri) for uri in load_data]
        try:
            tables = [future.result() for future in futures]
        finally:
            readers.shutdown(cancel_futures=True)
    files: dict[str, list[str]] = {}
    for uri, (_, notes) in zip(load_data, tables, strict=True):
        for note in notes:
            files.setdefault(note, []).append(uri)
    shared = [f"{listed(uris)}: {note}" for note, uris in files.items()]
    shared += [f"the rewrite {start}={to} matched nothing" for start, to in rewrites if (start, to) not in used]
    return pl.concat([table for table, _ in tables], how="diagonal"), shared


def _ordered(table: pl.DataFrame, stains: Sequence[str]) -> pl.DataFrame:
    others = sorted(name for name in table.columns if name.startswith(METADATA) and name not in KEYS)
    columns = [column(stain) for stain in stains for column in (uri_column, channel_column, illum_column)]
    *before, site = (pl.col(key) for key in KEYS)
    table = table.sort(*before, site.cast(pl.Int64, strict=False), site, nulls_last=True)
    return table.select(FOV_ID, *KEYS, *others, *columns)


def _relative(table: pl.DataFrame, stains: Sequence[str]) -> list[str]:
    uri = pl.col(uri_column(stains[0]))
    relative = ~uri.str.contains("://", literal=True) & ~uri.str.starts_with("/")
    example, count = table.filter(relative).select(uri.min(), pl.len()).row(0)
    return [f"{count} image paths are relative to wherever the job will run, such as {example}"] if count else []


def _without_illumination(table: pl.DataFrame, stains: Sequence[str]) -> list[str]:
    """Return notes about plates without illumination functions: one note for all plates that lack the same functions."""
    missing = [pl.col(illum_column(stain)).is_null().sum().alias(stain) for stain in stains]
    counts = table.group_by(PLATE_COLUMN).agg(pl.len(), *missing).sort(PLATE_COLUMN)
    plates: dict[str, list[str]] = {}
    for plate, count, *missed in counts.iter_rows():
        lacking = [(stain, lost) for stain, lost in zip(stains, missed, strict=True) if lost]
        names = [stain if lost == count else f"{stain} ({lost} of {count} FOVs)" for stain, lost in lacking]
        if names:
            plates.setdefault(", ".join(names), []).append(plate)
    return [
        f"no illumination function, so ones: {names} of plate {listed(lacking)}" for names, lacking in plates.items()
    ]


def check_manifest(table: pl.DataFrame, stains: Sequence[str], where: str) -> None:
    """Raise DataError, with the row, unless the table is a sound manifest of the stains.

    In a sound manifest no image location and no key is empty, no key has a "/", and fov_id is made of the keys and unique.
    `channel_<stain>` and `illum_<stain>` may be absent (0, ones). The error names a row by its columns `_file` and `_row` if the
    table has them (while it is built), else by `where` and the row's number from 1.
    """
    _check_columns(table, stains, where)
    if table.height == 0:
        raise DataError(f"{where} has no rows")
    if ROW not in table.columns:
        table = table.with_row_index(ROW, offset=1).with_columns(pl.lit(where).alias(FILE))
    for stain in stains:
        if row := first_row(table, is_empty(uri_column(stain))):
            raise DataError(f"{place(row)}: no image of the stain {stain!r}")
    for key in KEYS:
        if row := first_row(table, is_empty(key)):
            raise DataError(f"{place(row)}: {key} is empty")
        if row := first_row(table, pl.col(key).str.contains("/", literal=True)):
            raise DataError(f"{place(row)}: {key} is {row[key]!r}; a key may not contain '/'")
    if row := first_row(table, pl.col(FOV_ID).ne_missing(pl.concat_str(KEYS, separator="/"))):
        raise DataError(f"{place(row)}: {FOV_ID} is {row[FOV_ID]!r}, not {'/'.join(row[key] for key in KEYS)!r}")
    if row := first_row(table, pl.col(FOV_ID).is_duplicated()):
        twins = table.filter(pl.col(FOV_ID) == row[FOV_ID]).sort(FILE, ROW)
        raise DataError(f"{place(twins.row(1, named=True))}: the FOV {row[FOV_ID]} is already in {place(row)}")


def _check_columns(table: pl.DataFrame, stains: Sequence[str], where: str) -> None:
    if FOV_ID not in table.columns:
        raise DataError(f"{where} is not a manifest: no column {FOV_ID}; `sdvae-ray manifest` makes one")
    here = located_stains(table.columns)
    if missing := [stain for stain in stains if stain not in here]:
        raise DataError(f"{where} has no images of the stain {missing[0]!r}; it has {', '.join(here) or 'none'}")
    if absent := [key for key in KEYS if key not in table.columns]:
        raise DataError(f"{where} has no column {absent[0]}")
    needed = {FOV_ID, *KEYS, *map(uri_column, stains)}
    texts = needed | set(map(illum_column, stains)) | {name for name in table.columns if name.startswith(METADATA)}
    for name, dtype in table.schema.items():
        if name in texts and dtype != pl.String and (name in needed or dtype != pl.Null):
            raise DataError(f"{where}: the column {name} is {dtype}, not text")
        if name in map(channel_column, stains) and not dtype.is_integer():
            raise DataError(f"{where}: the column {name} is {dtype}, not a whole number")


def write_manifest(manifest_table: pl.DataFrame, uri: str, storage: Storage) -> None:
    """Write a manifest as Parquet: zstd, row groups of ROWS_PER_GROUP rows."""
    buffer = io.BytesIO()
    manifest_table.rechunk().write_parquet(buffer, compression="zstd", row_group_size=ROWS_PER_GROUP)
    storage.write_bytes(uri, buffer.getvalue())


def read_manifest(uri: str, storage: Storage) -> pl.DataFrame:
    """Read a whole manifest, checked for all stains that it locates.

    Raises DataError if the file is missing, is not a Parquet file or is not sound.
    """
    try:
        table = pl.read_parquet(io.BytesIO(storage.read_bytes(uri)))
    except FileNotFoundError as error:
        raise DataError(f"the manifest {uri} does not exist; `sdvae-ray manifest` makes one") from error
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{uri} is not a manifest: it is not a whole Parquet file") from error
    if SHARD in table.columns:
        table = table.with_columns(pl.Series(SHARD, [shard_uri(name, uri) for name in table[SHARD]], pl.String))
    stains = located_stains(table.columns)
    if not stains:
        raise DataError(f"{uri} is not a manifest: no column such as {uri_column(STAINS[0])}")
    check_manifest(table, stains, uri)
    return table
