"""The log of a command that writes to a run: logs/<start>-<command>-<session>.log under its output.

Every line that the user reads is in it, with the time, the session and the host; beside it the lines of Ray that the terminal is
spared, and the traceback of a mistake of ours.
"""

import datetime
import logging
import os
import platform
import socket
import sys
import threading
import traceback
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sdvae_ray.console import LOGGER
from sdvae_ray.errors import SdvaeRayError, StorageError, UserError, one_line, redacted
from sdvae_ray.storage import Storage, is_remote, join
from sdvae_ray.version import VERSION

FOLDER = "logs"
_EVERY = 5.0  # seconds between two writes of the log to a disk
_EVERY_REMOTE = 60.0  # seconds between two writes to object storage, each of the whole log
_MOST = 5_000_000  # characters of a log; a longer one keeps its start and its end
_LEVELS = {logging.DEBUG: "ray", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}


class RunLog(logging.Handler):
    """A context manager that keeps the log of one command of the driver.

    output, storage: where. command: its name. say: takes a line for the user if the command fails by no fault of its input.
    see_also: where more is told about a failure, such as the folder of Ray's logs.

    session  8 hex digits
    file     the name of the log under `output`
    """

    def __init__(
        self,
        output: str,
        storage: Storage,
        command: str,
        say: Callable[[str], None] = lambda line: None,
        see_also: str = "",
    ) -> None:
        super().__init__(logging.DEBUG)
        self.session = uuid.uuid4().hex[:8]
        start = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        self.file = f"{FOLDER}/{start}-{command}-{self.session}.log"
        self.uri, self.storage, self.say, self.see_also = join(output, self.file), storage, say, see_also
        self._every = _EVERY_REMOTE if is_remote(output) else _EVERY
        self._host = socket.gethostname()
        self._lines: list[str] = []
        self._written = 0  # lines that stand on storage
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_now_and_then, daemon=True, name="log")

    def __enter__(self) -> Self:
        self._before = LOGGER.level, LOGGER.propagate
        LOGGER.setLevel(logging.DEBUG)
        LOGGER.propagate = False
        LOGGER.addHandler(self)
        LOGGER.info(
            "%s",
            f"sdvae_ray {VERSION}, python {platform.python_version()}, process {os.getpid()}: {' '.join(sys.argv)}",
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        LOGGER.removeHandler(self)
        level, LOGGER.propagate = self._before
        LOGGER.setLevel(level)
        if error is not None:
            self._keep("error", _told(error))
            if self.see_also:
                self._keep("error", self.see_also)
        self._stop.set()
        self._thread.join()
        self._write()
        if isinstance(error, Exception) and not isinstance(error, UserError):
            self.say(f"the log of this session is {self.uri}")

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record of the logger; a record of several lines stays together."""
        self._keep(_LEVELS.get(record.levelno, record.levelname.lower()), record.getMessage())

    def _keep(self, level: str, text: str) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._lines.append(f"{now} {self.session} {self._host} {level}: {redacted(text)}\n")

    def _write_now_and_then(self) -> None:
        while not self._stop.wait(self._every):
            self._write()

    def _write(self) -> None:
        """Write the whole log; where storage does not answer, a later write has the lines."""
        lines = list(self._lines)
        if len(lines) == self._written:
            return
        text = "".join(lines)
        shown = text if len(text) <= _MOST else f"{text[: _MOST // 2]}\n[...]\n{text[-_MOST // 2 :]}"
        try:
            self.storage.write_bytes(self.uri, shown.encode())
        except (StorageError, OSError):
            return
        self._written = len(lines)


def _told(error: BaseException) -> str:
    """Return an error of our tree as one line, a stop by the user as a word, and a mistake of our code with its traceback."""
    if isinstance(error, SdvaeRayError):
        return one_line(error, None)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "stopped"
    return "".join(traceback.format_exception(error)).rstrip()
