"""The only room that opens a URI. A local path, file:// or s3:// (through s3fs: anonymous or with credentials, any endpoint).

A missing object is FileNotFoundError; what the user must mend (no such bucket, refused credentials, an endpoint that does not
answer) is StorageError, one line. Writing is atomic: a reader sees a whole object or none.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from sdvae_ray.config import StorageConfig
from sdvae_ray.errors import StorageError

T = TypeVar("T")
_TEMPORARY = ".tmp-"


def is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file://")


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def absolute(uri: str) -> str:
    """A local path made absolute, with ~ expanded; a URI as it is."""
    return uri if is_remote(uri) else str(Path(uri.removeprefix("file://")).expanduser().absolute())


class Storage:
    """Reads and writes URIs. Holds only its options, so that it travels to any process."""

    def __init__(self, config: StorageConfig | None = None) -> None:
        self.config = config or StorageConfig()

    def filesystem(self, uri: str) -> tuple[Any, str]:
        """(fsspec filesystem, path within it) of a URI."""
        import fsspec

        if not is_remote(uri):
            return fsspec.filesystem("file"), absolute(uri)
        scheme, _, path = uri.partition("://")
        if scheme == "s3":
            return self._s3(), path
        try:
            return fsspec.filesystem(scheme), path
        except (ValueError, ImportError) as error:
            raise StorageError(f"{uri}: no reader for {scheme}:// (allowed: a local path, file://, s3://)") from error

    def _s3(self) -> Any:
        import s3fs

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
        def read(fs: Any, path: str) -> bytes:
            data = fs.cat_file(path)
            return bytes(data)

        return self._call(uri, "read", read)

    @contextmanager
    def open(self, uri: str) -> Iterator[IO[bytes]]:
        """A seekable binary file for reading."""
        file = self._call(uri, "read", lambda fs, path: fs.open(path, "rb"))
        with file:
            yield file

    def write_bytes(self, uri: str, data: bytes) -> None:
        """Writes a whole object: under a temporary name and renamed on a disk, one upload elsewhere."""

        def write(fs: Any, path: str) -> None:
            if is_remote(uri):
                fs.pipe_file(path, data)
                return
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}-{target.name}")
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)

        self._call(uri, "write", write)

    def exists(self, uri: str) -> bool:
        return bool(self._call(uri, "look for", lambda fs, path: fs.exists(path)))

    def is_folder(self, uri: str) -> bool:
        return bool(self._call(uri, "look for", lambda fs, path: fs.isdir(path)))

    def list(self, uri: str) -> list[str]:
        """Sorted paths of every file under a folder, relative to it; empty where there is no such folder."""

        def find(fs: Any, path: str) -> list[str]:
            root = path.rstrip("/")
            return sorted(found.removeprefix(root).lstrip("/") for found in fs.find(root) if found.rstrip("/") != root)

        try:
            return self._call(uri, "list", find)
        except FileNotFoundError:
            return []

    def versions(self, uri: str) -> dict[str, str]:
        """What `list` gives, each with a mark that changes with its content: the ETag, else size and time."""

        def find(fs: Any, path: str) -> dict[str, str]:
            root = path.rstrip("/")
            found = fs.find(root, detail=True)
            marks = {
                name.removeprefix(root).lstrip("/"): str(info.get("ETag") or f"{info['size']}-{info.get('mtime')}")
                for name, info in found.items()
            }
            return dict(sorted(marks.items()))

        try:
            return self._call(uri, "list", find)
        except FileNotFoundError:
            return {}

    def delete(self, uri: str) -> None:
        """Deletes one object; none there is no error."""
        try:
            self._call(uri, "delete", lambda fs, path: fs.rm_file(path))
        except FileNotFoundError:
            return

    def delete_folder(self, uri: str) -> None:
        """Deletes everything under a folder, and it; none there is no error."""
        try:
            self._call(uri, "delete", lambda fs, path: fs.rm(path, recursive=True))
        except FileNotFoundError:
            return

    def delete_temporaries(self, uri: str) -> None:
        """What a killed writer left under its temporary name."""
        for name in self.list(uri):
            if name.rpartition("/")[2].startswith(_TEMPORARY):
                self.delete(join(uri, name))

    def _call(self, uri: str, verb: str, action: Callable[[Any, str], T]) -> T:
        fs, path = self.filesystem(uri)
        try:
            return action(fs, path)
        except FileNotFoundError as error:
            if "bucket does not exist" in str(error):
                raise StorageError(f"cannot {verb} {uri}: the bucket does not exist") from error
            raise FileNotFoundError(f"no such object: {uri}") from error
        except OSError as error:
            raise StorageError(f"cannot {verb} {uri}: {error.strerror or _one_line(error)}") from error
        except Exception as error:
            if reason := _remote_reason(error):
                raise StorageError(f"cannot {verb} {uri}: {reason}") from error
            raise


def _remote_reason(error: Exception) -> str | None:
    """What went wrong on the way to a bucket, where that is what the error is about."""
    import botocore.exceptions

    if isinstance(error, botocore.exceptions.NoCredentialsError):
        return "no AWS credentials; set storage.anonymous: true for a public bucket"
    if isinstance(error, botocore.exceptions.BotoCoreError | botocore.exceptions.ClientError):
        return _one_line(error)
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
