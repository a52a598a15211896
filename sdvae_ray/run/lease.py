"""One driver per output: a lease, an object on storage with a heartbeat.

A second driver is refused while the holder of the lease lives. It takes the lease over once the holder is dead or silent, so that
the same command resumes a killed run.
"""

import json
import os
import socket
import threading
import time
import uuid
from typing import Any, Self

from sdvae_ray.errors import ConfigError, RunError, StorageError
from sdvae_ray.storage import Storage, join

FILE = "_lease.json"
STALE_AFTER = 60.0  # seconds without a heartbeat
HEARTBEAT = 10.0  # seconds


class Lease:
    """A context manager that holds the lease of an output.

    Entering raises ConfigError if another driver holds the lease. `check` raises RunError after another driver took it over.
    """

    def __init__(self, output: str, storage: Storage) -> None:
        self.uri, self.storage = join(output, FILE), storage
        self.token = uuid.uuid4().hex
        self.lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lease")

    def __enter__(self) -> Self:
        held = self._read()
        if held is not None and (age := time.time() - held["heartbeat"]) < STALE_AFTER and not _is_dead(held):
            raise ConfigError(
                f"another driver ({held['host']}, process {held['pid']}) is writing to {self.uri.rpartition('/')[0]}: "
                f"its heartbeat is {age:.0f} s old (it is taken over after {STALE_AFTER:.0f} s of silence)"
            )
        self._write()
        if (held := self._read()) is None or held["token"] != self.token:
            raise ConfigError(f"another driver took {self.uri.rpartition('/')[0]} at the same moment")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        if not self._taken_over():
            self.storage.delete(self.uri)

    def check(self) -> None:
        """Raise RunError if another driver has taken over the lease."""
        if self._taken_over():
            raise RunError(f"another driver has taken over {self.uri.rpartition('/')[0]}: this one stops")

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            try:
                if self._taken_over():
                    return
                self._write()
            except (OSError, StorageError):
                continue  # storage does not answer for a while: the next beat tries again

    def _taken_over(self) -> bool:
        held = self._read()
        self.lost = self.lost or (held is not None and held["token"] != self.token)
        return self.lost

    def _read(self) -> dict[str, Any] | None:
        """Return the content of the lease; None if the object does not exist or is not a lease."""
        try:
            held = json.loads(self.storage.read_bytes(self.uri))
        except (FileNotFoundError, ValueError):
            return None
        return held if isinstance(held, dict) and {"token", "host", "pid", "heartbeat"} <= held.keys() else None

    def _write(self) -> None:
        held = {"token": self.token, "host": socket.gethostname(), "pid": os.getpid(), "heartbeat": time.time()}
        self.storage.write_bytes(self.uri, json.dumps(held).encode())


def _is_dead(held: dict[str, Any]) -> bool:
    """Return whether the holder was a process of this host that has ended."""
    if held["host"] != socket.gethostname():
        return False
    try:
        os.kill(held["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives, as another user's
        pass
    return False
