"""Photographs as a set to compare Cell Painting with: one manifest row each, its stains R, G and B the planes of one file.

Metadata_Source   photographs
Metadata_Batch    the set's name
Metadata_Plate    the photograph's class, "/" made "_", or "-"
Metadata_Well     -
Metadata_Site     the first 16 hex digits of the sha256 of its bytes
uri_R, _G, _B     its file, or <container>#<member>; channel_R, _G, _B are 0, 1, 2
colour            true
pixels            its bytes as they were encoded, where it came out of a container; null, or absent, where it is a file

The first pass over the photographs keeps their hashes, the second writes their bytes, so that a set of any size needs little
memory. The same photographs in any order give the same rows.
"""

import hashlib
import heapq
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.errors import ConfigError, DataError, StorageError
from sdvae_ray.schema import COLOUR, FOV_ID, KEYS, PIXELS, SITE_COLUMN, channel_column, fov_id, uri_column
from sdvae_ray.sources.gallery import listed
from sdvae_ray.sources.manifest import check_manifest, write_manifest
from sdvae_ray.sources.photograph_containers import Losses, Photograph
from sdvae_ray.sources.photograph_readers import Place, find_photographs, read_photographs
from sdvae_ray.storage import Storage, absolute, is_remote

SOURCE = "photographs"
STAINS = ("R", "G", "B")
# of a manifest with pixels: a worker reads a whole row group for the 64 rows or fewer that it was given
ROWS_PER_GROUP = 128
BYTES_PER_GROUP = 16 << 20
_MAPPED = 256 << 20  # bytes from which a manifest is handed over without being in memory whole


@dataclass(frozen=True)
class Photographs:
    """`table`: the manifest's rows but for `pixels`, sorted by their keys. `notes`: what a person should know of them."""

    table: pl.DataFrame
    notes: list[str]
    containers: list[Place]  # the places whose photographs travel in the manifest
    carried: frozenset[str] = field(repr=False)  # fov_id of those photographs
    columns: dict[str, str | None] = field(default_factory=dict)  # of Parquet files, as they were named


def build_photographs(
    sources: Sequence[str],
    *,
    name: str,
    storage: Storage,
    limit: int | None = None,
    column: str | None = None,
    label_column: str | None = None,
) -> Photographs:
    """Folders, WebDataset shards, Parquet files and LMDB folders -> the rows of one set, without their pixels yet.

    name            of the set, Metadata_Batch
    limit           photographs per class, those of the lowest hashes
    column, label_column    of Parquet files, where their names do not tell
    Photographs of equal bytes are one, of the first class and place by name. Raises DataError (a source), ConfigError (an
    option) and StorageError.
    """
    if not sources:
        raise ConfigError("no photographs are given: a folder, .tar shards, .parquet files or LMDB folders")
    if not name.strip() or "/" in name:
        raise ConfigError(f"the name of a set of photographs may not be empty nor contain '/', got {name!r}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; at least 1 photograph per class is wanted")
    columns = {"column": column, "label_column": label_column}
    losses: Losses = {}
    places = find_photographs(sources, storage, losses)
    for option, given in columns.items():
        if given is not None and not any(place.kind == "parquet" for place in places):
            raise ConfigError(f"{option} {given!r} is of Parquet files, and none is among {listed(sources)}")
    best: dict[str, tuple[str, str, bool]] = {}  # digest -> class, URI, in a container
    total = empty = 0
    for place in places:
        for photograph in read_photographs([place], storage, losses, **columns):
            found = (_plate(photograph), photograph.uri, place.is_container)
            digest = _digest(photograph)
            best[digest] = min(found, best.get(digest, found))
            total, empty = total + 1, empty + (not photograph.data)
    if not best:
        raise DataError(f"{listed(sources)}: not one photograph can be read")
    kept = _limited({digest: plate for digest, (plate, _, _) in best.items()}, limit)
    rows = [_row(name, digest, *best[digest][:2]) for digest in kept]
    table = pl.DataFrame(rows, schema=_SCHEMA, orient="row").sort(KEYS)
    check_manifest(table, STAINS, SOURCE)
    carried = frozenset(str(row[0]) for digest, row in zip(kept, rows, strict=True) if best[digest][2])
    notes = [f"{len(uris)} left out, {reason}: {listed(uris, 1)}" for reason, uris in losses.items() if uris]
    if total > len(best):
        notes.append(f"{total - len(best)} of {total} photographs have the bytes of another and are left out")
    if empty:
        notes.append(f"{empty} photographs are empty files")
    if len(kept) < len(best):
        notes.append(
            f"{len(kept)} of {len(best)} photographs are kept: at most {limit} per class, by the hash of their bytes"
        )
    return Photographs(table, notes, [place for place in places if place.is_container], carried, columns)


_SCHEMA = {
    **dict.fromkeys((FOV_ID, *KEYS), pl.String),
    **{uri_column(stain): pl.String for stain in STAINS},
    **{channel_column(stain): pl.Int32 for stain in STAINS},
    COLOUR: pl.Boolean,
}


def _digest(photograph: Photograph) -> str:
    return hashlib.sha256(photograph.data).hexdigest()[:16]


def _plate(photograph: Photograph) -> str:
    return (photograph.label or "").strip().replace("/", "_") or "-"


def _keys(name: str, plate: str, digest: str) -> dict[str, str]:
    return dict(zip(KEYS, (SOURCE, name, plate, "-", digest), strict=True))


def _row(name: str, digest: str, plate: str, uri: str) -> tuple[str | int | bool, ...]:
    keys = _keys(name, plate, digest)
    return fov_id(keys), *keys.values(), uri, uri, uri, 0, 1, 2, True


def _limited(plates: dict[str, str], limit: int | None) -> list[str]:
    """Digests, at most `limit` of each class, the lowest."""
    if limit is None:
        return list(plates)
    classes: dict[str, list[str]] = {}
    for digest, plate in plates.items():
        classes.setdefault(plate, []).append(digest)
    return [digest for digests in classes.values() for digest in heapq.nsmallest(limit, digests)]


def write_photographs(photographs: Photographs, uri: str, storage: Storage) -> None:
    """Writes the manifest; photographs of containers are read again and written as they come, a row group in memory at a time.

    On the way to a bucket the manifest is first a temporary file here. Raises DataError where a container has changed
    since it was read, and StorageError.
    """
    if not photographs.carried:
        write_manifest(photographs.table, uri, storage)
        return
    near = None if is_remote(uri) else Path(absolute(uri)).parent  # the system's own temporary folder may be small
    try:
        if near is not None:
            near.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=near) as folder:
            path = Path(folder) / "manifest.parquet"
            _write(photographs, path, storage)
            if path.stat().st_size < _MAPPED:
                storage.write_bytes(uri, path.read_bytes())
                return
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                storage.write_bytes(uri, cast(bytes, mapped))
    except OSError as error:
        raise StorageError(f"cannot write {uri}: {error.strerror or error}") from error


def _write(photographs: Photographs, path: Path, storage: Storage) -> None:
    table = photographs.table.to_arrow().cast(_arrow_schema())
    texts = [name for name in table.column_names if name != COLOUR]
    schema = table.schema.append(pa.field(PIXELS, pa.binary()))
    written = 0
    with pq.ParquetWriter(
        path,
        schema,
        compression={**dict.fromkeys(table.column_names, "zstd"), PIXELS: "none"},  # they are compressed already
        use_dictionary=texts,
        write_statistics=False,  # nobody asks for them, and every worker reads the footer
    ) as writer:
        for rows, pixels in _row_groups(photographs, storage):
            group = table.take(pa.array(rows, pa.int64()))
            writer.write_table(group.append_column(schema.field(PIXELS), pa.array(pixels, pa.binary())))
            written += len(rows)
    if written != len(table):
        raise DataError(
            f"{len(table) - written} photographs were not there when they were read again; nothing is written"
        )


def _arrow_schema() -> pa.Schema:
    kinds = {pl.String: pa.string(), pl.Int32: pa.int32(), pl.Boolean: pa.bool_()}
    return pa.schema([(name, kinds[kind]) for name, kind in _SCHEMA.items()])


def _row_groups(photographs: Photographs, storage: Storage) -> Iterator[tuple[list[int], list[bytes | None]]]:
    """(rows of the table, their bytes): files first, then the containers in their order."""
    ids = photographs.table[FOV_ID].to_list()
    files = [row for row, found in enumerate(ids) if found not in photographs.carried]
    for start in range(0, len(files), ROWS_PER_GROUP):
        rows = files[start : start + ROWS_PER_GROUP]
        yield rows, [None] * len(rows)
    places = zip(ids, photographs.table[uri_column(STAINS[0])], photographs.table[SITE_COLUMN], strict=True)
    wanted = {(uri, site): row for row, (found, uri, site) in enumerate(places) if found in photographs.carried}
    group: list[int] = []
    pixels: list[bytes | None] = []
    size = 0
    for photograph in read_photographs(photographs.containers, storage, {}, **photographs.columns):
        row = wanted.pop((photograph.uri, _digest(photograph)), None)
        if row is None:
            continue
        group.append(row)
        pixels.append(photograph.data)
        size += len(photograph.data)
        if len(group) >= ROWS_PER_GROUP or size >= BYTES_PER_GROUP:
            yield group, pixels
            group, pixels, size = [], [], 0
    if group:
        yield group, pixels
