"""The first line of a command, which comes before the imports, because they take seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdvae_ray.console import print_line

if TYPE_CHECKING:
    from rich.console import Console

    from sdvae_ray.run.run import Run


def begin(command: str, run: Run, console: Console) -> None:
    """Print that a command starts, and on which run."""
    print_line(console, f"{command}: {run.output}; starting")
