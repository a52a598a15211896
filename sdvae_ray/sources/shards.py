"""Reads the pixels of a manifest of shards: the rows of a manifest whose files lie, byte for byte, in Parquet shards beside it.

A shard is a Parquet file of one FOV per row: the columns of its manifest, then one column `pixels_<stain>` per stain, without
compression. A reader fetches the footer of a shard once, and every row group once: a ranged read for every wanted column, all at
the same time, or one for several small columns that are neighbours.

The manifest has the checksums of the bytes of every file and of every footer, and a reader compares them. So damage in the bytes
of a file is an error of its FOV alone, and damage of the Parquet structure an error of the FOVs of a row group or of a shard. A
footer is compared before pyarrow sees it: pyarrow ends the process on some damaged footers.
"""

import functools
import io
import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import imagecodecs
import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.errors import one_line
from sdvae_ray.schema import (
    PACK_ERROR,
    SHARD,
    SHARD_BYTES,
    SHARD_FOOTER,
    SHARD_ROW,
    SHARD_ROW_GROUP,
    checksum_column,
    pixels_column,
)
from sdvae_ray.sources.manifest.row import Row, located_stains, stains_by_file
from sdvae_ray.sources.sparse_file import SparseFile
from sdvae_ray.storage import NO_OBJECT, Storage, absolute, is_remote, join

_FOOTER = 64 << 10  # bytes from the end of a shard that are read first; the footers of most shards are smaller
_SHARDS_KEPT = 16  # footers held by a reader
_REQUEST = 16 << 20  # bytes: a connection to a bucket gives 50 to 100 MB/s, so a row group of 90 MB is several requests
_REQUESTS = 8  # in flight
# held by a reader: a batch may end in one row group and begin in another, and the next is on its way
_ROW_GROUPS_KEPT = 3
# errors of pyarrow on damaged Parquet, which may ask for any amount of memory; OSError is of a thrift message
_DAMAGE = (pa.ArrowException, OSError, EOFError, ValueError, KeyError, IndexError, OverflowError, MemoryError)


class ShardError(ValueError):
    """The files of a FOV are not in its shard: they could not be packed, or the shard is damaged."""


def checksum(data: bytes) -> int:
    """Return the CRC-32 that `zlib.crc32` gives, by libdeflate: 20 GB a second of a core, zlib 3."""
    return int(imagecodecs.deflate_crc32(data))


def footer_size(tail: bytes) -> int:
    """Return the number of bytes of the footer at the end of a Parquet file, with its length and the magic bytes after it."""
    return int.from_bytes(tail[-8:-4], "little") + 8


@contextmanager
def _parsing(shard: str) -> Iterator[None]:
    """A block that reads the bytes of a shard, and no storage: any error in it is damage of the shard."""
    try:
        yield
    except _DAMAGE as error:
        raise ShardError(
            f"the shard {shard} is damaged, or is not the shard of this manifest: {one_line(error)}"
        ) from error


def shard_uri(name: str, manifest: str) -> str:
    """Return the URI of a shard that a manifest names: a URI or an absolute path unchanged, else a path in
    the manifest's folder.
    """
    if is_remote(name) or name.startswith(("/", "file://")):
        return name
    return join(absolute(manifest).rpartition("/")[0], name)


class _RowGroup(NamedTuple):
    """The row group that one ranged read brings. size: bytes of the shard."""

    shard: str
    size: int
    footer: int | None
    number: int
    columns: tuple[str, ...]


class ShardReader:
    """Reads the files of a FOV from its shard. Threads may share a reader.

    stains: the stains of the run; the columns of other stains are not read.
    """

    def __init__(self, storage: Storage, stains: Sequence[str]) -> None:
        self.storage, self.stains = storage, tuple(stains)
        self._footer = functools.lru_cache(_SHARDS_KEPT)(self._read_footer)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._requests = ThreadPoolExecutor(_REQUESTS, thread_name_prefix="shards")
        self._lock = threading.Lock()  # of the three below
        self._read_again: set[_RowGroup] = set()  # those that came damaged once
        self._reads: dict[_RowGroup, Future[pa.Table]] = {}  # the last that were asked for, in the order of the asking
        self._next: dict[_RowGroup, _RowGroup] = {}

    def expect(self, rows: Iterable[Row]) -> None:
        """Announce the rows that come next: while the rows of a row group are in work, the next row group is fetched."""
        groups = dict.fromkeys(self._place(row)[0] for row in rows if not row[PACK_ERROR])
        with self._lock:
            self._next = dict(itertools.pairwise(groups))

    def files(self, row: Row) -> dict[str, bytes]:
        """Return URI -> bytes of the file, for every file of the run's stains. row: has the columns of a manifest of shards.

        A row group whose bytes are not those that were packed is read once more: a byte can change on its way too. Raises
        ShardError, with the reason, if the files could not be packed or the shard is damaged; FileNotFoundError if the shard does
        not exist, or a file did not when it was packed; StorageError.
        """
        if reason := row[PACK_ERROR]:
            raise (FileNotFoundError if str(reason).startswith(NO_OBJECT) else ShardError)(str(reason))
        group, stains = self._place(row)
        read = self._started(group)
        try:
            return self._cells(row, group, stains, read)
        except ShardError:
            with self._lock:
                # another row of the group may have begun the second read since: that one is waited for
                is_latest = self._reads.get(group) is read
                if is_latest and group in self._read_again:
                    raise
                self._read_again.add(group)
                if is_latest:
                    del self._reads[group]
            return self._cells(row, group, stains, self._started(group))

    def requests(self, row: Row) -> list[int]:
        """Return the bytes of every request that brings the row group of a FOV. Reads the footer of its shard alone.

        Raises ShardError if the shard is damaged, FileNotFoundError if it does not exist, and StorageError.
        """
        group, _ = self._place(row)
        footer = self._footer(group.shard, group.size, group.footer)
        with _parsing(group.shard):
            return [stop - start for start, stop in _ranges(footer, group)]

    def footer_requests(self, row: Row) -> list[int]:
        """Return the bytes of every request that brings the footer of the shard of a FOV. Raises as `requests` does."""
        size = int(row[SHARD_BYTES])
        first = min(size, _FOOTER)
        length = footer_size(self.storage.read_range(str(row[SHARD]), max(0, size - 8), size))
        return [first, length] if first < length <= size else [first]

    def _cells(
        self, row: Row, group: _RowGroup, stains: Mapping[str, str], read: "Future[pa.Table]"
    ) -> dict[str, bytes]:
        table = read.result()
        with _parsing(group.shard):
            place = int(row[SHARD_ROW])
            cells = {uri: table[pixels_column(stain)][place].as_py() for uri, stain in stains.items()}
        for uri, stain in stains.items():
            self._check(cells[uri], row.get(checksum_column(stain)), group.shard, uri)
        if group in self._next:
            self._started(self._next[group])
        return cells

    def _check(self, data: bytes | None, expected: int | None, shard: str, uri: str) -> None:
        """Raise ShardError if a shard lacks the bytes of a file, or has other bytes than it was packed with."""
        if data is None:
            raise ShardError(f"the shard {shard} has no bytes of {uri}")
        if expected is not None and checksum(data) != expected:  # manifests of an earlier version have no checksums
            raise ShardError(f"the shard {shard} is damaged: wrong checksum of the bytes of {uri}")

    def _started(self, group: _RowGroup) -> Future[pa.Table]:
        """Return the read of a row group that is under way or done; a read that failed is begun anew."""
        with self._lock:
            read = self._reads.pop(group, None)
            if read is None or (read.done() and read.exception() is not None):
                read = self._reader.submit(self._read_row_group, group)
            self._reads[group] = read
            for oldest in list(self._reads)[:-_ROW_GROUPS_KEPT]:
                del self._reads[oldest]
        return read

    def _place(self, row: Row) -> tuple[_RowGroup, dict[str, str]]:
        """Return the row group of a FOV, and URI -> the column of its bytes."""
        sharing = stains_by_file(row, located_stains(row))
        stains = {uri: sharing[uri][0] for uri in stains_by_file(row, self.stains)}
        place = str(row[SHARD]), int(row[SHARD_BYTES]), row.get(SHARD_FOOTER), int(row[SHARD_ROW_GROUP])
        return _RowGroup(*place, tuple(map(pixels_column, stains.values()))), stains

    def _read_footer(self, uri: str, size: int, expected: int | None) -> pq.FileMetaData:
        tail = self.storage.read_range(uri, max(0, size - _FOOTER), size)
        length = footer_size(tail)
        if len(tail) < length <= size:
            tail = self.storage.read_range(uri, size - length, size)
        with _parsing(uri):
            if expected is not None and checksum(tail[-length:]) != expected:
                raise ValueError("wrong checksum of its footer")
            return pq.read_metadata(io.BytesIO(tail))

    def _read_row_group(self, group: _RowGroup) -> pa.Table:
        uri, size, columns = group.shard, group.size, group.columns
        footer = self._footer(uri, size, group.footer)
        with _parsing(uri):
            ranges = _ranges(footer, group)
        starts, stops = zip(*ranges, strict=True)
        parts = dict(
            zip(starts, self._requests.map(self.storage.read_range, itertools.repeat(uri), starts, stops), strict=True)
        )
        with _parsing(uri):
            if any(len(parts[start]) < stop - start for start, stop in ranges):
                raise EOFError("it ends too early")
            file = pa.PythonFile(SparseFile(parts, size), mode="r")
            reader = pq.ParquetFile(file, metadata=footer, pre_buffer=False)  # a buffer would read across the parts
            return reader.read_row_group(group.number, columns=list(columns))


def _ranges(footer: pq.FileMetaData, group: _RowGroup) -> list[tuple[int, int]]:
    """Return (first byte, byte after the last) of the wanted columns of a row group; small neighbours are one range."""
    meta = footer.row_group(group.number)
    chunks = [meta.column(number) for number in range(meta.num_columns)]
    wanted = [chunk for chunk in chunks if chunk.path_in_schema in group.columns]
    if len(wanted) < len(group.columns):
        raise KeyError(f"a column of {', '.join(group.columns)}")
    ranges: list[tuple[int, int]] = []
    for start, length in sorted((chunk.data_page_offset, chunk.total_compressed_size) for chunk in wanted):
        # pixels have no dictionary page
        if not 0 <= start < start + length <= group.size:
            raise ValueError(f"a column is at {start} to {start + length}")
        first = ranges.pop()[0] if ranges and start + length - ranges[-1][0] <= _REQUEST else start
        ranges.append((first, start + length))
    return ranges
