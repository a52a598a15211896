"""The lease: one driver per output, and none that a dead one can lock."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from sdvae_ray.errors import ConfigError, RunError
from sdvae_ray.run import lease
from sdvae_ray.run.lease import FILE, Lease
from sdvae_ray.storage import Storage, join

ROOM = pytest.mark.parametrize("kind", ["folder", "bucket"], indirect=True)

Room = tuple[str, Storage]


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "folder")


@pytest.fixture
def room(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Room:
    """(output, storage): a folder, or an s3:// prefix where a test asks for both."""
    if kind == "folder":
        return str(tmp_path / "run"), Storage()
    s3 = request.getfixturevalue("s3")
    return f"{s3.prefix}/run", s3.storage


@pytest.fixture
def leave() -> Iterator[ExitStack]:
    """Leaves the leases that a test has entered, whatever becomes of it."""
    with ExitStack() as stack:
        yield stack


def refusal(room: Room) -> str:
    with pytest.raises(ConfigError) as caught, Lease(*room):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def age_of_heartbeat(room: Room) -> float:
    return time.time() - json.loads(room[1].read_bytes(join(room[0], FILE)))["heartbeat"]


def left_by(room: Room, host: str, age: float) -> None:
    """What a driver on another host leaves that was last heard of `age` seconds ago."""
    held = {"token": "of another", "host": host, "pid": 1, "heartbeat": time.time() - age}
    room[1].write_bytes(join(room[0], FILE), json.dumps(held).encode())


def wait_until_lost(held: Lease) -> None:
    deadline = time.monotonic() + 20
    while not held.lost and time.monotonic() < deadline:
        time.sleep(0.02)


@ROOM
def test_a_second_driver_is_refused_while_the_first_lives(room):
    with Lease(*room) as first:
        message = refusal(room)
        assert room[0] in message
        assert str(os.getpid()) in message
        assert "another driver" in message
        first.check()
    with Lease(*room):
        pass


@ROOM
def test_a_lease_is_gone_when_its_holder_has_finished(room):
    output, storage = room
    with Lease(*room):
        assert storage.list(output) == [FILE]
    assert storage.list(output) == []


def test_a_holder_that_fails_releases_its_lease_too(room):
    with pytest.raises(RuntimeError), Lease(*room):
        raise RuntimeError
    assert not room[1].exists(join(room[0], FILE))


def test_two_outputs_are_two_leases(room):
    with Lease(*room), Lease(room[0] + "2", room[1]):
        pass


def test_a_driver_of_another_host_is_believed_until_it_has_been_silent_for_long(room):
    left_by(room, "another-host", age=lease.STALE_AFTER - 20)
    assert "another-host" in refusal(room)
    left_by(room, "another-host", age=lease.STALE_AFTER + 1)
    with Lease(*room) as taken:
        taken.check()


def test_a_heartbeat_keeps_a_lease_alive(room, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    with Lease(*room) as held:
        time.sleep(0.5)
        assert age_of_heartbeat(room) < 0.4
        held.check()


@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), 9)"])
def test_a_lease_of_a_dead_process_of_this_host_is_taken_over_at_once(room, end):
    program = f"""
import os
from sdvae_ray.run.lease import Lease
from sdvae_ray.storage import Storage
Lease({room[0]!r}, Storage()).__enter__()
{end}
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode != 0
    assert room[1].exists(join(room[0], FILE))
    start = time.monotonic()
    with Lease(*room) as taken:
        assert time.monotonic() - start < 10
        taken.check()


def test_a_driver_that_was_taken_over_learns_it_and_leaves_the_lease_of_the_other(room, monkeypatch, leave):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.5)
    first = leave.enter_context(Lease(*room))
    monkeypatch.setattr(lease, "STALE_AFTER", 0.0)
    second = leave.enter_context(Lease(*room))
    wait_until_lost(first)
    with pytest.raises(RunError, match="taken over") as caught:
        first.check()
    assert room[0] in str(caught.value)
    assert caught.value.exit_code == 1
    second.check()
    first.__exit__(None, None, None)
    assert json.loads(room[1].read_bytes(join(room[0], FILE)))["token"] == second.token


def test_a_store_that_is_away_for_a_while_does_not_lose_the_lease(room, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)

    class Flaky(Storage):
        away = False

        def read_bytes(self, uri: str) -> bytes:
            if self.away:
                raise OSError("connection reset")
            return super().read_bytes(uri)

    storage = Flaky()
    with Lease(room[0], storage) as held:
        storage.away = True
        time.sleep(0.3)
        storage.away = False
        time.sleep(0.3)
        held.check()
        assert age_of_heartbeat(room) < 0.25


# Between two heartbeats


def test_a_driver_that_was_taken_over_between_two_heartbeats_leaves_the_lease_of_the_other(room, monkeypatch, leave):
    monkeypatch.setattr(lease, "HEARTBEAT", 60.0)
    with Lease(*room):
        monkeypatch.setattr(lease, "STALE_AFTER", 0.0)
        second = leave.enter_context(Lease(*room))
    assert json.loads(room[1].read_bytes(join(room[0], FILE)))["token"] == second.token


def test_a_driver_that_was_taken_over_between_two_heartbeats_is_told_when_it_asks(room, monkeypatch, leave):
    monkeypatch.setattr(lease, "HEARTBEAT", 60.0)
    first = leave.enter_context(Lease(*room))
    monkeypatch.setattr(lease, "STALE_AFTER", 0.0)
    leave.enter_context(Lease(*room))
    with pytest.raises(RunError, match="taken over"):
        first.check()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": "x"}'])
def test_a_lease_that_cannot_be_read_is_told_in_one_line_or_taken_over(room, content):
    room[1].write_bytes(join(room[0], FILE), content)
    with suppress(ConfigError), Lease(*room):
        pass
