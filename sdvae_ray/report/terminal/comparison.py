"""Two runs side by side in a terminal: what `sdvae_ray.report.facts.compare` found, printed."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from sdvae_ray.report.facts import side_by_side
from sdvae_ray.report.terminal.tables import print_section, say


def print_comparison(comparison: Mapping[str, Any], console: Console) -> None:
    """What `comparison` gives, as tables; the difference is always B - A."""
    for line in side_by_side.headings(comparison):
        say(console, line, style="bold")
    for section in side_by_side.sections(comparison):
        print_section(section, console)
