"""Builds, checks, writes and reads the manifest: one row per field of view (FOV), with its images and its metadata.

fov_id             text     source/batch/plate/well/site, unique
Metadata_*         text     the five keys, not empty and without "/"; then all other columns by name, null = missing
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
import pyarrow as pa

from sdvae_ray.errors import ConfigError, DataError, did_you_mean
from sdvae_ray.schema import FOV_ID, KEYS, METADATA, PLATE_COLUMN, channel_column, illum_column, uri_column
from sdvae_ray.settings.values import MISSING_WORDS
from sdvae_ray.sources import gallery
from sdvae_ray.sources.joining import TableReader
from sdvae_ray.sources.manifest.reader import opened_manifest, read_columns, with_located_shards
from sdvae_ray.sources.manifest.row import located_stains
from sdvae_ray.sources.manifest.rules import check_manifest, repeated_images
from sdvae_ray.sources.metadata_tables import join_metadata
from sdvae_ray.sources.planes import check_schemes, shared_planes
from sdvae_ray.sources.platemaps import join_platemaps
from sdvae_ray.sources.tables import listed
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
    missing: Sequence[str] = MISSING_WORDS,
    storage: Storage,
) -> Manifest:
    """Return the checked manifest of load_data files (CSV, CSV.gz, Parquet; FileName/PathName or URL), platemaps and metadata.

    rewrites    (FROM, TO) prefixes of image and illumination locations; the first that matches counts
    defaults    Metadata_Source, Metadata_Batch, ... for files that lack the column
    missing     words that mean "nothing" in any cell of any table, beside blanks
    Raises DataError (a file, with the row), ConfigError (an option) and StorageError.
    """
    if not load_data:
        raise ConfigError("no load_data file is given")
    for key in defaults:
        if key not in KEYS:
            raise ConfigError(f"unknown key {key!r}{did_you_mean(key, KEYS)}")
    if without := [to for start, to in rewrites if not start]:
        raise ConfigError(f"a rewrite is FROM=TO with a prefix to look for, not ={without[0]}")
    table, notes = _read_all(load_data, stains, defaults, rewrites, missing, storage)
    check_manifest(table, stains, "load_data")
    check_schemes(table, stains, "load_data")
    notes += [*shared_planes([table], stains), *relative(table, stains), *repeated_images(table, stains)]
    tables = TableReader(storage, missing)
    if platemaps:
        table, more = join_platemaps(table, platemaps, drop_unmapped_wells, tables)
        notes += more
        if table.height == 0:
            raise DataError("no FOV is left: not one well of the load_data files is on its platemap")
    for uri in metadata:
        table, more = join_metadata(table, uri, tables)
        notes += more
    notes += without_illumination(table, stains)
    return Manifest(ordered(table, stains), notes)


def _read_all(
    load_data: Sequence[str],
    stains: Sequence[str],
    defaults: Mapping[str, str],
    rewrites: Sequence[tuple[str, str]],
    missing: Sequence[str],
    storage: Storage,
) -> tuple[pl.DataFrame, list[str]]:
    """Return the checked and rewritten rows of all files, and notes; a note that several files share is one note."""
    used: set[tuple[str, str]] = set()

    def read(uri: str) -> tuple[pl.DataFrame, list[str]]:
        table, notes = gallery.read_load_data(uri, stains, defaults, storage, missing)
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


def ordered(table: pl.DataFrame, stains: Sequence[str]) -> pl.DataFrame:
    """Return the rows of a manifest in its order, with its columns alone, in theirs; an empty text becomes null."""
    others = sorted(name for name in table.columns if name.startswith(METADATA) and name not in KEYS)
    columns = [column(stain) for stain in stains for column in (uri_column, channel_column, illum_column)]
    *before, site = (pl.col(key) for key in KEYS)
    table = table.sort(*before, site.cast(pl.Int64, strict=False), site, nulls_last=True)
    table = table.with_columns(pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in others)
    return table.select(FOV_ID, *KEYS, *others, *columns)


def relative(table: pl.DataFrame, stains: Sequence[str]) -> list[str]:
    """Return a note on images whose paths are relative, if there are any."""
    uri = pl.col(uri_column(stains[0]))
    relative = ~uri.str.contains("://", literal=True) & ~uri.str.starts_with("/")
    example, count = table.filter(relative).select(uri.min(), pl.len()).row(0)
    return [f"{count} image paths are relative to wherever the job will run, such as {example}"] if count else []


def without_illumination(table: pl.DataFrame, stains: Sequence[str]) -> list[str]:
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
        with opened_manifest(uri, storage) as rows:
            table = pl.DataFrame(with_located_shards(read_columns(rows, rows.schema.names), uri))
    except DataError as error:
        if isinstance(error.__cause__, pa.ArrowException):
            raise DataError(f"{uri} is not a manifest: it is not a whole Parquet file") from error
        raise
    stains = located_stains(table.columns)
    if not stains:
        raise DataError(f"{uri} is not a manifest: no column such as {uri_column(STAINS[0])}")
    check_manifest(table, stains, uri)
    return table
