"""The progress of a run for its user: one bar on a terminal, or a plain line every 15 seconds in a log."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sdvae_ray.console import print_line

_EVERY = {"bar": 0.5, "line": 15.0}  # seconds between two updates


@contextmanager
def shown(console: Console, label: str, total: int, counts: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Shows progress from a thread until the block ends.

    total: number of FOVs. counts: returns the numbers of FOVs `encoded`, `written` and `errors`; polled at every update.
    """
    stop = threading.Event()
    show = _bar if console.is_terminal else _lines
    thread = threading.Thread(target=show, args=(console, label, total, counts, stop), daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bar(console: Console, label: str, total: int, counts: Callable[[], dict[str, Any]], stop: threading.Event) -> None:
    count = (BarColumn(), MofNCompleteColumn(), TextColumn("FOVs"), TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), *count)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total)
        while not stop.wait(_EVERY["bar"]):
            now = counts()
            failed = f" ({now['errors']} failed)" if now["errors"] else ""
            progress.update(task, completed=now["encoded"], description=label + failed)


def _lines(
    console: Console, label: str, total: int, counts: Callable[[], dict[str, Any]], stop: threading.Event
) -> None:
    start = time.monotonic()
    while not stop.wait(_EVERY["line"]):
        now, seconds = counts(), time.monotonic() - start
        rate = now["encoded"] / seconds
        left = f", about {(total - now['encoded']) / rate:.0f} s left" if rate else ""
        failed = f", {now['errors']} failed" if now["errors"] else ""
        done = f"{now['encoded']} of {total} FOVs encoded, {now['written']} written"
        print_line(console, f"{label}: {done}{failed}, {rate:.2f} FOV/s{left}")
