"""Prints a line of a command to its user, and gives the line to the log of the run.

A line is printed unchanged and in one piece, whatever the width of the terminal.
"""

import logging

from rich.console import Console

LOGGER = logging.getLogger("sdvae_ray")  # of the driver: see sdvae_ray.run.log


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print a text without markup or highlights, and log it; the terminal wraps a long line."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
    LOGGER.info("%s", text)
