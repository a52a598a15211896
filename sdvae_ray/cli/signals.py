"""Ctrl-C and SIGTERM unwind the command, whatever it does at that moment, and never reach a process that is about to exit."""

import os
import signal
import sys
import threading
import warnings
from types import FrameType
from typing import Any

_AGAIN = 0.1  # seconds
_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []
_before: dict[int, Any] = {}


def install() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, until `restore` or `ignore`.

    The interpreter swallows an exception that comes while it runs a callback, such as that of an import lock; the signal is then
    sent again.
    """
    _received.clear()
    for number in _NUMBERS:
        _before[number] = signal.signal(number, _stopped)
    sys.unraisablehook = _unraisable


def restore() -> None:
    """Give signals back to the handlers that were there before `install`."""
    for number, handler in _before.items():
        signal.signal(number, handler)
    sys.unraisablehook = sys.__unraisablehook__


def exit_code() -> int:
    """Return the exit code of a command that was stopped: 130 by Ctrl-C, 143 by SIGTERM."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def ignore() -> None:
    """Ignore signals: the process is about to exit, and a signal in these moments would change its exit code."""
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def _stopped(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    warnings.simplefilter("ignore")  # of modules whose import is cut short
    raise KeyboardInterrupt


def _unraisable(swallowed: Any) -> None:
    if not issubclass(swallowed.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(swallowed)
    elif _received:
        again = threading.Timer(_AGAIN, os.kill, (os.getpid(), _received[-1]))
        again.daemon = True
        again.start()
