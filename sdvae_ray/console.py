"""Prints a line of a command to its user: unchanged and in one piece, whatever the width of the terminal."""

from rich.console import Console


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print a text without markup or highlights; a long line is left for the terminal to wrap."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
