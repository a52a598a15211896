"""The lease: one driver per output, and none that a dead one can lock."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sdvae_ray.errors import ConfigError, RunError, StorageError
from sdvae_ray.run.driver import conditional_writes, lease
from sdvae_ray.run.driver.lease import FILE, Lease
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


def content(room: Room) -> dict[str, Any]:
    return json.loads(room[1].read_bytes(join(room[0], FILE)))


def left_by_another_machine(room: Room, **facts: Any) -> None:
    """The lease of a driver on another machine."""
    held = {"token": "of another", "host": "another-host", "pid": 1, "machine": "another-host 1 2", "started": "5"}
    room[1].write_bytes(join(room[0], FILE), json.dumps({**held, **facts}).encode())


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this process is on another machine."""
    monkeypatch.setattr(lease, "_machine", lambda: "elsewhere 1 2")


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


@ROOM
@pytest.mark.parametrize("ahead", [-1e9, -90, 3600])
def test_a_silent_driver_of_another_machine_is_waited_for_and_taken_over_whatever_its_clock_says(
    room, monkeypatch, ahead
):
    monkeypatch.setattr(lease, "STALE_AFTER", 0.6)
    monkeypatch.setattr(lease, "_LOOK", 0.1)
    left_by_another_machine(room, heartbeat=time.time() + ahead)
    lines: list[str] = []
    start = time.monotonic()
    with Lease(*room, lines.append) as taken:
        assert time.monotonic() - start >= 0.6
        taken.check()
    assert [line for line in lines if "another-host" in line and "waiting up to" in line] == lines != []


def test_a_driver_of_another_machine_that_shows_a_sign_of_life_is_believed(room, monkeypatch, leave):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.2)
    monkeypatch.setattr(lease, "STALE_AFTER", 30.0)
    monkeypatch.setattr(lease, "_LOOK", 0.1)
    first = leave.enter_context(Lease(*room))
    elsewhere(monkeypatch)
    start = time.monotonic()
    assert str(os.getpid()) in refusal(room)
    assert time.monotonic() - start < 20
    monkeypatch.undo()
    first.check()


@ROOM
def test_a_heartbeat_changes_the_lease(room, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    with Lease(*room) as held:
        deadline = time.monotonic() + 20
        while content(room)["beats"] < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert content(room)["beats"] >= 3
        held.check()


@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), 9)"])
def test_a_lease_of_a_dead_process_of_this_host_is_taken_over_at_once(room, end):
    program = f"""
import os
from sdvae_ray.run.driver.lease import Lease
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


@ROOM
def test_a_driver_that_was_taken_over_learns_it_and_leaves_the_lease_of_the_other(room, monkeypatch, leave):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.5)
    first = leave.enter_context(Lease(*room))
    told: list[bool] = []
    first.on_lost = lambda: told.append(True)
    left_by_another_machine(room)
    wait_until_lost(first)
    assert told == [True]
    with pytest.raises(RunError, match="taken over") as caught:
        first.check()
    assert room[0] in str(caught.value)
    assert caught.value.exit_code == 1
    first.__exit__(None, None, None)
    assert content(room)["token"] == "of another"
    assert told == [True]


def test_a_store_that_is_away_for_a_while_does_not_lose_the_lease(room, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)

    class Flaky(Storage):
        away = False

        def call(self, *arguments: Any) -> Any:
            if self.away:
                raise StorageError("connection reset")
            return super().call(*arguments)

    storage = Flaky()
    with Lease(room[0], storage) as held:
        storage.away = True
        time.sleep(0.3)
        before = held._beats
        storage.away = False
        deadline = time.monotonic() + 20
        while content(room)["beats"] <= before and time.monotonic() < deadline:
            time.sleep(0.05)
        held.check()
        assert content(room)["beats"] > before


@ROOM
def test_a_heartbeat_whose_answer_was_lost_does_not_lose_the_lease(room, monkeypatch):
    with Lease(*room) as held:
        lost = conditional_writes.replace(held.uri, held._content(), held._version, room[1])
        assert lost is not None
        held.check()
        held.check()


# Between two heartbeats


def test_a_driver_that_was_taken_over_between_two_heartbeats_leaves_the_lease_of_the_other(room):
    with Lease(*room):
        left_by_another_machine(room)
    assert content(room)["token"] == "of another"


def test_a_driver_that_was_taken_over_between_two_heartbeats_is_told_when_it_asks(room, leave):
    first = leave.enter_context(Lease(*room))
    left_by_another_machine(room)
    with pytest.raises(RunError, match="taken over"):
        first.check()


@ROOM
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"token": "x"}'])
def test_a_lease_that_cannot_be_read_is_taken_over(room, text):
    room[1].write_bytes(join(room[0], FILE), text)
    with Lease(*room) as taken:
        taken.check()


# Many at once


RACE = """
import sys, time
from sdvae_ray.errors import ConfigError
from sdvae_ray.run.driver import lease
from sdvae_ray.storage import Storage
output, options, starts, stale, number = sys.argv[1], eval(sys.argv[2]), *map(float, sys.argv[3:])
lease._machine = lambda: f"machine {number}"  # no driver may look at the others' processes
lease.HEARTBEAT, lease.STALE_AFTER, lease._LOOK = 0.5, stale, 0.2
held = lease.Lease(output, Storage.of(options))
time.sleep(max(0, starts - time.time()))
try:
    held.__enter__()
except ConfigError:
    sys.exit(3)
sys.stdin.read()
held.check()
"""


@pytest.mark.parametrize(
    ("kind", "before", "count", "stale"),
    [
        ("bucket", "a dead driver's", 5, 8),
        *(
            pytest.param(kind, before, 60, 40, marks=pytest.mark.slow)
            for kind in ("folder", "bucket")
            for before in ("nothing", "a dead driver's")
        ),
    ],
    indirect=["kind"],
)
def test_one_of_many_simultaneous_drivers_gets_in(room, before, count, stale):
    """Processes, not threads, each on a machine of its own as far as it knows. The winner stays until all others have ended."""
    output, storage = room
    if before != "nothing":
        left_by_another_machine(room)
    options = {key: value for key, value in storage.config.model_dump().items() if value}
    arguments = [sys.executable, "-c", RACE, output, repr(options), str(time.time() + count), str(stale)]
    drivers = [subprocess.Popen([*arguments, str(number)], stdin=subprocess.PIPE) for number in range(count)]
    until = time.monotonic() + 600
    while sum(driver.poll() is None for driver in drivers) > 1 and time.monotonic() < until:
        time.sleep(0.2)
    for driver in drivers:
        driver.communicate()
    assert sorted(driver.returncode for driver in drivers) == [0, *[3] * (count - 1)]


@ROOM
def test_of_many_threads_one_creates_one_replaces_and_one_deletes(room):
    """The conditional writes themselves, 60 at a time."""
    output, storage = room
    uri = join(output, "object")

    def winners(attempt: Callable[[int], Any]) -> list[int]:
        with ThreadPoolExecutor(60) as pool:
            return [number for number, won in enumerate(pool.map(attempt, range(60))) if won]

    [first] = winners(lambda number: conditional_writes.create(uri, b"created by %d" % number, storage))
    data, version = conditional_writes.read(uri, storage)
    assert data == b"created by %d" % first
    [second] = winners(lambda number: conditional_writes.replace(uri, b"then %d" % number, version, storage))
    data, changed = conditional_writes.read(uri, storage)
    assert data == b"then %d" % second
    assert not conditional_writes.delete(uri, version, storage)
    assert conditional_writes.honoured(uri, storage)
    assert conditional_writes.delete(uri, changed, storage)
    assert conditional_writes.replace(uri, b"x", changed, storage) is None
    assert storage.list(output) == []
