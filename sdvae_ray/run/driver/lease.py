"""One driver per output: a lease, an object on storage that is created, renewed and taken over by conditional writes.

A second driver is refused while the holder of the lease lives. The age of a heartbeat is never read from a clock of another
machine: a driver that finds a lease watches it, and takes it over after a minute in which it did not change. The lease of a process
of this machine that has ended is taken over at once, so that the same command resumes a killed run.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from sdvae_ray.errors import ConfigError, RunError, StorageError
from sdvae_ray.run.driver import conditional_writes
from sdvae_ray.storage import Storage, join

FILE = "_lease.json"
STALE_AFTER = 60.0  # seconds in which a lease that is watched does not change
HEARTBEAT = 10.0  # seconds
_LOOK = 1.0  # seconds between two looks at the lease of another driver
_SETTLE = 2.0  # seconds: on a store without conditional writes, the last of two writers has written by then
_FIELDS = {"token", "host", "pid"}


class Lease:
    """A context manager that holds the lease of an output.

    say: takes a line for the user, if entering takes time. on_lost: is called once, in a thread, when another driver has taken
    the lease over. Entering raises ConfigError if another driver holds the lease, StorageError if storage does not answer. `check`
    raises RunError after another driver took it over.
    """

    def __init__(self, output: str, storage: Storage, say: Callable[[str], None] = lambda line: None) -> None:
        self.output, self.uri, self.storage, self.say = output, join(output, FILE), storage, say
        self.on_lost: Callable[[], None] = lambda: None
        self.token = uuid.uuid4().hex
        self.lost = False
        self._version, self._beats, self._conditional = "", 0, True
        self._renewing, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lease")

    def __enter__(self) -> Self:
        self._acquire()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(timeout=HEARTBEAT)
        with suppress(OSError, StorageError):  # what is not let go is free after a minute
            if self._conditional:
                conditional_writes.delete(self.uri, self._version, self.storage)
            elif not self.lost and (held := self._read()) and held[0]["token"] == self.token:
                self.storage.delete(self.uri)

    def check(self) -> None:
        """Renew the lease. Raises RunError if another driver has taken it over."""
        self._renew()
        if self.lost:
            raise RunError(self.loss)

    @property
    def loss(self) -> str:
        """Return what a driver says that has lost the lease."""
        return f"another driver has taken over {self.output}: this one stops"

    # --- getting it --------------------------------------------------------------------------------------------------------------

    def _acquire(self) -> None:
        watched, since = "", time.monotonic()
        while True:
            # the look comes first: a store without conditional writes would replace the lease of another driver
            if (found := self._read()) is None:
                if version := conditional_writes.create(self.uri, self._content(), self.storage):
                    return self._own(version)
                continue
            held, version = found
            if not watched:
                watched, since = version, time.monotonic()
                if _is_alive(held):
                    raise ConfigError(self._told(held))
                if held and not _is_dead(held):
                    self.say(f"{self._told(held)}; waiting up to {STALE_AFTER:.0f} s for a sign of life")
            elif version != watched:
                raise ConfigError(self._told(held))
            if not held or _is_dead(held) or time.monotonic() - since >= STALE_AFTER:
                if taken := conditional_writes.replace(self.uri, self._content(), version, self.storage):
                    return self._own(taken)
                continue  # another driver was first: its lease is a change
            time.sleep(min(_LOOK, STALE_AFTER))

    def _own(self, version: str) -> None:
        self._version = version
        if conditional_writes.honoured(self.uri, self.storage):
            return
        self._conditional = False
        self.say(
            "note: storage ignores If-None-Match: two drivers that start within two seconds may not see each other"
        )
        self.storage.write_bytes(self.uri, self._content())
        time.sleep(_SETTLE)
        found = self._read()
        if found is None or found[0].get("token") != self.token:
            raise ConfigError(f"another driver took {self.output} at the same moment")

    def _told(self, held: dict[str, Any]) -> str:
        holder = f"{held['host']}, process {held['pid']}" if held else "of which nothing can be read"
        return f"another driver ({holder}) is writing to {self.output}"

    # --- keeping it --------------------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT) and not self.lost:
            with suppress(OSError, StorageError):  # storage does not answer for a while: the next beat tries again
                self._renew()

    def _renew(self) -> None:
        with self._renewing:
            if self.lost:
                return
            self._beats += 1
            if self._conditional:
                self.lost = not (self._replace() or (self._is_ours() and self._replace()))
            elif (found := self._read()) and found[0].get("token") != self.token:
                self.lost = True
            else:
                self.storage.write_bytes(self.uri, self._content())
            if self.lost:
                self.on_lost()

    def _replace(self) -> bool:
        version = conditional_writes.replace(self.uri, self._content(), self._version, self.storage)
        self._version = version or self._version
        return version is not None

    def _is_ours(self) -> bool:
        """Return whether the lease is ours after all: a heartbeat whose answer was lost has changed its version."""
        found = self._read()
        if found is None or found[0].get("token") != self.token:
            return False
        self._version = found[1]
        return True

    def _read(self) -> tuple[dict[str, Any], str] | None:
        """Return the content of the lease, empty if it is none, and its version; None without an object."""
        try:
            data, version = conditional_writes.read(self.uri, self.storage)
        except FileNotFoundError:
            return None
        return _parsed(data), version

    def _content(self) -> bytes:
        own = {"token": self.token, "host": socket.gethostname(), "pid": os.getpid(), "beats": self._beats}
        return json.dumps({**own, "machine": _machine(), "started": _started(os.getpid())}).encode()


def holder(output: str, storage: Storage) -> dict[str, Any] | None:
    """Return {host, pid} of the driver that holds the lease of an output; None without one, or if that process has ended."""
    try:
        held = _parsed(storage.read_bytes(join(output, FILE)))
    except FileNotFoundError:
        return None
    return {key: held[key] for key in ("host", "pid")} if held and not _is_dead(held) else None


def _parsed(data: bytes) -> dict[str, Any]:
    """Return the content of a lease; empty if it is none."""
    try:
        held = json.loads(data)
    except ValueError:
        return {}
    return held if isinstance(held, dict) and held.keys() >= _FIELDS else {}


def _machine() -> str:
    """Return a name of this boot of this machine and of its space of process ids; empty if the system does not tell."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> str | None:
    """Return when a process of this machine started, in ticks since the boot, as text; None if it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else fields[18]


def _is_dead(held: dict[str, Any]) -> bool:
    """Return whether the holder was a process of this machine that has ended."""
    return _is_here(held) and _started(held["pid"]) != held.get("started")


def _is_alive(held: dict[str, Any]) -> bool:
    """Return whether the holder is a process of this machine that runs."""
    return _is_here(held) and not _is_dead(held)


def _is_here(held: dict[str, Any]) -> bool:
    return bool(held) and held.get("machine") == _machine() != ""
