"""Writes the rows of a manifest as they come: into one Parquet file, or into a folder of files with an index.

An output that ends in .parquet is one file. The name of a file in a folder ends in the first digits of its checksum, and the index
is written last: what stood there before stays whole until the new manifest does, and what belongs to no manifest is then deleted.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.errors import DataError
from sdvae_ray.schema import FOV_ID, PLATE_KEY
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.sources.manifest.index import Part, index_uri, packed_rows, part_of, unified, write_index
from sdvae_ray.sources.manifest.reader import iterate_row_groups, row_groups, with_moved_shards
from sdvae_ray.sources.manifest.row import located_stains
from sdvae_ray.sources.manifest.scan import scan_manifest
from sdvae_ray.storage import Storage, join

PARTS = "parts"  # the folder of the files, in the folder of the manifest
_WRITERS = 8  # threads that delete


class Writer(Protocol):
    """Takes the rows of a manifest, part by part."""

    def write(self, rows: pa.Table, name: str | None = None) -> None:
        """Write rows that belong together. name: of their file in a folder; None: after the plate of the first row."""
        ...


class _OneFile:
    def __init__(self, path: str) -> None:
        self.path = path
        self.writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table, name: str | None = None) -> None:
        self.writer = self.writer or pq.ParquetWriter(self.path, rows.schema, compression="zstd")
        self.writer.write_table(rows, row_group_size=max(1, len(rows)))


class _Folder:
    def __init__(self, folder: str, storage: Storage) -> None:
        self.folder, self.storage = folder, storage
        self.parts: dict[str, tuple[Part, pa.Schema]] = {}

    def write(self, rows: pa.Table, name: str | None = None) -> None:
        named = name or plate_name(pl.DataFrame(rows.select(list(PLATE_KEY)).slice(0, 1)))
        if named in self.parts:
            raise DataError(
                f"the rows of {named} do not lie together: a manifest of many files wants them sorted by plate"
            )
        self.parts[named] = write_part(self.folder, named, pl.DataFrame(rows), self.storage)


def plate_name(rows: pl.DataFrame) -> str:
    """Return the name of the file of a plate without its ending: source/batch/plate, of the first row."""
    return "/".join(f"_{key[1:]}" if key.startswith(".") else key for key in rows.select(PLATE_KEY).row(0))


def write_part(
    folder: str, name: str, rows: pl.DataFrame, storage: Storage, load_data: str | None = None
) -> tuple[Part, pa.Schema]:
    """Write one file of a manifest of many files; return it and its schema. load_data: the file that it was made of."""
    data = packed_rows(rows)
    part = part_of(rows, f"{PARTS}/{name}-{hashlib.sha256(data).hexdigest()[:8]}.parquet", data, load_data)
    storage.write_bytes(join(folder, part.file), data)
    return part, pq.read_schema(pa.BufferReader(data))


def seal(folder: str, written: Sequence[tuple[Part, pa.Schema]], storage: Storage) -> None:
    """Write the index of a folder, and delete the files of an earlier manifest there. written: the parts, from `write_part`."""
    index = write_index(folder, [part for part, _ in written], unified(schema for _, schema in written), storage)
    listed = {part.file for part in index.parts}
    stale = [f"{PARTS}/{name}" for name in storage.list(join(folder, PARTS)) if f"{PARTS}/{name}" not in listed]
    with ThreadPoolExecutor(_WRITERS) as writers:
        list(writers.map(lambda name: storage.delete(join(folder, name)), stale))


@contextmanager
def writing(output: str, storage: Storage) -> Iterator[Writer]:
    """A writer of a manifest. The manifest stands at `output` at the end of the block, whole; nothing does if the block fails."""
    if index_uri(output) is None:
        with storage.written(output) as path:
            one = _OneFile(str(path))
            try:
                yield one
            finally:
                if one.writer is not None:
                    one.writer.close()
        return
    folder = _Folder(output, storage)
    yield folder
    seal(output, [*folder.parts.values()], storage)


def is_manifest(uri: str, storage: Storage) -> bool:
    """Return whether there is a manifest at a URI; load_data files are none."""
    try:
        return FOV_ID in row_groups(uri, storage)[1]
    except DataError:
        return False


def cut(manifest: str, folder: str, storage: Storage) -> tuple[int, int]:
    """Write the rows of a manifest into a folder of a file per plate. Return (fields of view, plates).

    Raises DataError, with the row, if the manifest breaks a rule of manifests, and if the rows of a plate do not lie together.
    """
    stains = located_stains(row_groups(manifest, storage)[1])
    scan_manifest(manifest, ImageConfig(stains=tuple(stains), packing="grey"), storage, check_uris=True)
    fovs = plates = 0
    with writing(folder, storage) as writer:
        for rows in by_plate(iterate_row_groups(manifest, storage)):
            writer.write(with_moved_shards(rows, manifest, folder))
            fovs, plates = fovs + len(rows), plates + 1
    return fovs, plates


def by_plate(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the rows of a manifest again, one plate at a time where the rows of a plate lie together."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        keys = pl.DataFrame(pa.concat_tables(part.select(list(PLATE_KEY)) for part in waiting))
        starts = (keys.to_struct().rle_id().diff().fill_null(1) > 0).arg_true().to_list()
        if len(starts) > 1:
            rows = pa.concat_tables(waiting)
            for start, stop in itertools.pairwise(starts):
                yield rows.slice(start, stop - start).combine_chunks()
            waiting = [rows.slice(starts[-1])]
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
