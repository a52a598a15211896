"""Patience: what is waited for, how long, what is of one object alone, and what becomes an error of a row."""

import errno
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.exceptions
import numpy as np
import pytest
from outage_proxy import OutageProxy
from s3fs.errors import translate_boto_error

from sdvae_ray.config import StorageConfig
from sdvae_ray.engine.files.load import IMAGE, Loader
from sdvae_ray.engine.files.patience import Patience, PatientStorage
from sdvae_ray.errors import RunError, StorageAwayError, StorageDeniedError, StorageError
from sdvae_ray.faults import storage_error
from sdvae_ray.schema import ABSENT, DAMAGED, DENIED, ERROR, ERROR_CLASS, uri_column
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.storage import Storage


class World:
    """A clock that only sleep moves, and the reports that were made."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.reports: list[str] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)

    def away(self, reason: str) -> None:
        self.reports.append(reason)

    def back(self) -> None:
        self.reports.append("back")

    def patience(self, minutes: float = 60) -> Patience:
        return Patience(minutes, self, clock=lambda: self.now, sleep=self.sleep)


@pytest.fixture
def world() -> World:
    return World()


def failing_until(world: World, seconds: float, error: Exception) -> Callable[[], str]:
    """An action that fails until the clock says `seconds`."""

    def action() -> str:
        if world.now < seconds:
            raise error
        return "read"

    return action


# Which errors are of which kind


def answered(code: str, status: int) -> Exception:
    """The error that s3fs makes of an answer of S3."""
    answer: Any = {"Error": {"Code": code, "Message": "said"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(botocore.exceptions.ClientError(answer, "GetObject"))


AWAY = [
    answered("SlowDown", 503),
    answered("ServiceUnavailable", 503),
    answered("InternalError", 500),
    answered("502", 502),
    answered("NoSuchCodeYet", 504),
    answered("RequestTimeout", 400),
    answered("ThrottlingException", 400),
    botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"),
    botocore.exceptions.ConnectTimeoutError(endpoint_url="http://x"),
    botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"),
    botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    ConnectionResetError("reset"),
    ConnectionRefusedError("refused"),
    TimeoutError("late"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.EIO, "Input/output error"),
    botocore.exceptions.ChecksumError(checksum_type="crc32", expected_checksum="1", actual_checksum="2"),
    botocore.exceptions.FlexibleChecksumError(error_msg="Expected checksum 1 did not match calculated checksum: 2"),
]
REFUSED = [
    answered("AccessDenied", 403),
    answered("403", 403),
    answered("ExpiredToken", 400),
    answered("InvalidAccessKeyId", 403),
    answered("SignatureDoesNotMatch", 403),
    answered("TokenRefreshRequired", 400),
    botocore.exceptions.NoCredentialsError(),
    PermissionError(errno.EACCES, "Permission denied"),
]
TO_MEND = [
    answered("InvalidBucketName", 400),
    answered("NotImplemented", 501),
    answered("PermanentRedirect", 301),
    botocore.exceptions.ProfileNotFound(profile="x"),
    OSError(errno.ENOSPC, "No space left on device"),
    IsADirectoryError(errno.EISDIR, "Is a directory"),
]
KINDS = (
    [(e, StorageAwayError) for e in AWAY]
    + [(e, StorageDeniedError) for e in REFUSED]
    + [(e, StorageError) for e in TO_MEND]
)


@pytest.mark.parametrize(("error", "kind"), KINDS, ids=lambda value: repr(value)[:60])
def test_an_error_of_storage_has_the_kind_that_its_facts_say(error, kind):
    made = storage_error(error, "cannot read s3://b/k")
    assert type(made) is kind
    assert str(made).startswith("cannot read s3://b/k: ")
    assert "\n" not in str(made)


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), MemoryError(), RuntimeError("x")])
def test_an_error_that_is_not_of_storage_has_no_kind(error):
    assert storage_error(error, "cannot read x") is None


# The waiting


@pytest.mark.parametrize("kind", [StorageAwayError, StorageDeniedError])
@pytest.mark.parametrize("seconds", [1, 15, 600, 3000])
def test_an_outage_is_waited_for_and_told_with_its_end(world, kind, seconds):
    assert world.patience()(failing_until(world, seconds, kind("cannot read x"))) == "read"
    assert world.reports[0] == "cannot read x"
    assert world.reports[-1] == "back"
    assert seconds <= world.now <= 1.5 * seconds + 1
    assert max(world.pauses) <= 30


def test_an_outage_longer_than_the_patience_is_one_error(world):
    with pytest.raises(StorageAwayError, match="storage was away for 10 minutes: cannot read x") as caught:
        world.patience(10)(failing_until(world, 1e9, StorageAwayError("cannot read x")))
    assert "\n" not in str(caught.value)
    assert 600 < world.now < 640
    assert world.reports[-1] == "back"


def test_no_patience_is_no_second_try(world):
    with pytest.raises(StorageDeniedError, match="^cannot read x$"):
        world.patience(0)(failing_until(world, 1, StorageDeniedError("cannot read x")))
    assert world.pauses == world.reports == []


@pytest.mark.parametrize("error", [FileNotFoundError("x"), StorageError("no bucket"), ValueError("x")])
def test_another_error_is_not_waited_for(world, error):
    with pytest.raises(type(error)):
        world.patience()(failing_until(world, 1, error))
    assert world.pauses == []


def test_what_the_report_raises_ends_the_waiting(world):
    def stopped(reason: str) -> None:
        raise RunError("the lease is lost")

    world.away = stopped
    with pytest.raises(RunError, match="lease"):
        world.patience()(failing_until(world, 10, StorageAwayError("x")))


def test_credentials_are_read_again_before_every_try(world):
    renewed: list[float] = []
    action = failing_until(world, 10, StorageDeniedError("x"))
    assert world.patience()(action, renew=lambda: renewed.append(world.now)) == "read"
    assert renewed[-1] == world.now
    assert len(renewed) == len(world.pauses) + 1


def test_a_denied_object_is_of_its_own_once_another_one_can_be_read(world):
    action = failing_until(world, 1e9, StorageDeniedError("cannot read x: Access Denied"))
    with pytest.raises(PermissionError, match="Access Denied"):
        world.patience()(action, others_answer=lambda: world.now > 20)
    assert 20 < world.now < 40


def test_an_object_that_fails_again_and_again_while_others_answer_is_damaged(world):
    action = failing_until(world, 1e9, StorageAwayError("cannot read x: Input/output error"))
    with pytest.raises(OSError, match="and other files can be read"):
        world.patience()(action, others_answer=lambda: True)
    assert 20 < world.now < 120


def test_one_thread_tries_for_all_that_wait():
    """Eight threads meet an outage: while it lasts one of them asks, and afterwards all get their answers."""
    lock, asking, most, calls = threading.Lock(), [0], [0], [0]
    first = threading.Barrier(8)
    seen: set[int] = set()

    def action() -> str:
        with lock:
            calls[0] += 1
            is_first = threading.get_ident() not in seen
            seen.add(threading.get_ident())
        if is_first:
            first.wait(10)
            raise StorageAwayError("x")
        with lock:
            asking[0] += 1
            most[0] = max(most[0], asking[0])
        try:
            if calls[0] < 14:
                raise StorageAwayError("x")
            return "read"
        finally:
            with lock:
                asking[0] -= 1

    patience, answers = Patience(60, sleep=lambda seconds: None), []
    threads = [threading.Thread(target=lambda: answers.append(patience(action))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == ["read"] * 8
    assert most == [1]


# A storage that waits


@pytest.mark.parametrize(("kind", "seconds"), [("refused", 10), ("expired", 3)])
def test_a_write_that_meets_an_outage_is_written_after_it(s3, kind, seconds):
    """The read that begins the outage tries again for some seconds of its own."""
    world = World()
    with OutageProxy(s3.endpoint, after=0, seconds=seconds, kind=kind) as proxy:
        config = s3.config.model_copy(update={"endpoint_url": proxy.endpoint})
        storage = PatientStorage(config, Patience(60, world))
        with pytest.raises((StorageError, FileNotFoundError)):
            Storage(config).read_bytes(f"{s3.prefix}/begins.tiff")
        storage.write_bytes(f"{s3.prefix}/x", b"x")
        assert proxy.turned_away or kind == "refused"
    assert s3.storage.read_bytes(f"{s3.prefix}/x") == b"x"
    assert world.reports[-1] == "back"


class Denied:
    """Makes the storage of a test deny the keys whose name contains a text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        call = Storage.call

        def denying(storage: Storage, uri: str, verb: str, action: Any) -> Any:
            if text in uri:
                raise StorageDeniedError(f"cannot {verb} {uri}: Access Denied")
            return call(storage, uri, verb, action)

        monkeypatch.setattr(Storage, "call", denying)


def loader(patience: Patience | None, storage: StorageConfig | None = None) -> Loader:
    return Loader(ImageConfig(crop=128, patch=64), storage or StorageConfig(), None, patience)


def test_a_denied_key_of_a_bucket_that_answers_costs_its_own_row(s3, write_fields, monkeypatch, world):
    """S3 answers 403 for an absent key to who may not list the bucket."""
    batch = write_fields(3)
    for name in [name for name in batch if name.startswith("uri_")]:
        for row, path in enumerate(batch[name]):
            batch[name][row] = f"{s3.prefix}/{Path(path).name}"
            s3.storage.write_bytes(batch[name][row], Path(path).read_bytes())
    load = loader(world.patience(), s3.config)
    load({name: values[:1] for name, values in batch.items()})  # a witness: time flies here, and the reads are real
    Denied(monkeypatch, "A02-RNA")
    loaded = load(batch)
    assert [bool(error) for error in loaded[ERROR]] == [False, True, False]
    assert loaded[ERROR_CLASS].tolist() == ["", DENIED, ""]
    assert "A02-RNA" in loaded[ERROR][1]
    assert loaded[IMAGE][2].any()


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every file")
def test_a_local_file_that_may_not_be_read_costs_its_own_row_at_once(write_fields, world):
    batch = write_fields(2)
    Path(batch[uri_column("RNA")][0]).chmod(0)
    loaded = loader(world.patience())(batch)
    assert loaded[ERROR_CLASS].tolist() == [DENIED, ""]
    assert world.pauses == []


def test_a_local_file_that_is_denied_is_not_waited_for(write_fields, monkeypatch, world):
    batch = write_fields(2)
    Denied(monkeypatch, "A01-RNA")
    loaded = loader(world.patience())(batch)
    assert loaded[ERROR_CLASS].tolist() == [DENIED, ""]
    assert world.pauses == []


def test_storage_that_stays_away_ends_the_loading_with_its_error_and_no_row(write_fields, monkeypatch, world):
    batch = write_fields(2)

    def away(storage: Storage, uri: str, verb: str, action: Any) -> Any:
        raise StorageAwayError(f"cannot {verb} {uri}: timed out")

    monkeypatch.setattr(Storage, "call", away)
    with pytest.raises(StorageAwayError, match="storage was away for 60 minutes"):
        loader(world.patience())(batch)
    assert loader(None)(batch)[ERROR_CLASS].tolist() == ["away", "away"]


# The classes of rows


def test_a_row_tells_whether_a_file_is_absent_or_damaged(write_fields):
    batch = write_fields(5)
    paths = [Path(path) for path in batch[uri_column("RNA")]]
    paths[1].unlink()
    paths[2].write_bytes(paths[2].read_bytes()[:-3000])
    batch[uri_column("RNA")][3] = "https://example.org/a.tiff"
    paths[4].write_bytes(b"")
    loaded = loader(None)(batch)
    assert loaded[ERROR_CLASS].tolist() == ["", ABSENT, DAMAGED, ABSENT, DAMAGED]
    assert "no reader for https://" in loaded[ERROR][3]


@pytest.mark.parametrize(
    "error", [MemoryError("m"), ZeroDivisionError("z"), RuntimeError("r"), SyntaxError("s"), KeyError("k")]
)
def test_whatever_a_library_raises_costs_one_row(write_fields, monkeypatch, error):
    batch = write_fields(2)
    decode = Loader.decoded

    def broken(self: Loader, row: Any, *arguments: Any) -> Any:
        if "A01" in row[uri_column("DNA")]:
            raise error
        return decode(self, row, *arguments)

    monkeypatch.setattr(Loader, "decoded", broken)
    assert loader(None)(batch)[ERROR_CLASS].tolist() == [DAMAGED, ""]


def test_an_interrupt_is_no_error_of_a_row(write_fields, monkeypatch):
    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Loader, "decoded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loader(None)(write_fields(1))


def test_the_probe_refuses_a_uri_that_nobody_can_read(write_fields):
    batch = write_fields(1)
    batch[uri_column("Mito")][0] = "https://example.org/a.tiff"
    with pytest.raises(StorageError, match="no reader for https://") as caught:
        loader(None).probe(batch)
    assert "\n" not in str(caught.value)


def test_a_header_that_claims_hundreds_of_gigabytes_costs_one_row(write_fields):
    batch = write_fields(2)
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (200000, 200000), }\n"
    function = io.BytesIO()
    function.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())
    path = Path(batch[uri_column("Mito")][0]).with_name("large.npy")
    path.write_bytes(function.getvalue())
    batch["illum_Mito"] = np.array([None, str(path)], object)
    loaded = loader(None)(batch)
    assert loaded[ERROR_CLASS].tolist() == ["", DAMAGED]
    assert "its header claims" in loaded[ERROR][1]
