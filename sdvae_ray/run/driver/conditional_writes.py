"""Writes that succeed only while an object is absent, or still as it was read: of several processes one wins.

On S3 and its like the store decides (If-None-Match: *, If-Match: ETag). On a disk a hard link creates, and a lock of the file that
stands there guards its replacement; the lock is advisory (flock), which NFS since version 4 honours between machines too.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sdvae_ray.faults import answer_of
from sdvae_ray.storage import Storage, is_remote, written_beside

_REFUSED = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "404"}  # another process was first


class Versioned(NamedTuple):
    """The content of an object, and a text that changes with it."""

    data: bytes
    version: str


def read(uri: str, storage: Storage) -> Versioned:
    """Return an object with its version. Raises FileNotFoundError, StorageError."""
    if not is_remote(uri):
        data = storage.read_bytes(uri)
        return Versioned(data, _digest(data))
    while True:
        before, data, after = storage.version(uri), storage.read_bytes(uri), storage.version(uri)
        if before == after:
            return Versioned(data, after)


def create(uri: str, data: bytes, storage: Storage) -> str | None:
    """Write an object that does not exist yet, and return its version; None if there is one."""
    if is_remote(uri):
        return _put(uri, data, storage, {"IfNoneMatch": "*"})
    return _on_disk(uri, storage, lambda path: _link(path, data))


def replace(uri: str, data: bytes, version: str, storage: Storage) -> str | None:
    """Write an object in place of the version that was read; return the new version, or None if another one is there, or none."""
    if is_remote(uri):
        return _put(uri, data, storage, {"IfMatch": version})

    def swap(path: Path) -> str | None:
        with _locked(path) as held, written_beside(path, data) as temporary:
            if held is None or _digest(held) != version:
                return None
            temporary.replace(path)
            return _digest(data)

    return _on_disk(uri, storage, swap)


def delete(uri: str, version: str, storage: Storage) -> bool:
    """Delete an object that still has this version; return False if another one is there, or none."""
    if is_remote(uri):
        return _delete_remote(uri, version, storage)

    def remove(path: Path) -> str | None:
        with _locked(path) as held:
            if held is None or _digest(held) != version:
                return None
            path.unlink()
            return version

    return _on_disk(uri, storage, remove) is not None


def honoured(uri: str, storage: Storage) -> bool:
    """Return whether the store keeps the conditions. uri: of an object that a conditional write has made."""
    return not is_remote(uri) or _put(uri, b"", storage, {"IfNoneMatch": "*"}) is None


# --- on S3 ---------------------------------------------------------------------------------------------------------------------


def _put(uri: str, data: bytes, storage: Storage, condition: dict[str, str]) -> str | None:
    def put(filesystem: Any, path: str) -> str | None:
        bucket, _, key = path.partition("/")
        try:
            return str(filesystem.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)["ETag"])
        except OSError as error:
            if answer_of(error)[0] not in _REFUSED:
                raise
        try:  # a request that was sent again may have met its own success
            there = read(uri, storage)
        except FileNotFoundError:
            return None
        return there.version if data and there.data == data else None

    return storage.call(uri, "write", put)


def _delete_remote(uri: str, version: str, storage: Storage) -> bool:
    def remove(filesystem: Any, path: str) -> bool:
        bucket, _, key = path.partition("/")
        try:
            filesystem.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=version)
        except OSError as error:
            if answer_of(error)[0] in _REFUSED:
                return False
            raise
        return True

    return storage.call(uri, "delete", remove)


# --- on a disk -----------------------------------------------------------------------------------------------------------------


def _on_disk(uri: str, storage: Storage, action: Callable[[Path], str | None]) -> str | None:
    return storage.call(uri, "write", lambda _, path: action(Path(path)))


def _link(path: Path, data: bytes) -> str | None:
    with written_beside(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return None
    return _digest(data)


@contextmanager
def _locked(path: Path) -> Iterator[bytes | None]:
    """The content of the file that stands at `path`, which stays there until the end of the block; None without one.

    The lock is of the file, not of its name: once it is granted, another file may stand at the name, and that one is tried.
    """
    while True:
        try:
            file = path.open("r+b")
        except FileNotFoundError:
            yield None
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                is_current = os.path.samestat(os.stat(path), os.fstat(file.fileno()))
            except FileNotFoundError:
                is_current = False
            if is_current:
                yield file.read()
                return


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
