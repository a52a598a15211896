"""Illumination functions are read once on a machine, whichever loader asks first, and anew where they have changed."""

import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sdvae_ray.config import StorageConfig
from sdvae_ray.engine.files import illumination
from sdvae_ray.engine.files.illumination import IlluminationReader, machine_folder
from sdvae_ray.engine.files.load import IMAGE, Loader
from sdvae_ray.errors import StorageError
from sdvae_ray.images.decode import DecodeError
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.storage import Storage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "machine"
    path.mkdir()
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URIs of whole objects that were read."""
    uris: list[str] = []
    read_bytes = Storage.read_bytes

    def counted(self: Storage, uri: str) -> bytes:
        uris.append(uri)
        return read_bytes(self, uri)

    monkeypatch.setattr(Storage, "read_bytes", counted)
    return uris


def function(seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(0.5, 2, (40, 50))
    values[3, 4] = 0
    return values


def expected(seed: int = 0) -> np.ndarray:
    return np.where(function(seed) == 0, 1e-6, function(seed))


def test_two_readers_of_a_machine_read_a_function_once(tmp_path, folder, write_illumination, reads):
    uri = write_illumination(tmp_path / "a.npy", function())
    for _ in range(2):
        values = IlluminationReader(Storage(), folder).read(uri)
        np.testing.assert_array_equal(values, expected())
        assert values.dtype == np.float64
        assert not values.flags.writeable
    assert reads == [uri]
    np.testing.assert_array_equal(IlluminationReader(Storage(), None).read(uri), expected())
    assert reads == [uri] * 2


def test_functions_in_a_bucket_are_shared_by_their_version(folder, s3, write_illumination, tmp_path, reads):
    uri = f"{s3.prefix}/P1 IllumDNA.npy"
    for seed in (0, 1):
        data = Path(write_illumination(tmp_path / f"{seed}.npy", function(seed))).read_bytes()
        s3.storage.write_bytes(uri, data)
        for _ in range(2):
            np.testing.assert_array_equal(IlluminationReader(s3.storage, folder).read(uri), expected(seed))
    assert reads == [uri] * 2


def test_readers_that_ask_at_once_wait_for_the_first(tmp_path, folder, write_illumination, monkeypatch):
    uri = write_illumination(tmp_path / "a.npy", function())
    read_bytes, reading = Storage.read_bytes, []

    def slow(self: Storage, uri: str) -> bytes:
        reading.append(threading.get_ident())
        time.sleep(0.1)
        return read_bytes(self, uri)

    monkeypatch.setattr(Storage, "read_bytes", slow)
    with ThreadPoolExecutor(6) as threads:
        values = list(threads.map(lambda _: IlluminationReader(Storage(), folder).read(uri), range(6)))
    assert len(reading) == 1
    for value in values:
        np.testing.assert_array_equal(value, expected())


def test_a_damaged_or_half_written_copy_is_made_anew(tmp_path, folder, write_illumination, reads):
    uri = write_illumination(tmp_path / "a.npy", function())
    reader = IlluminationReader(Storage(), folder)
    reader.read(uri)
    (copy,) = folder.glob("*.npy")
    for damaged in (copy.read_bytes()[:-8], b"", b"x" * 100):
        copy.unlink()
        copy.write_bytes(damaged)
        copy.with_suffix(".tmp").write_bytes(damaged)
        np.testing.assert_array_equal(reader.read(uri), expected())
    assert len(reads) == 4
    assert not list(folder.glob("*.tmp"))


def test_the_folder_keeps_the_functions_that_were_used_last(tmp_path, folder, write_illumination, monkeypatch, reads):
    monkeypatch.setattr(illumination, "_KEPT", 2)
    uris = [write_illumination(tmp_path / f"{seed}.npy", function(seed)) for seed in range(3)]
    reader = IlluminationReader(Storage(), folder)
    second = [reader.read(uri) for uri in uris[:2]][1]
    for path in folder.glob("*.npy"):
        os.utime(path, (0, 0))
    reader.read(uris[0])  # used again
    reader.read(uris[2])
    assert len(list(folder.glob("*.npy"))) == 2
    reads.clear()
    reader.read(uris[0])
    reader.read(uris[2])
    assert reads == []
    np.testing.assert_array_equal(second, expected(1))  # mapped, so it outlives its file
    reader.read(uris[1])
    assert reads == [uris[1]]


def test_a_folder_without_room_or_without_locks_costs_the_sharing_only(
    tmp_path, folder, write_illumination, monkeypatch
):
    uri = write_illumination(tmp_path / "a.npy", function())

    def refused(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", refused)
    monkeypatch.setattr(illumination.fcntl, "flock", refused)
    np.testing.assert_array_equal(IlluminationReader(Storage(), folder).read(uri), expected())
    assert not list(folder.glob("*.*"))


@pytest.mark.parametrize("content", [None, b"no function"])
def test_the_error_of_a_function_is_that_of_the_object(tmp_path, folder, content):
    path = tmp_path / "a.npy"
    if content is not None:
        path.write_bytes(content)
    for place in (folder, None):
        with pytest.raises(FileNotFoundError if content is None else DecodeError, match=r"a\.npy"):
            IlluminationReader(Storage(), place).read(str(path))
    with pytest.raises(StorageError):
        IlluminationReader(Storage(), folder).read("nowhere://a.npy")


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    folder = machine_folder()
    assert folder is not None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert machine_folder() == folder
    folder.chmod(0o777)
    assert machine_folder() is None
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert machine_folder() is None


def test_loaders_that_share_functions_give_the_rows_of_a_loader_alone(write_fields, folder):
    batch = write_fields(2, illumination=True)
    image = ImageConfig(crop=128, patch=64)
    alone = Loader(image, StorageConfig())(batch)
    for _ in range(2):
        np.testing.assert_array_equal(Loader(image, StorageConfig(), folder)(batch)[IMAGE], alone[IMAGE])
    assert len(list(folder.glob("*.npy"))) == 5
