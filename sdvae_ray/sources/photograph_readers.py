"""Reads photographs as they are encoded. Nothing is decoded here, so that a damaged photograph is a row that fails later.

folder      image files by extension, in any depth; the class is the file's folder, relative to the named folder
WebDataset  .tar shards; images by extension; the class is the sample's .cls file, or `label` or `class` of its .json file

A folder holds files or shards, not both. Names with a leading dot are passed over.
"""

import itertools
import json
import posixpath
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from sdvae_ray.errors import DataError, one_line
from sdvae_ray.storage import Storage, absolute, join

ALLOWED = "a folder of jpg, png, webp, bmp or tif files, or WebDataset .tar shards"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SHARD = ".tar"
LABELS = ("label", "class")  # keys of a sample's .json file
_READERS = 16  # objects of a folder read at a time; four times as many wait in memory

Losses = dict[str, list[str]]  # reason -> URIs left out for it


@dataclass(frozen=True)
class Photograph:
    """One encoded photograph. uri: its file, or <shard>#<member>. label: its class, as the folder or shard
    names it; None without.
    """

    uri: str
    label: str | None
    data: bytes


@dataclass(frozen=True)
class Place:
    """One shard, then `names` is empty; or a folder and the names of its image files, relative to it."""

    uri: str
    names: tuple[str, ...] = ()

    @property
    def is_shard(self) -> bool:
        """Return whether the place is a shard, whose photographs have no URI that storage could read alone."""
        return not self.names


def find_photographs(sources: Sequence[str], storage: Storage, losses: Losses) -> list[Place]:
    """Return the shards and image files of folders, files and shards; other files of a folder of images are noted in `losses`.

    Raises DataError for a source that is absent, that holds no photographs, or that holds files and shards.
    """
    return [place for source in sources for place in _places(absolute(source), storage, losses)]


def read_photographs(places: Iterable[Place], storage: Storage, losses: Losses) -> Iterator[Photograph]:
    """Yield every photograph of the places, in their order, with one or a few in memory at a time.

    A file that is gone is noted in `losses`. Raises DataError for a damaged shard.
    """
    for place in places:
        if place.is_shard:
            yield from _read_shard(place.uri, storage)
        else:
            yield from _read_files(place, storage, losses)


def _places(source: str, storage: Storage, losses: Losses) -> list[Place]:
    names = [name for name in storage.list(source) if not any(part.startswith(".") for part in name.split("/"))]
    if not names:
        if not storage.exists(source):
            raise DataError(f"{source} does not exist; photographs are {ALLOWED}")
        if storage.is_folder(source) or not (_is_image(source) or _is_shard(source)):
            raise DataError(f"{source} holds no photographs (allowed: {ALLOWED})")
        folder, _, name = source.rpartition("/")
        return [Place(source) if _is_shard(source) else Place(folder, (name,))]
    images, shards = [name for name in names if _is_image(name)], [name for name in names if _is_shard(name)]
    if images and shards:
        both = f"{len(images)} image files ({images[0]}) and {len(shards)} shards ({shards[0]})"
        raise DataError(f"{source} holds {both}; name the folders or files of one kind")
    if shards:
        return [Place(join(source, name)) for name in shards]
    if not images:
        others = f"{len(names)} other files, such as {names[0]}"
        raise DataError(f"{source} holds no photographs: {others} (allowed: {ALLOWED})")
    left_out = sorted(set(names) - set(images))
    losses.setdefault("no photograph by its name", []).extend(join(source, name) for name in left_out)
    return [Place(source, tuple(images))]


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _is_shard(name: str) -> bool:
    return name.lower().endswith(SHARD)


def _read_files(place: Place, storage: Storage, losses: Losses) -> Iterator[Photograph]:
    """Yield the photographs, read ahead of the caller: a bucket answers one request in tens of milliseconds."""
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


def _read_shard(uri: str, storage: Storage) -> Iterator[Photograph]:
    """Yield the photographs of a shard, a sample in memory at a time. Raises DataError if it is damaged, or if the members of a
    sample do not stand side by side.
    """
    keys: set[str] = set()
    try:
        with storage.open(uri) as file, tarfile.open(fileobj=file, mode="r|") as shard:
            files = (member for member in shard if member.isfile())
            members = (member for member in files if not posixpath.basename(member.name).startswith("."))
            for key, sample in itertools.groupby(members, _sample_key):
                if key in keys:
                    raise DataError(
                        f"{uri}: the members of the sample {key!r} are not side by side, or the key stands for two samples; "
                        f"write the shard anew, its members sorted by name"
                    )
                keys.add(key)
                # a shard is a stream: a member is read when its turn comes
                yield from _photographs(uri, key, ((member.name, _content(shard, member)) for member in sample))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{uri} is damaged, or no tar file: {one_line(error)}") from error


def _photographs(uri: str, key: str, members: Iterable[tuple[str, bytes]]) -> Iterator[Photograph]:
    """Yield the photographs of one sample. A label is of the image whose name it has up to the last dot, else of the whole sample.

    WebDataset's key ends at the first dot, so names with more dots, such as 2021.05.01.jpg and 2021.05.02.jpg, are one sample.
    Raises DataError for a name that stands twice, and for an image without a label beside one that has a label of its own.
    """
    images: dict[str, bytes] = {}
    labels: dict[str, str] = {}  # name up to the last dot -> label
    for name, data in members:
        stem, suffix = posixpath.splitext(posixpath.normpath(name))
        if suffix.lower() in SUFFIXES:
            if name in images:
                raise DataError(
                    f"{uri}: the sample {key!r} has {name} twice; write the shard anew, with a key for every sample"
                )
            images[name] = data
        elif suffix.lower() == ".cls":
            labels[stem] = data.decode(errors="replace").strip()
        elif suffix.lower() == ".json" and stem not in labels and (label := _json_label(data)) is not None:
            labels[stem] = label
    for name, data in images.items():
        label = labels.get(posixpath.splitext(posixpath.normpath(name))[0], labels.get(key))
        if label is None and labels:
            raise DataError(
                f"{uri}: {name} has no label, and {next(iter(labels))} of the same sample has one; WebDataset's key {key!r} "
                f"ends at the first dot: give every image a name without further dots"
            )
        yield Photograph(f"{uri}#{name}", label, data)


def _sample_key(member: tarfile.TarInfo) -> str:
    """Return WebDataset's key: the path up to the first dot of the file's name."""
    folder, name = posixpath.split(posixpath.normpath(member.name))
    return posixpath.join(folder, name.split(".")[0])


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = shard.extractfile(member)
    return b"" if file is None else file.read()


def _json_label(data: bytes) -> str | None:
    try:
        values = json.loads(data)
    except ValueError:
        return None
    labels = [values[name] for name in LABELS if name in values] if isinstance(values, dict) else []
    return str(labels[0]) if labels and isinstance(labels[0], str | int) else None
