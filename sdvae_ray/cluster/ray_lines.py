"""Keeps Ray's own lines off the terminal of the driver: they go to the log of the run.

Ray prints messages of its nodes and workers, such as a worker that died, through print, whatever its logging is set to. Ray Data
logs the traceback of a task that failed, which the driver's own line tells shorter.
"""

import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from sdvae_ray.console import LOGGER

_COLOUR = r"(?:\x1b\[\d+m)*"
_RAYS = re.compile(rf"^{_COLOUR}\((?:raylet|autoscaler|gcs_server|\S+ pid=\d+|pid=\d+)[^)]*\)")
_LONGEST = 1000  # characters of a line in the log
_MOST = 2000  # lines of a session in the log


class _Sieve:
    """A text stream that passes on everything but the lines of Ray."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._logged = 0
        self._mine = threading.local()  # `print` writes a line and its end in two calls of one thread

    def write(self, text: str) -> int:
        if _RAYS.match(text):
            self._log(re.sub(_COLOUR, "", text).strip())
            self._mine.awaits_end = True  # even where the text has its own
            return len(text)
        if text == "\n" and getattr(self._mine, "awaits_end", False):
            self._mine.awaits_end = False
            return len(text)
        return self._stream.write(text)

    def _log(self, line: str) -> None:
        self._logged += 1
        if self._logged < _MOST:
            LOGGER.debug("%s", line[:_LONGEST])
        elif self._logged == _MOST:
            LOGGER.debug("more lines of Ray are in its own logs alone")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def ray_lines_logged() -> Iterator[None]:
    """A block in which lines of Ray on stdout and stderr go to the logger of the driver at level DEBUG."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Sieve(stream) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


class _RunLogHandler(logging.Handler):
    """Gives records to the logger of the driver at level DEBUG, whatever their own level."""

    def emit(self, record: logging.LogRecord) -> None:
        LOGGER.debug("%s", self.format(record))


def log_ray_data() -> None:
    """Let errors of Ray Data go to the logger of the driver, and no line of Ray Data to the terminal."""
    logger = logging.getLogger("ray.data")
    logger.setLevel(logging.ERROR)
    for handler in logger.handlers[:]:
        if isinstance(handler, logging.StreamHandler | _RunLogHandler):
            logger.removeHandler(handler)
    logger.addHandler(_RunLogHandler())
