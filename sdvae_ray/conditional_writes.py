"""Writes that succeed only while an object is absent, or still as it was read: of several processes one wins.

On S3 and its like the store decides (If-None-Match: *, If-Match: ETag). On a disk a hard link creates, and a lock of the file that
stands there guards its replacement; the lock is advisory (flock), which NFS since version 4 honours between machines too.
"""

import fcntl
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sdvae_ray.errors import StorageError
from sdvae_ray.storage import TEMPORARY, Storage, absolute, is_remote

_REFUSED = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "404"}  # another process was first


class Versioned(NamedTuple):
    """The content of an object, and a text that changes with it."""

    data: bytes
    version: str


def read(uri: str, storage: Storage) -> Versioned:
    """Returns an object with its version. Raises FileNotFoundError, StorageError."""
    if not is_remote(uri):
        data = storage.read_bytes(uri)
        return Versioned(data, _digest(data))
    while True:
        before, data, after = _etag(uri, storage), storage.read_bytes(uri), _etag(uri, storage)
        if before == after:
            return Versioned(data, after)


def create(uri: str, data: bytes, storage: Storage) -> str | None:
    """Writes an object that does not exist yet, and returns its version; None if there is one."""
    if is_remote(uri):
        return _put(uri, data, storage, {"IfNoneMatch": "*"})
    return _on_disk(uri, storage, lambda path: _link(path, data))


def replace(uri: str, data: bytes, version: str, storage: Storage) -> str | None:
    """Writes an object in place of the version that was read; returns the new version, or None if another one is there, or none."""
    if is_remote(uri):
        return _put(uri, data, storage, {"IfMatch": version})

    def swap(path: Path) -> str | None:
        with _locked(path) as held, _temporary(path, data) as temporary:
            if held is None or _digest(held) != version:
                return None
            temporary.replace(path)
            return _digest(data)

    return _on_disk(uri, storage, swap)


def delete(uri: str, version: str, storage: Storage) -> bool:
    """Deletes an object that still has this version; False if another one is there, or none."""
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
    """Whether the store keeps the conditions. uri: of an object that exists."""
    try:
        return not is_remote(uri) or _put(uri, b"", storage, {"IfNoneMatch": "*"}) is None
    except StorageError as error:
        if "NotImplemented" in str(error) or "not implemented" in str(error):
            return False
        raise


# --- on S3 ---------------------------------------------------------------------------------------------------------------------


def _put(uri: str, data: bytes, storage: Storage, condition: dict[str, str]) -> str | None:
    def put(filesystem: Any, path: str) -> str | None:
        bucket, _, key = path.partition("/")
        try:
            return str(filesystem.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)["ETag"])
        except OSError as error:
            if _code(error) not in _REFUSED:
                raise
        try:  # a request that was sent again may have met its own success
            return read(uri, storage).version if data and storage.read_bytes(uri) == data else None
        except FileNotFoundError:
            return None

    return storage.call(uri, "write", put)


def _delete_remote(uri: str, version: str, storage: Storage) -> bool:
    def remove(filesystem: Any, path: str) -> bool:
        bucket, _, key = path.partition("/")
        try:
            filesystem.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=version)
        except OSError as error:
            if _code(error) in _REFUSED:
                return False
            raise
        return True

    return storage.call(uri, "delete", remove)


def _etag(uri: str, storage: Storage) -> str:
    return storage.call(uri, "read", lambda filesystem, path: str(filesystem.info(path)["ETag"]))


def _code(error: OSError) -> str:
    """The code of the store's answer behind an error of s3fs."""
    answer = getattr(error.__cause__ or error, "response", {})
    return str(answer.get("Error", {}).get("Code", ""))


# --- on a disk -----------------------------------------------------------------------------------------------------------------


def _on_disk(uri: str, storage: Storage, action: Callable[[Path], str | None]) -> str | None:
    return storage.call(uri, "write", lambda _, path: action(Path(absolute(path))))


def _link(path: Path, data: bytes) -> str | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return None
    return _digest(data)


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """A file beside `path` that holds `data` until the end of the block."""
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


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
