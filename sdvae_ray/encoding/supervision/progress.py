"""The progress of a run for its user: a bar on a terminal and a line a minute in the log, or lines alone."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sdvae_ray.console import LOGGER, print_line
from sdvae_ray.encoding.supervision.ledger import Counts

Look = Callable[[], tuple[Counts, str | None]]
_BAR = 0.5  # seconds between two updates of the bar
_LINES = 15.0  # seconds between two lines in the first minute; then a line a minute
_WINDOW = 60.0  # seconds over which rates and shares are taken


class Pace:
    """The rates of a stream over its last minute.

    total: FOVs of the stream. pools: stage -> the number of actors that it will have.
    """

    def __init__(self, total: int, pools: Mapping[str, int]) -> None:
        self.total, self.pools = total, pools
        self._samples: deque[tuple[float, Counts]] = deque()

    def add(self, seconds: float, counts: Counts) -> None:
        """Take the counts at a time in seconds, which only grows."""
        self._samples.append((seconds, deepcopy(counts)))
        while len(self._samples) > 2 and self._samples[1][0] <= seconds - _WINDOW:
            self._samples.popleft()

    @property
    def rate(self) -> float:
        """Return the FOVs encoded per second; 0 before any time has passed."""
        (start, before), (end, now) = self._samples[0], self._samples[-1]
        return (now.encoded - before.encoded) / (end - start) if end > start else 0.0

    def busy(self) -> dict[str, float]:
        """Return stage -> the share of the time that its actors worked, in [0, 1]."""
        (start, before), (end, now) = self._samples[0], self._samples[-1]
        shares = {}
        for name, stage in now.stages.items():
            available = (end - start) * max(1, stage.actors)
            shares[name] = min(1.0, (stage.seconds - before.stages[name].seconds) / available) if available else 0.0
        return shares

    def said(self, held: str | None = None) -> str:
        """Return one line: how many FOVs, how fast, how much longer and which stage is busiest; or what the stream waits for.

        held: why nothing moves; None: the stream moves.

        The time since which storage is away is that of this machine's time zone.
        """
        now = self._samples[-1][1]
        failed = f", {now.errors} failed" if now.errors else ""
        restarts = sum(stage.restarts for stage in now.stages.values())
        again = f", {restarts} actors restarted" if restarts else ""
        waited = f", {duration(now.waited)} waited for storage" if now.waited >= 1 and not now.away else ""
        done = f"{now.encoded} of {self.total} FOVs encoded, {now.written} written{failed}{again}{waited}"
        if now.away:
            since = time.strftime("%H:%M:%S", time.localtime(now.away.since))
            return f"{done}; storage away since {since} ({now.away.reason})"
        waiting = [f"{now.stages[name].actors} of {least} of {name}" for name, least in self.pools.items()]
        if not all(now.stages[name].actors for name in self.pools):
            return f"{done}; waiting for actors to start: {', '.join(waiting)} are there"
        if held:
            return f"{done}; {held}"
        rate = self.rate
        if not rate:
            return done
        shares = self.busy()
        busiest = max(shares, key=lambda name: shares[name])
        busy = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
        left = duration((self.total - now.encoded) / rate)
        return f"{done}, {rate:.2f} FOV/s, about {left} left; busy: {busy}; {busiest} is the bottleneck"


def duration(seconds: float) -> str:
    """Return seconds as text: 42 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def shown(console: Console, label: str, total: int, pools: Mapping[str, int], look: Look) -> Iterator[None]:
    """Show progress from a thread until the block ends.

    total: FOVs of the stream. pools: stage -> the number of actors that it will have. look: returns the counts, and why nothing
    moves (None: the stream moves); called at every update.
    """
    stop, pace = threading.Event(), Pace(total, pools)
    show = _bar if console.is_terminal else _lines
    thread = threading.Thread(target=show, args=(console, label, pace, look, stop), daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bar(console: Console, label: str, pace: Pace, look: Look, stop: threading.Event) -> None:
    count = (BarColumn(), MofNCompleteColumn(), TextColumn("FOVs"), TimeElapsedColumn())
    columns = (TextColumn("{task.description}"), *count, TextColumn("{task.fields[said]}"))
    start = time.monotonic()
    with Progress(*columns, console=console, transient=True) as progress:
        task, logged = progress.add_task(label, total=pace.total, said=""), start
        while not stop.wait(_BAR):
            now, held = look()
            pace.add(time.monotonic() - start, now)
            said = pace.said(held)
            if time.monotonic() - logged >= _WINDOW:
                logged = time.monotonic()
                LOGGER.info("%s: %s", label, said)
            _, _, rest = said.partition(" written")
            progress.update(task, completed=now.encoded, said=rest.lstrip(",; "))


def _lines(console: Console, label: str, pace: Pace, look: Look, stop: threading.Event) -> None:
    start = time.monotonic()
    pace.add(0.0, look()[0])
    while not stop.wait(_LINES if time.monotonic() - start < _WINDOW else _WINDOW):
        now, held = look()
        pace.add(time.monotonic() - start, now)
        print_line(console, f"{label}: {pace.said(held)}")
