"""Storage: the same promises for a folder and a bucket, and one line for each way in which a bucket cannot be used."""

import os
import pickle
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3fs

from sdvae_ray.config import StorageConfig
from sdvae_ray.errors import StorageError
from sdvae_ray.storage import Storage, absolute, is_remote, join, local_copy

ODD_NAMES = ("plain.bin", "Measurement 1/a b.tiff", "deep/er/x[1]*?.bin", "100%25.bin", "ü-µ.npy", "a#b&c=d+e.bin")
ROOM = pytest.mark.parametrize("kind", ["folder", "bucket"])


@pytest.fixture
def room(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Storage, str]:
    """(storage, a place of the test's own): in a folder with a space in its name, or under an s3:// prefix."""
    if kind == "folder":
        return Storage(), str(tmp_path / "some folder")
    s3 = request.getfixturevalue("s3")
    return s3.storage, s3.prefix


def read_by_open(storage: Storage, uri: str) -> bytes:
    with storage.open(uri) as file:
        return file.read()


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(StorageError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


# Either room


@ROOM
@pytest.mark.parametrize("name", ODD_NAMES)
def test_what_was_written_is_read_back_whatever_its_name(room, name):
    storage, place = room
    uri = join(place, name)
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"\x00\xffone")
    assert storage.read_bytes(uri) == b"\x00\xffone"
    assert read_by_open(storage, uri) == b"\x00\xffone"
    assert storage.exists(uri)
    storage.write_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    assert storage.read_range(uri, 1, 3) == b"wo"
    assert storage.read_range(uri, 2, 9) == b"o"
    assert storage.size(uri) == 3
    for action in (storage.size, lambda place: storage.read_range(place, 0, 1)):
        with pytest.raises(FileNotFoundError, match="no such object"):
            action(f"{uri}.not")
    assert storage.list(place) == [name]
    storage.delete(uri)
    assert not storage.exists(uri)
    assert storage.list(place) == []


@ROOM
def test_a_file_of_many_megabytes_and_one_of_none_come_back(room):
    storage, place = room
    large = os.urandom(6 << 20)
    storage.write_bytes(join(place, "large"), large)
    storage.write_bytes(join(place, "empty"), b"")
    assert storage.read_bytes(join(place, "large")) == large
    assert storage.read_bytes(join(place, "empty")) == b""


@ROOM
def test_an_open_file_can_be_read_from_its_end(room):
    storage, place = room
    storage.write_bytes(join(place, "x"), bytes(range(256)) * 100)
    with storage.open(join(place, "x")) as file:
        file.seek(-4, os.SEEK_END)
        assert file.read() == bytes([252, 253, 254, 255])
        file.seek(2)
        assert file.read(3) == bytes([2, 3, 4])


@ROOM
def test_a_list_is_sorted_relative_and_of_that_folder_alone(room):
    storage, place = room
    for name in ("run/b.parquet", "run/a/z.parquet", "run/a/y.parquet", "run2/c.parquet", "other"):
        storage.write_bytes(join(place, name), b"x")
    assert storage.list(join(place, "run")) == ["a/y.parquet", "a/z.parquet", "b.parquet"]
    assert storage.list(join(place, "run") + "/") == ["a/y.parquet", "a/z.parquet", "b.parquet"]
    assert storage.list(join(place, "run", "a")) == ["y.parquet", "z.parquet"]
    assert storage.list(join(place, "nothing")) == []
    assert storage.is_folder(join(place, "run"))
    assert not storage.is_folder(join(place, "nothing"))


@ROOM
def test_a_missing_object_is_a_file_not_found_with_its_name(room):
    storage, place = room
    storage.write_bytes(join(place, "here"), b"x")
    uri = join(place, "gone.tiff")
    for read in (storage.read_bytes, lambda uri: read_by_open(storage, uri)):
        with pytest.raises(FileNotFoundError, match=r"gone\.tiff"):
            read(uri)
    assert not storage.exists(uri)
    storage.delete(uri)  # nothing to delete is no error


@ROOM
def test_storage_travels_to_another_process(room):
    storage, place = room
    storage.write_bytes(join(place, "x"), b"x")
    assert pickle.loads(pickle.dumps(storage)).read_bytes(join(place, "x")) == b"x"


@ROOM
def test_many_threads_read_at_once(room):
    storage, place = room
    for number in range(8):
        storage.write_bytes(join(place, str(number)), bytes([number]) * 1000)
    got: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda n=number: got.update({n: storage.read_bytes(join(place, str(n)))}))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {number: bytes([number]) * 1000 for number in range(8)}


# A folder


def test_a_relative_path_a_home_and_a_file_uri_are_the_same_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Storage().write_bytes("x y", b"one")
    for uri in (str(tmp_path / "x y"), "~/x y", f"file://{tmp_path}/x y", "./x y"):
        assert Storage().read_bytes(uri) == b"one"
        assert absolute(uri) == str(tmp_path / "x y")
        assert not is_remote(uri)
    assert absolute("s3://b/x y") == "s3://b/x y"


def test_parts_are_joined_by_one_slash():
    assert join("s3://b/run/", "/fovs/", "a.parquet") == "s3://b/run/fovs/a.parquet"
    assert join("run", "fovs") == "run/fovs"


def test_a_write_leaves_no_temporary(tmp_path):
    Storage().write_bytes(str(tmp_path / "a" / "x"), b"one")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    uri = str(tmp_path / "x")
    Storage().write_bytes(uri, b"old")

    def disk_is_full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises((OSError, StorageError), match="No space left"):
        Storage().write_bytes(uri, b"new")
    assert Path(uri).read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [Path(uri)]


def test_a_reader_never_sees_half_a_file(tmp_path):
    uri, stop, seen = str(tmp_path / "x"), threading.Event(), set()
    storage = Storage()
    storage.write_bytes(uri, b"a" * 300_000)

    def read() -> None:
        while not stop.is_set():
            data = Path(uri).read_bytes()
            seen.add((len(data), data[:1], data[-1:]))

    reader = threading.Thread(target=read)
    reader.start()
    for letter in (b"b", b"c", b"d") * 10:
        storage.write_bytes(uri, letter * 300_000)
    stop.set()
    reader.join()
    assert seen <= {(300_000, letter, letter) for letter in (b"a", b"b", b"c", b"d")}


def test_a_folder_where_a_file_should_be_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    uri = str(tmp_path / "folder")
    for action in (lambda: Storage().read_bytes(uri), lambda: Storage().write_bytes(uri, b"x")):
        assert f"{uri}: Is a directory" in refusal(action)
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


# A bucket


def test_a_bucket_that_does_not_exist_is_said_to_be_missing(s3):
    uri = "s3://no-such-bucket/run/x"
    for action in (
        lambda: s3.storage.read_bytes(uri),
        lambda: read_by_open(s3.storage, uri),
        lambda: s3.storage.write_bytes(uri, b"x"),
        lambda: s3.storage.list(uri),
    ):
        message = refusal(action)
        assert "s3://no-such-bucket/run/x" in message
        assert "the bucket does not exist" in message


@pytest.fixture
def nobody() -> StorageConfig:
    """A server that is not there: a port of loopback on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    return StorageConfig(anonymous=True, endpoint_url=f"http://127.0.0.1:{port}", region="us-east-1")


def test_an_endpoint_that_does_not_answer_is_said_so_within_half_a_minute(nobody):
    start = time.monotonic()
    message = refusal(lambda: Storage(nobody).read_bytes("s3://plates/x"))
    assert time.monotonic() - start < 30
    assert "s3://plates/x" in message
    assert str(nobody.endpoint_url) in message


def test_an_endpoint_that_does_not_answer_is_no_empty_folder(nobody):
    assert str(nobody.endpoint_url) in refusal(lambda: Storage(nobody).list("s3://plates/run"))


def test_missing_credentials_are_told_with_their_remedy(s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    signed = StorageConfig(endpoint_url=s3.endpoint, region="us-east-1")
    assert "storage.anonymous: true" in refusal(lambda: Storage(signed).read_bytes(f"{s3.prefix}/x"))


def test_credentials_of_the_environment_are_used(s3, monkeypatch):
    s3fs.S3FileSystem.clear_instance_cache()  # one without credentials would be used again
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    signed = Storage(StorageConfig(endpoint_url=s3.endpoint, region="us-east-1"))
    signed.write_bytes(f"{s3.prefix}/x", b"x")
    assert s3.storage.read_bytes(f"{s3.prefix}/x") == b"x"


def test_a_profile_that_does_not_exist_is_named(s3):
    unknown = Storage(StorageConfig(endpoint_url=s3.endpoint, profile="no-such-profile"))
    assert "no-such-profile" in refusal(lambda: unknown.read_bytes(f"{s3.prefix}/x"))


def test_an_unknown_scheme_is_answered_with_those_that_are_known():
    for uri in ("gs4://b/x", "nonsense://x"):
        message = refusal(lambda uri=uri: Storage().read_bytes(uri))
        assert "s3://" in message
        assert uri in message


# A file in the way


def test_a_file_where_the_output_folder_should_be_is_named_in_one_line(tmp_path):
    (tmp_path / "run").write_text("not a folder")
    for name in ("run/run.json", "run/fovs/a.parquet"):
        assert str(tmp_path / "run") in refusal(lambda name=name: Storage().write_bytes(str(tmp_path / name), b"x"))


def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch):
    def disk_is_full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    assert "No space left on device" in refusal(lambda: Storage().write_bytes(str(tmp_path / "x"), b"x"))


# Copies on this machine


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDVAE_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_remote_object_is_fetched_once_and_again_when_it_changes(s3, cache):
    uri = join(s3.prefix, "index/a.faiss")
    s3.storage.write_bytes(uri, b"first")
    path = local_copy(uri, s3.storage)
    assert path.read_bytes() == b"first"
    assert path.is_relative_to(cache)
    path.write_bytes(b"kept")  # a second call does not fetch
    assert local_copy(uri, s3.storage).read_bytes() == b"kept"
    s3.storage.write_bytes(uri, b"second")
    newer = local_copy(uri, s3.storage)
    assert newer.read_bytes() == b"second"
    assert not path.exists()  # one version of each is kept
    with pytest.raises(FileNotFoundError, match="no such object"):
        local_copy(join(s3.prefix, "index/b.faiss"), s3.storage)


def test_a_local_object_is_read_where_it_is(tmp_path, cache):
    uri = str(tmp_path / "a.faiss")
    Path(uri).write_bytes(b"here")
    assert local_copy(uri, Storage()) == Path(uri)
    assert local_copy(f"file://{uri}", Storage()) == Path(uri)
    assert not cache.exists()
