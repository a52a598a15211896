"""Finds load_data files: paths, globs and folders, level by level, so that the folders of images beside them are never listed."""

import fnmatch
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from sdvae_ray.errors import DataError
from sdvae_ray.storage import Storage, absolute, is_remote, join

_READERS = 16  # listings at a time
_MAGIC = re.compile(r"[*?\[]")
_BEST = tuple(
    f"load_data{illum}{ending}" for illum in ("_with_illum", "") for ending in (".parquet", ".csv.gz", ".csv")
)  # of a plate's folder the first of these that is there


def load_data_files(places: Sequence[str], storage: Storage) -> dict[str, str]:
    """Return URI -> a mark that changes with its content, of all load_data files, by their URIs.

    places: paths; globs, whose * and ? match within one level; and folders that end in a slash, under which every folder with
    load_data files gives one of them: with illumination before without, Parquet before CSV. Raises DataError for a place where
    there is nothing.
    """
    found: dict[str, str] = {}
    with ThreadPoolExecutor(_READERS) as readers:
        for place in places:
            uri = absolute(place)
            if place.endswith("/"):
                marks = _in_folder(uri, storage)
            elif _MAGIC.search(uri) and not (not is_remote(uri) and storage.exists(uri)):
                marks = _matches(uri, storage, readers)
            else:
                marks = _one(uri, storage)
            if not marks:
                raise DataError(f"there is no load_data file at {place}")
            found |= marks
    return dict(sorted(found.items()))


def _one(uri: str, storage: Storage) -> dict[str, str]:
    try:
        return {uri: storage.version(uri)}
    except FileNotFoundError as error:
        raise DataError(f"{uri} does not exist") from error


def _in_folder(uri: str, storage: Storage) -> dict[str, str]:
    versions = storage.versions(uri)
    of_folder: dict[str, list[str]] = {}
    for name in versions:
        folder, _, file = name.rpartition("/")
        if file in _BEST:
            of_folder.setdefault(folder, []).append(file)
    chosen = [f"{folder}/{min(files, key=_BEST.index)}".lstrip("/") for folder, files in of_folder.items()]
    return {join(uri, name): versions[name] for name in chosen}


def _matches(uri: str, storage: Storage, readers: ThreadPoolExecutor) -> dict[str, str]:
    """Return the files that a glob matches. Levels with a wildcard, and the last, are listed; others are taken as they are."""
    scheme, separator, path = uri.rpartition("://")
    first, *levels = path.split("/")
    folders, marks = [f"{scheme}{separator}{first}"], dict[str, str]()
    for number, level in enumerate(levels, 1):
        last = number == len(levels)
        if not last and not _MAGIC.search(level):
            folders = [f"{folder}/{level}" for folder in folders]
            continue
        matched = [
            (f"{folder}/{name}", mark)
            for folder, names in zip(folders, readers.map(storage.children, _rooted(folders)), strict=True)
            for name, mark in names.items()
            if fnmatch.fnmatchcase(name, level) and (mark is None) is not last
        ]
        folders = [place for place, _ in matched]
        marks = {place: str(mark) for place, mark in matched}
    return marks


def _rooted(folders: Iterable[str]) -> list[str]:
    return [folder or "/" for folder in folders]
