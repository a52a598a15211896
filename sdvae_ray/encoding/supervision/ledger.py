"""The count of a run: FOVs encoded, committed and failed, and the work of every stage.

The module imports nothing large, so that its actor starts at once. The ledger counts and advises: nobody waits for its answer for
long, because what is done stands on storage.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray

from sdvae_ray.run.cost import Costs, added
from sdvae_ray.run.traffic import Traffic

if TYPE_CHECKING:
    from sdvae_ray.cluster.counters import Counters

_SILENT = 300.0  # seconds; a process that waits tells so every half minute, or after a request that timed out


def answer(call: ray.ObjectRef, seconds: float = 60.0) -> Any | None:
    """Return what the ledger answers to a call; None if no answer comes in `seconds`, or its process is lost for good."""
    try:
        return ray.get(call, timeout=seconds)
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
        return None


@dataclass
class Stage:
    """The work of one stage since the start of the stream.

    actors     actors that have started, without restarts
    restarts   actors that were started again
    rows       FOVs that passed the stage
    seconds    seconds of work, summed over the actors
    warm_rows  FOVs that had passed when the newest actor was ready and the next FOVs came
    warm_at    seconds from the start of the stream to that moment; None before it
    last_at    seconds from the start of the stream to the newest FOVs
    """

    actors: int = 0
    restarts: int = 0
    rows: int = 0
    seconds: float = 0.0
    warm_rows: int = 0
    warm_at: float | None = None
    last_at: float = 0.0

    @property
    def rate(self) -> float | None:
        """Return the FOVs per second after the start of the newest actor; None if too few FOVs have passed to judge by."""
        if self.warm_at is None or self.last_at <= self.warm_at:
            return None
        return (self.rows - self.warm_rows) / (self.last_at - self.warm_at)


@dataclass(frozen=True)
class Away:
    """An outage of storage: since when (seconds since 1970), and the error of the process that met it last."""

    since: float
    reason: str


@dataclass
class Counts:
    """The numbers of FOVs encoded, written and failed, the last error, and the stages by name.

    first_at  seconds from the start of the stream to the first encoded FOVs; None before that moment
    away      the outage of storage that lasts; None: storage answers
    waited    seconds in which some process waited for storage
    costs     of the parts of the work
    traffic   requests and bytes of the images and the tables
    """

    encoded: int = 0
    written: int = 0
    errors: int = 0
    last_error: str | None = None
    first_at: float | None = None
    away: Away | None = None
    waited: float = 0.0
    stages: dict[str, Stage] = field(default_factory=dict)
    costs: Costs = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)


class Ledger:
    """A Ray actor that keeps the Counts of a run. Its answers stop a run with too many failed FOVs, or without its lease.

    committed: returns file name -> (rows, errors) of the writes that are on storage already: none in a new stream, and those of the
    stream if this actor takes the place of a dead one. counters: makes the counters that the cluster exports; None: no such
    counters. clock: returns seconds, which only grow. wall: returns seconds since 1970.
    """

    def __init__(
        self,
        allowed_errors: int,
        stages: list[str],
        committed: Callable[[], dict[str, tuple[int, int]]] = dict,
        counters: Callable[[], Counters] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.allowed_errors = allowed_errors
        self.stopped: str | None = None
        self.writes = committed()
        rows, errors = (sum(counts) for counts in zip(*self.writes.values(), strict=True)) if self.writes else (0, 0)
        self.state = Counts(rows, rows, errors, stages={stage: Stage() for stage in stages})
        self.counters = counters() if counters else None
        self.clock, self.start, self.wall = clock, clock(), wall
        self._actors: list[Any] = []
        self._waiting: dict[str, float] = {}  # who waits for storage -> when it said so last
        self._told_at = self.start  # until when `waited` is counted

    def started(self, stage: str, again: bool, actor: Any | None = None) -> None:
        """Count an actor that is ready. again: True: it replaces a dead one. actor: its handle, for `actors`."""
        if actor is not None:
            self._actors.append(actor)
        counted = self.state.stages[stage]
        counted.restarts, counted.actors = counted.restarts + again, counted.actors + (not again)
        counted.warm_at = None
        if self.counters:
            self.counters.actor(stage, again)

    def actors(self) -> list[Any]:
        """Return the handles of the actors that have started; some stand there twice."""
        return self._actors

    def add_rows(self, stage: str, rows: int, seconds: float, costs: Costs | None = None) -> None:
        """Count rows that an actor of a stage finished, its seconds of work on them, and what the parts of the work cost."""
        self.state.costs = added([self.state.costs, costs or {}])
        counted, now = self.state.stages[stage], self.clock() - self.start
        counted.actors = max(1, counted.actors)  # its start may have been told to a ledger that died
        counted.rows, counted.seconds, counted.last_at = counted.rows + rows, counted.seconds + seconds, now
        if counted.warm_at is None:
            counted.warm_at, counted.warm_rows = now, counted.rows
        if stage == "encode":
            self.state.encoded += rows
            if self.state.first_at is None:
                self.state.first_at = now
        if self.counters:
            self.counters.rows(stage, rows, seconds)

    def add_traffic(self, traffic: Traffic) -> None:
        """Count the requests and bytes of an actor or a write."""
        self.state.traffic += traffic

    def away(self, who: str, reason: str) -> str | None:
        """Hear from a process that it waits for storage, and why. Return `refusal`: a stopped run waits no longer."""
        self._count_waiting()
        self._waiting[who] = self.clock()
        self.state.away = Away(self.state.away.since if self.state.away else self.wall(), reason)
        return self.stopped

    def back(self, who: str) -> None:
        """Hear from a process that it waits no longer."""
        self._count_waiting()
        self._waiting.pop(who, None)
        self._count_waiting()

    def _count_waiting(self) -> None:
        """Add the time since the last call to `waited` if somebody waited. Who has been silent for long has died."""
        now = self.clock()
        if self._waiting:
            self.state.waited += now - self._told_at
        self._told_at = now
        self._waiting = {who: at for who, at in self._waiting.items() if now - at < _SILENT}
        if not self._waiting:
            self.state.away = None

    def stop(self, reason: str) -> None:
        """Let no write begin from now on."""
        self.stopped = self.stopped or reason

    def refusal(self) -> str | None:
        """Return why no write may begin; None: it may."""
        return self.stopped

    def add_written(self, file: str, rows: int, errors: int, example: str | None) -> str | None:
        """Count one write, once however often it is told. Return `refusal`: more rows may have failed than `allowed_errors`.

        example: one row's error.
        """
        state = self.state
        if self.counters and file not in self.writes:
            self.counters.written(rows, errors)
        told_rows, told_errors = self.writes.get(file, (0, 0))
        self.writes[file] = rows, errors
        state.written, state.errors = state.written + rows - told_rows, state.errors + errors - told_errors
        state.last_error = example or state.last_error
        if state.errors > self.allowed_errors:
            self.stop(f"more FOVs failed than max_error_fraction allows; the last one: {state.last_error}")
        return self.stopped

    def counts(self) -> Counts:
        """Return the counts so far."""
        self._count_waiting()
        return self.state
