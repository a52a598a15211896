"""Illumination functions, fetched and decoded once on a machine: its loaders share them through a folder of .npy files.

The first loader that wants a function writes it, decoded, under a temporary name and renames it; the others wait for it and map the
file, so that its pages are in memory once. A file is named by the function's URI and version, so a function that changes is read
again, by this run or a later one. The folder keeps the functions that were used last.
"""

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from sdvae_ray.images.decode import decode_illumination
from sdvae_ray.storage import Storage

_KEPT = 64  # functions in the folder: 0.6 GB of 1,080 x 1,080 pixels


def machine_folder() -> Path | None:
    """Return the folder of this machine and user; None if there is none that this user alone may write to."""
    folder = Path(tempfile.gettempdir()) / f"sdvae_ray-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o022:
            return folder
    return None


class IlluminationReader:
    """A reader of illumination functions. Threads may share a reader.

    folder: see `machine_folder`; None: this reader fetches and decodes them for itself.
    """

    def __init__(self, storage: Storage, folder: Path | None) -> None:
        self.storage, self.folder = storage, folder

    def read(self, uri: str) -> np.ndarray:
        """Return the function at a URI, (height, width) float64 above 0, read-only.

        Raises FileNotFoundError, StorageError, and DecodeError if the file holds no such function.
        """
        if self.folder is None:
            return self._decoded(uri)
        content = f"{self.storage.config.endpoint_url}|{uri}|{self.storage.version(uri)}"
        name = hashlib.sha256(content.encode()).hexdigest()
        path = self.folder / f"{name}.npy"
        with _locked(self.folder / f"lock-{name[0]}"):  # functions of one first digit wait for each other
            function = _mapped(path)
            return self._kept(self._decoded(uri), path) if function is None else function

    def _decoded(self, uri: str) -> np.ndarray:
        return decode_illumination(self.storage.read_bytes(uri), uri)

    def _kept(self, function: np.ndarray, path: Path) -> np.ndarray:
        """Return the function, mapped from `path`; as it is if the folder has no room for it."""
        temporary = path.with_suffix(".tmp")  # its writer holds the lock
        try:
            with temporary.open("wb") as file:
                np.save(file, function)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            return function
        _delete_oldest(path.parent)
        return function if (mapped := _mapped(path)) is None else mapped


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """A block that one thread of this machine is in at a time; without a lock if the file system has none."""
    with ExitStack() as stack:
        with suppress(OSError):
            fcntl.flock(stack.enter_context(path.open("w")), fcntl.LOCK_EX)
        yield


def _mapped(path: Path) -> np.ndarray | None:
    """Return the array of a .npy file, read-only and mapped; None if the file is absent or damaged."""
    try:
        function: np.ndarray = np.load(path, mmap_mode="r")
        os.utime(path)  # the folder keeps what was used last
    except Exception:  # noqa: BLE001 - a damaged header leads to errors of every class
        return None
    return function.view(np.ndarray)


def _delete_oldest(folder: Path) -> None:
    """Delete all functions but the last used. A process that has mapped a deleted file keeps its pages."""
    used: list[tuple[float, Path]] = []
    for path in folder.glob("*.*"):
        with suppress(FileNotFoundError):  # another process may delete it too
            used.append((path.stat().st_mtime, path))
    for _, path in sorted(used)[:-_KEPT]:
        path.unlink(missing_ok=True)
