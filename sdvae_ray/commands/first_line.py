"""Where the lines of a command go, its first line, and its answer as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sdvae_ray.console import print_line

if TYPE_CHECKING:
    from rich.console import Console

    from sdvae_ray.run.run import Run


def begin(command: str, run: Run, console: Console) -> None:
    """Print that a command starts, and on which run. It comes before the imports, because they take seconds."""
    print_line(console, f"{command}: {run.output}; starting")


def lines_of(console: Console, as_json: bool) -> Console:
    """Return where the lines of a command go: stderr if stdout is for one JSON object."""
    from rich.console import Console

    return Console(stderr=True) if as_json else console


def give(answer: Any | Callable[[], Any], console: Console, as_json: bool) -> None:
    """Print the answer of a command as one JSON object, if JSON is asked for. answer: a function where it takes time to make."""
    if as_json:
        console.print_json(json.dumps(answer() if callable(answer) else answer, allow_nan=False))
