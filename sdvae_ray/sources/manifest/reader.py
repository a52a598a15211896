"""The rows of a manifest, wherever they lie: in one Parquet file, or in the files of a folder with an index.

The rows come in groups. A group is a row group of the one file, or one file of the folder, and has a number from 0. The driver
counts the groups, a worker reads one, and neither holds the whole manifest. A worker reads a file of a folder by one request; of
one large file it reads the footer each time, which is large too (58 MB for 8 million rows).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.errors import DataError
from sdvae_ray.parquet import opened
from sdvae_ray.schema import SHARD
from sdvae_ray.sources.manifest.index import INDEX, Index, index_uri, read_index, read_part
from sdvae_ray.sources.shards import shard_uri
from sdvae_ray.storage import Storage

_BATCH = 1 << 15  # rows that are looked at together
_READERS = 16  # files of a folder that are read at a time: object storage is slow to answer a request


class ManifestRows(Protocol):
    """The rows of an open manifest. schema: of all columns; sizes: the number of rows of every group."""

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def sizes(self) -> list[int]: ...

    def group(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one group; columns: None: all."""
        ...

    def groups(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield all groups in their order."""
        ...


class _OneFile:
    def __init__(self, file: pq.ParquetFile) -> None:
        self.file, self.schema = file, file.schema_arrow
        self.sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]

    def group(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        return self.file.read_row_group(number, columns=None if columns is None else list(columns))

    def groups(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        for number in range(len(self.sizes)):
            yield self.group(number, columns)


class Folder:
    """A manifest of many files, by its index. uri: of index.parquet."""

    def __init__(self, uri: str, storage: Storage, index: Index | None = None) -> None:
        self.folder, self.storage = uri.removesuffix(f"/{INDEX}"), storage
        self.index = read_index(uri, storage) if index is None else index
        self.schema, self.sizes = self.index.schema, [part.rows for part in self.index.parts]

    def group(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        return read_part(self.folder, self.index.parts[number], self.schema, self.storage, columns)

    def groups(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        waiting: deque[Future[pa.Table]] = deque()
        with ThreadPoolExecutor(_READERS) as readers:
            try:
                for number in range(len(self.sizes)):
                    waiting.append(readers.submit(self.group, number, columns))
                    if len(waiting) == 2 * _READERS:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                readers.shutdown(cancel_futures=True)


def find_index(uri: str, storage: Storage) -> str | None:
    """Return the place of the index of a manifest of many files; None if the manifest is one file."""
    place = index_uri(uri)
    return place if place is not None and (place == uri or storage.exists(place)) else None


def manifest_exists(uri: str, storage: Storage) -> bool:
    """Return whether there is a manifest at the URI; a folder whose index is not written yet is none."""
    return storage.exists(index_uri(uri) or uri) or (index_uri(uri) is not None and _is_file(uri, storage))


def _is_file(uri: str, storage: Storage) -> bool:
    return storage.exists(uri) and not storage.is_folder(uri)


@contextmanager
def opened_manifest(uri: str, storage: Storage) -> Iterator[ManifestRows]:
    """A manifest, open for reading in the block. Raises DataError if there is no manifest at the URI."""
    try:
        if place := find_index(uri, storage):
            yield Folder(place, storage)
            return
        if index_uri(uri) is not None and storage.is_folder(uri):
            raise DataError(
                f"{uri} has no {INDEX}: it is no manifest, or is not finished; `sdvae-ray manifest` ends it"
            )
        with opened(uri, storage, "a Parquet file from `sdvae-ray manifest` is wanted") as file:
            yield _OneFile(file)
    except FileNotFoundError as error:
        raise DataError(f"no manifest at {uri}; `sdvae-ray manifest` writes one") from error


def batches(rows: ManifestRows, least: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of a manifest in tables of whole groups, each of `least` rows or more but the last."""
    waiting: list[pa.Table] = []
    for table in rows.groups(columns):
        waiting.append(table)
        if sum(map(len, waiting)) >= least:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def read_columns(rows: ManifestRows, columns: Sequence[str]) -> pa.Table:
    """Read some columns of all rows."""
    parts = list(rows.groups(columns))
    return pa.concat_tables(parts) if parts else rows.schema.empty_table().select(list(columns))


def row_groups(uri: str, storage: Storage) -> tuple[list[int], list[str]]:
    """Return (the number of rows of every group, the names of the columns) of a manifest, without its rows.

    Raises DataError if there is no manifest at the URI.
    """
    with opened_manifest(uri, storage) as rows:
        return rows.sizes, rows.schema.names


def row_places(sizes: Sequence[int]) -> dict[str, pl.Series]:
    """Return `row_group` and `row`, (n,) int32, of all rows of a manifest in their order. sizes: the rows of every group."""
    return {
        "row_group": pl.Series(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)),
        "row": pl.Series(np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])),
    }


def group_reader(uri: str, storage: Storage) -> Callable[[int], pa.Table]:
    """Return a function that reads one group of a manifest by its number, with the places of its shards as URIs.

    An index is read once, and the footer of a single file at every call: so large a thing is not kept.
    """
    if place := find_index(uri, storage):
        folder = Folder(place, storage)
        return lambda number: with_located_shards(folder.group(number), uri)
    return lambda number: read_row_group(uri, number, storage)


def read_row_group(uri: str, group: int, storage: Storage) -> pa.Table:
    """Read one group of a manifest, with the places of its shards as URIs. Raises DataError if there is no manifest."""
    with opened_manifest(uri, storage) as rows:
        return with_located_shards(rows.group(group), uri)


def read_rows(uri: str, keys: pl.DataFrame, storage: Storage) -> pa.Table:
    """Return the rows of a manifest that `keys` (row_group, row) names, group after group; each is read once.

    Raises DataError as `read_row_group`.
    """
    with opened_manifest(uri, storage) as manifest:  # once: the footer of a large manifest is large

        def read(number: int, rows: pl.DataFrame) -> pa.Table:
            return manifest.group(number).take(pa.array(rows["row"].to_numpy()))

        wanted = [(int(str(number)), rows) for (number,), rows in keys.group_by("row_group", maintain_order=True)]
        with ThreadPoolExecutor(_READERS if isinstance(manifest, Folder) else 1) as readers:
            parts = list(readers.map(read, *zip(*wanted, strict=True)))
    return with_located_shards(pa.concat_tables(parts), uri)


def iterate_row_groups(uri: str, storage: Storage, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the groups of a manifest one after another; columns: None: all. Raises DataError if there is no manifest."""
    with opened_manifest(uri, storage) as rows:
        yield from rows.groups(columns)


def with_located_shards(table: pa.Table, uri: str) -> pa.Table:
    """Return rows of the manifest at `uri` with the places of its shards, if it has any, as URIs."""
    if SHARD not in table.column_names:
        return table
    place = uri.removesuffix(f"/{INDEX}")
    located = pa.array([shard_uri(name, place) for name in table[SHARD].to_pylist()], pa.string())
    return table.set_column(table.column_names.index(SHARD), SHARD, located)


def with_moved_shards(table: pa.Table, uri: str, output: str) -> pa.Table:
    """Return rows of the manifest at `uri` for one at `output`: the places of shards as URIs, unless both have one folder."""
    return table if uri.rpartition("/")[0] == output.rpartition("/")[0] else with_located_shards(table, uri)


def read_manifest_column(uri: str, name: str, storage: Storage) -> pa.ChunkedArray:
    """Read one column of all rows as it is stored, in the manifest's order. Raises DataError if there is no manifest."""
    with opened_manifest(uri, storage) as rows:
        return read_columns(rows, [name])[name]


def iterate_metadata(uri: str, names: Sequence[str], storage: Storage) -> Iterator[pl.DataFrame]:
    """Yield some columns of all rows as text, some thousands of rows at a time. Raises DataError if there is no manifest."""
    with opened_manifest(uri, storage) as rows:
        for table in batches(rows, _BATCH, names):
            yield pl.DataFrame(table).select(pl.all().cast(pl.String))
