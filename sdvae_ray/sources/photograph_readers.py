"""Photographs where they are kept, as they are encoded: nothing is decoded here, so that a bad one is a row that fails later.

folder      image files by extension, in any depth; the class is the file's folder, relative to the folder that was named
WebDataset  *.tar; images by extension; the class is the sample's .cls, or `label` or `class` of its .json
Parquet     a binary column, or Hugging Face's struct {bytes, path}; the class is the column `label` or `class`
LMDB        LSUN's folders with a data.mdb, on a disk; the class is the folder's name without _lmdb

A folder may hold any number of one of these. Names with a leading dot are passed over.
"""

import itertools
import posixpath
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from sdvae_ray.errors import DataError
from sdvae_ray.sources.photograph_containers import SUFFIXES, Losses, Photograph, read_lmdb, read_parquet, read_shard
from sdvae_ray.storage import Storage, absolute, join

ALLOWED = "a folder of jpg, png, webp, bmp or tif files, WebDataset .tar shards, .parquet files, or LSUN's LMDB folders"
_READERS = 16  # objects of a folder read at a time; four times as many wait in memory

Kind = Literal["file", "shard", "parquet", "lmdb"]


@dataclass(frozen=True)
class Place:
    """One shard, Parquet file, LMDB folder, or a folder with the names of its image files."""

    kind: Kind
    uri: str
    names: tuple[str, ...] = ()  # relative to the folder

    @property
    def is_container(self) -> bool:
        """A photograph here has no URI that storage could read alone."""
        return self.kind != "file"


def find_photographs(sources: Sequence[str], storage: Storage, losses: Losses) -> list[Place]:
    """What each source is. DataError where it is absent or of no kind, or where a folder holds several kinds."""
    return [place for source in sources for place in _places(absolute(source), storage, losses)]


def read_photographs(
    places: Iterable[Place],
    storage: Storage,
    losses: Losses,
    *,
    column: str | None = None,
    label_column: str | None = None,
) -> Iterator[Photograph]:
    """Every photograph of the places, in their order, one or a few in memory at a time.

    column, label_column    of Parquet files, where their names do not tell
    Raises DataError for a damaged container or a column that is not there; a file that is gone, or a row without bytes, is noted
    in `losses` instead.
    """
    for place in places:
        if place.kind == "file":
            yield from _read_files(place, storage, losses)
        elif place.kind == "shard":
            yield from read_shard(place.uri, storage)
        elif place.kind == "parquet":
            yield from read_parquet(place.uri, storage, losses, column, label_column)
        else:
            yield from read_lmdb(place.uri)


def _places(source: str, storage: Storage, losses: Losses) -> list[Place]:
    names = [name for name in storage.list(source) if not any(part.startswith(".") for part in name.split("/"))]
    if not names:
        kind = _kind(source)
        if not storage.exists(source):
            raise DataError(f"{source} does not exist; photographs are {ALLOWED}")
        if kind is None or storage.is_folder(source):
            raise DataError(f"{source} holds no photographs (allowed: {ALLOWED})")
        folder, _, name = source.rpartition("/")
        if kind == "file":
            return [Place(kind, folder, (name,))]
        return [Place(kind, folder if kind == "lmdb" else source)]
    found: dict[Kind, list[str]] = {}
    for name in names:
        if kind := _kind(name):
            found.setdefault(kind, []).append(name)
    if not found:
        raise DataError(
            f"{source} holds no photographs: {len(names)} other files, such as {names[0]} (allowed: {ALLOWED})"
        )
    if len(found) > 1:
        counts = " and ".join(f"{len(each)} of kind {kind} ({each[0]})" for kind, each in sorted(found.items()))
        raise DataError(f"{source} holds {counts}; name the folders or files of one kind")
    (kind, members), *_ = found.items()
    if kind == "file":
        others = sorted(set(names) - set(members))
        losses.setdefault("no photograph by its name", []).extend(join(source, name) for name in others)
        return [Place(kind, source, tuple(members))]
    uris = [join(source, name) for name in members]
    return [Place(kind, posixpath.dirname(uri) if kind == "lmdb" else uri) for uri in uris]


def _kind(name: str) -> Kind | None:
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in SUFFIXES:
        return "file"
    if posixpath.basename(name) == "data.mdb":
        return "lmdb"
    shards: dict[str, Kind] = {".tar": "shard", ".parquet": "parquet"}
    return shards.get(suffix)


def _read_files(place: Place, storage: Storage, losses: Losses) -> Iterator[Photograph]:
    """Reads ahead of the caller, since a bucket answers one request at a time in tens of milliseconds."""
    names = iter(place.names)
    with ThreadPoolExecutor(_READERS) as readers:

        def submitted(count: int) -> list[tuple[str, Future[bytes]]]:
            ahead = list(itertools.islice(names, count))
            return [(name, readers.submit(storage.read_bytes, join(place.uri, name))) for name in ahead]

        waiting = deque(submitted(4 * _READERS))
        try:
            while waiting:
                name, future = waiting.popleft()
                waiting.extend(submitted(1))
                uri = join(place.uri, name)
                try:
                    data = future.result()
                except FileNotFoundError:  # a link to nothing, or removed meanwhile
                    losses.setdefault("gone", []).append(uri)
                else:
                    yield Photograph(uri, posixpath.dirname(name) or None, data)
        finally:
            readers.shutdown(cancel_futures=True)
