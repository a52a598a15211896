"""The processes of a session of the system: a command that a test started with `start_new_session`, and what it started."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path


def of_session(leader: int) -> Iterator[int]:
    """The ids of the processes of a session, the lowest first; zombies too."""
    for process in sorted(int(folder.name) for folder in Path("/proc").glob("[0-9]*")):
        with contextlib.suppress(ProcessLookupError):  # it has ended since
            if os.getsid(process) == leader:
                yield process


def kill_session(leader: int) -> None:
    """Kills every process of a session."""
    for process in of_session(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
