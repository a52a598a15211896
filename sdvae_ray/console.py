"""Prints a line of a command to its user, and gives the line to the log of the run.

A line is printed unchanged and in one piece, whatever the width of the terminal.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

LOGGER = logging.getLogger("sdvae_ray")  # of the driver: see sdvae_ray.run.driver.log
_FIRST_LINE, _NEXT_LINE = 1.0, 15.0  # seconds of a wait before a line, and between lines


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print a text without markup or highlights, and log it; the terminal wraps a long line."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
    LOGGER.info("%s", text)


@contextmanager
def waiting(console: Console, what: str | Callable[[], str], first: float | None = None) -> Iterator[None]:
    """Say what the block does if it takes more than a second, and again, with its seconds, while it goes on.

    what: the line, or a function that returns it. first: seconds before the first line, if not one.
    """
    ended, start = threading.Event(), time.monotonic()

    def tell() -> None:
        seconds = _FIRST_LINE if first is None else first
        told = False
        while not ended.wait(seconds):
            line = what if isinstance(what, str) else what()
            print_line(console, f"{line}; {time.monotonic() - start:.0f} s so far" if told else line)
            told, seconds = True, _NEXT_LINE

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
