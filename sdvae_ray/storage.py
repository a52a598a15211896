"""The only room that opens a URI: a local path, file:// or s3:// (through s3fs: anonymous or with credentials, any endpoint).

A missing object is FileNotFoundError. Where the user must mend something (no such bucket, refused credentials, an endpoint that
does not answer), the error is StorageError, one line. It is a StorageAwayError or a StorageDeniedError if a later call may succeed.
Writing is atomic: a reader sees a whole object or none.
"""

import functools
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self, TypeVar
from urllib.parse import unquote

from sdvae_ray.config import StorageConfig
from sdvae_ray.errors import StorageAwayError, StorageDeniedError, StorageError
from sdvae_ray.faults import storage_error
from sdvae_ray.runfile import parse_storage

T = TypeVar("T")
NO_OBJECT = "no such object"  # begins the message of FileNotFoundError
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
TEMPORARY = ".tmp-"  # begins the names of files that are not whole yet


@functools.cache
def _s3fs() -> Any:
    """Return s3fs, which asks again for bytes that changed on their way, as it does for those that did not come."""
    import s3fs
    from botocore.exceptions import ChecksumError, FlexibleChecksumError

    for error in (ChecksumError, FlexibleChecksumError):
        s3fs.core.add_retryable_error(error)
    return s3fs


def is_remote(uri: str) -> bool:
    """Return whether the URI begins with a scheme such as s3://, and is not a local path or a file: URI."""
    return bool(_SCHEME.match(uri)) and not _is_file_uri(uri)


def _is_file_uri(uri: str) -> bool:
    return uri[:5].lower() == "file:" and uri[5:6] == "/"


def join(uri: str, *parts: str) -> str:
    """Join a URI and the parts of a path under it, with one slash between them."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def absolute(uri: str) -> str:
    """Return a local path made absolute, with ~ expanded; a remote URI unchanged.

    A file: URI is decoded, so that file:///plate%201/a%23b.tif is "/plate 1/a#b.tif"; a path is taken as it stands. Raises
    StorageError for a file: URI that names another host.
    """
    if is_remote(uri):
        return uri
    if not _is_file_uri(uri):
        return str(Path(uri).expanduser().absolute())
    path = uri[5:]
    if path.startswith("//"):
        host, _, path = path[2:].partition("/")
        if host not in ("", "localhost"):
            raise StorageError(f"{uri}: its host is {host}; file:///path is a file of this machine")
        path = f"/{path}"
    return str(Path(unquote(path)).absolute())


class Storage:
    """Reads and writes URIs. It holds only its options, so that it travels to any process.

    Every method raises StorageError if the user must mend something; `read_bytes`, `read_range`, `size` and `open` raise
    FileNotFoundError if the object does not exist.
    """

    def __init__(self, config: StorageConfig | None = None) -> None:
        self.config = config or StorageConfig()

    @classmethod
    def of(cls, keys: Mapping[str, Any] | None) -> Self:
        """Return the storage that keys of `storage:` in a run file describe. Raises ConfigError if they are not allowed."""
        return cls(parse_storage(keys))

    def filesystem(self, uri: str) -> tuple[Any, str]:
        """Return (fsspec filesystem, path within it) of a URI. Raises StorageError for a scheme without a reader."""
        import fsspec

        if not is_remote(uri):
            return fsspec.filesystem("file"), absolute(uri)
        scheme, _, path = uri.partition("://")
        if scheme == "s3":
            return self._s3(), path
        raise StorageError(f"{uri}: no reader for {scheme}:// (allowed: a local path, file://, s3://)")

    def _s3(self) -> Any:
        s3fs = _s3fs()
        client = {"endpoint_url": self.config.endpoint_url, "region_name": self.config.region}
        return s3fs.S3FileSystem(
            anon=self.config.anonymous,
            profile=self.config.profile,
            client_kwargs={key: value for key, value in client.items() if value},
            config_kwargs={
                "connect_timeout": 10,
                "read_timeout": 30,
                "retries": {"max_attempts": 2, "mode": "standard"},
            },
            max_concurrency=1,  # more would ask for the size of every object before its bytes
            default_cache_type="readahead",
            use_listings_cache=False,
        )

    def read_bytes(self, uri: str) -> bytes:
        """Return a whole object."""
        return self.call(uri, "read", lambda fs, path: bytes(fs.cat_file(path)))

    def read_range(self, uri: str, start: int, stop: int) -> bytes:
        """Return the bytes from `start` up to `stop` of an object, by one request."""
        return self.call(uri, "read", lambda fs, path: bytes(fs.cat_file(path, start=start, end=stop)))

    def size(self, uri: str) -> int:
        """Return the number of bytes of an object."""
        return int(self.call(uri, "look for", lambda fs, path: fs.info(path)["size"]))

    def version(self, uri: str) -> str:
        """Return a mark of an object that changes with its content: the ETag, else size and time."""
        return self.call(uri, "look for", lambda fs, path: _mark(fs.info(path)))

    @contextmanager
    def open(self, uri: str) -> Iterator[IO[bytes]]:
        """Open a seekable binary file for reading."""
        file = self.call(uri, "read", lambda fs, path: fs.open(path, "rb"))
        with file:
            try:
                yield file
            except Exception as error:  # the block reads, and storage may go away meanwhile
                failure = storage_error(error, f"cannot read {uri}")
                if isinstance(failure, (StorageAwayError, StorageDeniedError) if is_remote(uri) else StorageAwayError):
                    raise failure from error
                raise

    def write_bytes(self, uri: str, data: bytes) -> None:
        """Write a whole object: on a disk under a temporary name, then renamed; elsewhere as one upload."""

        def write(fs: Any, path: str) -> None:
            if is_remote(uri):
                fs.pipe_file(path, data)
                return
            with written_beside(Path(path), data) as temporary:
                temporary.replace(path)

        self.call(uri, "write", write)

    @contextmanager
    def written(self, uri: str) -> Iterator[Path]:
        """A path of this machine: the file that the block writes there becomes the object at the end of the block, whole.

        If the block fails, nothing is written. For objects that are too large for memory.
        """
        if is_remote(uri):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / uri.rpartition("/")[2]
                yield path
                self.call(uri, "write", lambda fs, target: fs.put_file(str(path), target))
            return
        target = Path(absolute(uri))
        self.call(uri, "write", lambda fs, _: target.parent.mkdir(parents=True, exist_ok=True))
        path = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{target.name}")
        try:
            yield path
            self.call(uri, "write", lambda fs, _: path.replace(target))
        finally:
            path.unlink(missing_ok=True)

    def exists(self, uri: str) -> bool:
        """Return whether there is an object or a folder at the URI."""
        return bool(self.call(uri, "look for", lambda fs, path: fs.exists(path)))

    def is_folder(self, uri: str) -> bool:
        """Return whether there is a folder at the URI."""
        return bool(self.call(uri, "look for", lambda fs, path: fs.isdir(path)))

    def list(self, uri: str) -> list[str]:
        """Return the sorted paths of all files under a folder, relative to it; empty if there is no such folder."""
        return [*self.versions(uri)]

    def versions(self, uri: str) -> dict[str, str]:
        """Return the paths that `list` returns, each with a mark that changes with the content: the ETag, else size and time."""

        def find(fs: Any, path: str) -> dict[str, str]:
            root = path.rstrip("/")
            return {
                file.removeprefix(root).lstrip("/"): _mark(info)
                for file, info in sorted(fs.find(root, detail=True).items())
                if file.rstrip("/") != root
            }

        try:
            return self.call(uri, "list", find)
        except FileNotFoundError:
            return {}

    def children(self, uri: str) -> dict[str, str | None]:
        """Return the names in one folder by one listing, each with its mark, as `versions` has it; None for a folder.

        Empty if there is no such folder.
        """

        def look(fs: Any, path: str) -> dict[str, str | None]:
            entries = {str(info["name"]).rstrip("/").rpartition("/")[2]: info for info in fs.ls(path, detail=True)}
            return {
                name: None if info["type"] == "directory" else _mark(info) for name, info in sorted(entries.items())
            }

        try:
            return self.call(uri, "list", look)
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def delete(self, uri: str) -> None:
        """Delete one object; its absence is no error."""
        with suppress(FileNotFoundError):
            self.call(uri, "delete", lambda fs, path: fs.rm_file(path))

    def delete_folder(self, uri: str) -> None:
        """Delete a folder with everything under it; its absence is no error."""
        with suppress(FileNotFoundError):
            self.call(uri, "delete", lambda fs, path: fs.rm(path, recursive=True))

    def call(self, uri: str, verb: str, action: Callable[[Any, str], T]) -> T:
        """Return action(fsspec filesystem, path). verb: what the action does, for the errors, such as `read`."""
        fs, path = self.filesystem(uri)
        try:
            return action(fs, path)
        except FileNotFoundError as error:
            if "bucket does not exist" in str(error):
                raise StorageError(f"cannot {verb} {uri}: the bucket does not exist") from error
            raise FileNotFoundError(f"{NO_OBJECT}: {uri}") from error
        except Exception as error:
            if failure := storage_error(error, f"cannot {verb} {uri}"):
                raise failure from error
            raise

    def renew(self, uri: str) -> None:
        """Read the credentials of a bucket again: those that this process holds may have expired."""
        if is_remote(uri):
            self.call(uri, "reach", lambda fs, path: fs.connect(refresh=True))


@contextmanager
def written_beside(path: Path, data: bytes) -> Iterator[Path]:
    """A whole temporary file that holds `data`, in the folder of `path`, which is made; gone at the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _mark(info: Mapping[str, Any]) -> str:
    return str(info.get("ETag") or f"{info['size']}-{info.get('mtime')}")


def local_copy(uri: str, storage: Storage) -> Path:
    """Return the path of an object on this machine. A remote object is copied first, see `local_copies`.

    Raises FileNotFoundError if the remote object does not exist.
    """
    if not is_remote(uri):
        return Path(absolute(uri))
    parent, _, name = uri.rpartition("/")
    versions = storage.versions(parent)
    if name not in versions:
        raise FileNotFoundError(f"{NO_OBJECT}: {uri}")
    return local_copies(parent, {name: versions[name]}, storage) / name


def local_copies(prefix: str, versions: Mapping[str, str], storage: Storage) -> Path:
    """Copy objects under a remote prefix to this machine, once per content, and return the folder that holds them.

    `versions` has the objects' names, relative to the prefix, with their marks from `Storage.versions`. The folder is in
    $SDVAE_RAY_CACHE (default ~/.cache/sdvae_ray). If a mark has changed, all the objects are copied anew, and the earlier copies
    are deleted. An object passes through memory whole.
    """
    cache = Path(os.environ.get("SDVAE_RAY_CACHE", Path.home() / ".cache" / "sdvae_ray"))
    copies = cache / _digest(f"{storage.config.endpoint_url}|{prefix}|{sorted(versions)}")
    folder = copies / _digest(str(sorted(versions.items())))
    absent = [name for name in versions if not (folder / name).exists()]
    for name in absent:
        Storage().write_bytes(str(folder / name), storage.read_bytes(join(prefix, name)))
    if absent:
        for other in copies.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)  # another process may delete it too
    return folder


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
