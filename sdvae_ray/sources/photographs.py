"""Makes a manifest of photographs, to compare Cell Painting with: one row a photograph, its stains the colours of one file.

Metadata_Source   photographs
Metadata_Batch    the set's name
Metadata_Plate    the photograph's class, with "_" for "/"; "-" for a photograph without a class
Metadata_Well     -
Metadata_Site     the first 16 hex digits of the sha256 of the photograph's bytes
uri_R, _G, _B     its file, or <shard>#<member>; channel_R, _G, _B are 0, 1, 2
colour            true
pixels            its encoded bytes, if it is in a shard; null or absent if it is a file

The first pass over the photographs keeps their hashes, the second writes their bytes, so that a set of any size needs little
memory. The same photographs in any order give the same rows.
"""

import hashlib
import heapq
import mmap
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.errors import ConfigError, DataError, StorageError
from sdvae_ray.schema import COLOUR, FOV_ID, KEYS, PIXELS, SITE_COLUMN, channel_column, fov_id, uri_column
from sdvae_ray.sources.manifest.manifest import write_manifest
from sdvae_ray.sources.manifest.rules import check_manifest
from sdvae_ray.sources.photograph_readers import Losses, Photograph, Place, find_photographs, read_photographs
from sdvae_ray.sources.tables import listed
from sdvae_ray.storage import Storage, absolute, is_remote

SOURCE = "photographs"
STAINS = ("R", "G", "B")
# of a manifest with pixels: a worker reads a whole row group for its 64 rows or fewer
ROWS_PER_GROUP = 128
BYTES_PER_GROUP = 16 << 20
_MAPPED = 256 << 20  # bytes from which a manifest is handed to storage without being in memory whole


@dataclass(frozen=True)
class Photographs:
    """A set of photographs before it is written; shards are read again when it is written.

    table    the manifest's rows without `pixels`, sorted by their keys
    notes    sentences that a person should read
    shards   the shards of the set: their photographs are stored in the manifest
    carried  fov_id of the photographs that are stored in the manifest
    """

    table: pl.DataFrame
    notes: list[str]
    shards: list[Place]
    carried: frozenset[str] = field(repr=False)


def build_photographs(sources: Sequence[str], *, name: str, storage: Storage, limit: int | None = None) -> Photographs:
    """Return the rows of one set, without the pixels, from folders of images and WebDataset shards.

    name   of the set, Metadata_Batch
    limit  the most photographs of a class; the photographs with the lowest hashes are kept
    Photographs of equal bytes are one photograph, of the first class and place by name. Raises DataError (a source), ConfigError
    (an option) and StorageError.
    """
    if not sources:
        raise ConfigError("no photographs are given: a folder of images, or WebDataset .tar shards")
    if not name.strip() or "/" in name:
        raise ConfigError(f"the name of a set of photographs may not be empty nor contain '/', got {name!r}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; at least 1 photograph per class is wanted")
    losses: Losses = {}
    places = find_photographs(sources, storage, losses)
    best: dict[str, tuple[str, str, bool]] = {}  # digest -> class, URI, whether it is in a shard
    total = empty = 0
    for place in places:
        for photograph in read_photographs([place], storage, losses):
            origin = (_plate(photograph), photograph.uri, place.is_shard)
            digest = _digest(photograph)
            best[digest] = min(origin, best.get(digest, origin))
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
        rule = f"at most {limit} per class, by the hash of their bytes"
        notes.append(f"{len(kept)} of {len(best)} photographs are kept: {rule}")
    return Photographs(table, notes, [place for place in places if place.is_shard], carried)


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


def _row(name: str, digest: str, plate: str, uri: str) -> tuple[str | int | bool, ...]:
    keys = dict(zip(KEYS, (SOURCE, name, plate, "-", digest), strict=True))
    return fov_id(keys), *keys.values(), uri, uri, uri, 0, 1, 2, True


def _limited(plates: dict[str, str], limit: int | None) -> list[str]:
    """Return digests, the `limit` lowest of each class; None: all."""
    if limit is None:
        return list(plates)
    classes = defaultdict[str, list[str]](list)
    for digest, plate in plates.items():
        classes[plate].append(digest)
    return [digest for digests in classes.values() for digest in heapq.nsmallest(limit, digests)]


def write_photographs(photographs: Photographs, uri: str, storage: Storage) -> None:
    """Write the manifest; photographs in shards are read again and written as they come, a row group in memory at a time.

    A manifest for a bucket is first a temporary local file. Raises DataError if a shard has changed since it was first read, and
    StorageError.
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
    kinds = {pl.String: pa.string(), pl.Int32: pa.int32(), pl.Boolean: pa.bool_()}
    table = photographs.table.to_arrow().cast(pa.schema([(name, kinds[kind]) for name, kind in _SCHEMA.items()]))
    texts = [name for name in table.column_names if name != COLOUR]
    schema = table.schema.append(pa.field(PIXELS, pa.binary()))
    written = 0
    with pq.ParquetWriter(
        path,
        schema,
        compression={**dict.fromkeys(table.column_names, "zstd"), PIXELS: "none"},  # pixels are compressed already
        use_dictionary=texts,
        write_statistics=False,  # no reader asks for statistics, and every worker reads the footer
    ) as writer:
        for rows, pixels in _row_groups(photographs, storage):
            group = table.take(pa.array(rows, pa.int64()))
            writer.write_table(group.append_column(schema.field(PIXELS), pa.array(pixels, pa.binary())))
            written += len(rows)
    if written != len(table):
        raise DataError(
            f"{len(table) - written} photographs were not there when they were read again; nothing is written"
        )


def _row_groups(photographs: Photographs, storage: Storage) -> Iterator[tuple[list[int], list[bytes | None]]]:
    """Yield (rows of the table, their bytes): files first, then the shards in their order."""
    ids = photographs.table[FOV_ID].to_list()
    files = [row for row, fov in enumerate(ids) if fov not in photographs.carried]
    for start in range(0, len(files), ROWS_PER_GROUP):
        rows = files[start : start + ROWS_PER_GROUP]
        yield rows, [None] * len(rows)
    places = zip(ids, photographs.table[uri_column(STAINS[0])], photographs.table[SITE_COLUMN], strict=True)
    wanted = {(uri, site): row for row, (fov, uri, site) in enumerate(places) if fov in photographs.carried}
    group: list[int] = []
    pixels: list[bytes | None] = []
    size = 0
    for photograph in read_photographs(photographs.shards, storage, {}):
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
