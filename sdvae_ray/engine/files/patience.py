"""Waits until storage answers again, so that an outage costs time and no field of view. It knows nothing of Ray.

An action that fails with StorageAwayError or StorageDeniedError is tried again, with growing pauses, until it succeeds or the
patience is at an end. One thread of a process tries; the others that fail meanwhile wait for it.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sdvae_ray.config import StorageConfig
from sdvae_ray.errors import StorageAwayError, StorageDeniedError, StorageError, one_line
from sdvae_ray.run.traffic import Meter, Traffic
from sdvae_ray.storage import Storage, is_remote

T = TypeVar("T")
_FIRST, _GROWTH, _LONGEST = 1.0, 1.5, 30.0  # seconds; the last pause is at most half of the outage before it
_TRIES_OF_ONE = 8  # about 50 s: an object that cannot be read so often, while another can, is damaged


class Report(Protocol):
    """Who is told of an outage. The methods may raise an error, which ends the waiting."""

    def away(self, reason: str) -> None:
        """Hear that storage does not answer: at the first failure, and before every later try."""

    def back(self) -> None:
        """Hear that storage answers again, or that the waiting is over."""


class Silence:
    """A report that nobody hears."""

    def away(self, reason: str) -> None:
        """Do nothing."""

    def back(self) -> None:
        """Do nothing."""


class Patience:
    """Calls actions until storage answers. Threads may share it.

    minutes: how long an outage may last; 0: no second try. clock: returns seconds, which only grow. sleep: waits for seconds.
    """

    def __init__(
        self,
        minutes: float,
        report: Report | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.minutes, self.report = minutes, report or Silence()
        self.clock, self.sleep = clock, sleep
        self._turn = threading.Lock()  # the thread that holds it tries for all

    def __call__(
        self,
        action: Callable[[], T],
        others_answer: Callable[[], bool] = lambda: False,
        renew: Callable[[], None] = lambda: None,
    ) -> T:
        """Return the result of an action, however long storage is away.

        others_answer: returns whether another object of the same storage can be read; then the fault is of this object.
        renew: reads the credentials again. Raises PermissionError if this object alone is denied, OSError if this object alone
        cannot be read, and StorageAwayError or StorageDeniedError after `minutes`.
        """
        start = self.clock()
        try:
            return action()
        except (StorageAwayError, StorageDeniedError) as error:
            if self.minutes == 0:
                raise
            reason = error
        with self._turn:
            try:
                return self._waited(action, others_answer, renew, start, reason)
            finally:
                self.report.back()

    def _waited(
        self,
        action: Callable[[], T],
        others_answer: Callable[[], bool],
        renew: Callable[[], None],
        start: float,
        error: StorageError,
    ) -> T:
        tries, pause = 0, _FIRST
        while True:
            self.report.away(one_line(error, None))
            elsewhere = others_answer()  # before the next try, which may find that the outage is over
            try:
                if isinstance(error, StorageDeniedError):
                    renew()
                return action()
            except (StorageAwayError, StorageDeniedError) as again:
                error, tries = again, tries + 1
            if elsewhere and isinstance(error, StorageDeniedError):
                raise PermissionError(one_line(error, None)) from error
            if elsewhere and tries >= _TRIES_OF_ONE:
                raise OSError(f"{one_line(error, None)}, and other files can be read") from error
            if self.clock() - start > 60 * self.minutes:
                raise type(error)(
                    f"storage was away for {self.minutes:g} minutes: {one_line(error, None)}; the same command goes on from here"
                ) from error
            self.sleep(pause * random.uniform(0.75, 1.0))
            pause = min(_GROWTH * pause, _LONGEST)


class PatientStorage(Storage):
    """A Storage whose calls wait until storage answers; for one process, since it holds what it has seen.

    A local file that may not be read is PermissionError at once: no credentials will change that. meter: counts the requests and
    bytes of the calls that succeed.
    """

    def __init__(self, config: StorageConfig, patience: Patience) -> None:
        super().__init__(config)
        self.patience, self.meter = patience, Meter()
        self._read: dict[str, str] = {}  # bucket, or "" for a disk -> the URI that was read last

    def read_bytes(self, uri: str) -> bytes:
        """Return a whole object."""
        return self._counted(super().read_bytes(uri))

    def read_range(self, uri: str, start: int, stop: int) -> bytes:
        """Return the bytes from `start` up to `stop` of an object, by one request."""
        return self._counted(super().read_range(uri, start, stop))

    def _counted(self, data: bytes) -> bytes:
        self.meter.add(Traffic(reads=1, read_bytes=len(data)))
        return data

    def version(self, uri: str) -> str:
        """Return a mark of an object that changes with its content."""
        mark = super().version(uri)
        self.meter.add(Traffic(looks=1))
        return mark

    def write_bytes(self, uri: str, data: bytes) -> None:
        """Write a whole object."""
        super().write_bytes(uri, data)
        self.meter.add(Traffic.of_object(len(data)))

    def call(self, uri: str, verb: str, action: Callable[[Any, str], T]) -> T:
        """Return action(fsspec filesystem, path), as Storage.call does, but later."""
        is_look, place = verb in ("read", "look for"), _place(uri)

        def attempt() -> T:
            try:
                return Storage.call(self, uri, verb, action)
            except StorageDeniedError as error:
                if is_look and not is_remote(uri):
                    raise PermissionError(one_line(error, None)) from error
                raise

        def others_answer() -> bool:
            return is_look and self._others_answer(uri, place)

        result = self.patience(attempt, others_answer, lambda: Storage(self.config).renew(uri))
        if verb == "read":
            self._read[place] = uri
        return result

    def _others_answer(self, uri: str, place: str) -> bool:
        other = self._read.get(place)
        if other in (None, uri):
            return False
        try:
            Storage(self.config).read_range(str(other), 0, 1)
        except (OSError, StorageError):
            return False
        return True


def _place(uri: str) -> str:
    """Return the bucket of a URI; "" for a local file."""
    return "/".join(uri.split("/")[:3]) if is_remote(uri) else ""
