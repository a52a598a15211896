"""Reads the pixels of a manifest of shards: the rows of a manifest whose files lie, byte for byte, in Parquet shards beside it.

A shard is a Parquet file of one FOV per row: the columns of its manifest, then one column `pixels_<stain>` per stain, without
compression. A reader fetches the footer of a shard once, and every row group once: one ranged read from the first to the last
column of the wanted stains.

The manifest has the checksums of the bytes of every file and of every footer, and a reader compares them. So damage in the bytes
of a file is an error of its FOV alone, and damage of the Parquet structure an error of the FOVs of a row group or of a shard. A
footer is compared before pyarrow sees it: pyarrow ends the process on some damaged footers.
"""

import functools
import io
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
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
from sdvae_ray.sources.manifest_row import Row, located_stains, stains_by_file
from sdvae_ray.storage import Storage, absolute, is_remote, join

_FOOTER = 64 << 10  # bytes from the end of a shard that are read first; the footers of most shards are smaller
_SHARDS_KEPT = 16  # footers held by a reader
# held by a reader: a batch may end in one row group and begin in another, and the next is on its way
_ROW_GROUPS_KEPT = 3


# errors of pyarrow on damaged Parquet, which may ask for any amount of memory; OSError is of a thrift message
_DAMAGE = (pa.ArrowException, OSError, EOFError, ValueError, KeyError, IndexError, OverflowError, MemoryError)


class ShardError(ValueError):
    """The files of a FOV are not in its shard: they could not be packed, or the shard is damaged."""


def checksum(data: bytes) -> int:
    """The CRC-32 of `zlib.crc32`, by libdeflate: 20 GB a second of a core, zlib's own 3."""
    return int(imagecodecs.deflate_crc32(data))


def footer_size(tail: bytes) -> int:
    """The bytes of the footer at the end of a Parquet file, with its length and the magic bytes after it."""
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
    """The URI of a shard that a manifest names: a URI or an absolute path as it is, else a path beside the manifest."""
    if is_remote(name) or name.startswith(("/", "file://")):
        return name
    return join(absolute(manifest).rpartition("/")[0], name)


class _RowGroup(NamedTuple):
    """What one ranged read brings. size: bytes of the shard. footer: its checksum, None in manifests of an earlier version."""

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
        self._lock = threading.Lock()  # of the two below
        self._reads: dict[_RowGroup, Future[pa.Table]] = {}  # the last that were asked for, in the order of the asking
        self._next: dict[_RowGroup, _RowGroup] = {}

    def expect(self, rows: Iterable[Row]) -> None:
        """Announces the rows that come next: while the rows of a row group are in work, the next row group is fetched."""
        groups = dict.fromkeys(self._place(row)[0] for row in rows if not row[PACK_ERROR])
        with self._lock:
            self._next = dict(itertools.pairwise(groups))

    def files(self, row: Row) -> dict[str, bytes]:
        """URI -> bytes of the file, for every file of the run's stains. `row` is of a manifest of shards.

        Raises ShardError with the reason where the files could not be packed, or where the shard is damaged; FileNotFoundError
        where there is no such shard; StorageError.
        """
        if row[PACK_ERROR]:
            raise ShardError(str(row[PACK_ERROR]))
        group, stains = self._place(row)
        table = self._started(group).result()
        with _parsing(group.shard):
            place = int(row[SHARD_ROW])
            cells = {uri: table[pixels_column(stain)][place].as_py() for uri, stain in stains.items()}
        for uri, stain in stains.items():
            self._check(cells[uri], row.get(checksum_column(stain)), group.shard, uri)
        if group in self._next:
            self._started(self._next[group])
        return cells

    def _check(self, data: bytes | None, expected: int | None, shard: str, uri: str) -> None:
        """Raises ShardError where a shard lacks the bytes of a file, or has other bytes than it was packed with."""
        if data is None:
            raise ShardError(f"the shard {shard} has no bytes of {uri}")
        if expected is not None and checksum(data) != expected:  # manifests of an earlier version have no checksums
            raise ShardError(f"the shard {shard} is damaged: wrong checksum of the bytes of {uri}")

    def _started(self, group: _RowGroup) -> Future[pa.Table]:
        """The read of a row group that is under way or done; a read that failed is begun anew."""
        with self._lock:
            read = self._reads.pop(group, None)
            if read is None or (read.done() and read.exception() is not None):
                read = self._reader.submit(self._read_row_group, group)
            self._reads[group] = read
            for oldest in list(self._reads)[:-_ROW_GROUPS_KEPT]:
                del self._reads[oldest]
        return read

    def _place(self, row: Row) -> tuple[_RowGroup, dict[str, str]]:
        """The row group of a FOV, and URI -> the stain under which the shard has the file: the first stain that shares it."""
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
            start, stop = _extent(footer, group)
        data = self.storage.read_range(uri, start, stop)
        with _parsing(uri):
            if len(data) < stop - start:
                raise EOFError("it ends too early")
            window = pa.PythonFile(_Window(data, start, size), mode="r")
            return pq.ParquetFile(window, metadata=footer).read_row_group(group.number, columns=list(columns))


def _extent(footer: pq.FileMetaData, group: _RowGroup) -> tuple[int, int]:
    """The first byte of the wanted columns of a row group, and the byte after the last."""
    meta = footer.row_group(group.number)
    chunks = [meta.column(number) for number in range(meta.num_columns)]
    wanted = [chunk for chunk in chunks if chunk.path_in_schema in group.columns]
    if len(wanted) < len(group.columns):
        raise KeyError(f"a column of {', '.join(group.columns)}")
    start = min(chunk.data_page_offset for chunk in wanted)  # pixels have no dictionary page
    stop = max(chunk.data_page_offset + chunk.total_compressed_size for chunk in wanted)
    if not 0 <= start < stop <= group.size:
        raise ValueError(f"its columns are at {start} to {stop}")
    return start, stop


class _Window:
    """A file of `size` bytes of which only the bytes from `start` on are at hand; reads give views, not copies."""

    closed = False

    def __init__(self, data: bytes, start: int, size: int) -> None:
        self.data, self.start, self.size = memoryview(data), start, size
        self.position = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to an offset from the start (0), the position (1) or the end (2)."""
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def tell(self) -> int:
        """The position."""
        return self.position

    def read(self, count: int) -> memoryview:
        """The next `count` bytes; EOFError where they are not at hand."""
        begin = self.position - self.start
        if begin < 0 or begin + count > len(self.data):
            raise EOFError("bytes outside the window")
        self.position += count
        return self.data[begin : begin + count]

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Forgets the bytes."""
        self.data = memoryview(b"")
