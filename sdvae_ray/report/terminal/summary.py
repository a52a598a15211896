"""The scores of a run, or of two runs side by side, as one readable page of a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from sdvae_ray.report.facts import side_by_side
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.sections.header import expected_fovs
from sdvae_ray.report.sections.order import sections_of
from sdvae_ray.report.terminal.tables import print_section, say


def print_summary(scored: ScoredRun, console: Console) -> None:
    """Print the number of usable fields of view, and the sections of the report that a terminal has."""
    kind = "synthetic plates, " if scored.is_synthetic else ""
    total = expected_fovs(scored)
    say(console, f"{scored.run.output}: {kind}{scored.usable.height} usable FOVs of {total}", style="bold")
    if names := ", ".join(scored.config.random_weights):
        text = f"Random weights: {names}. Their numbers test the machinery and say nothing about images."
        say(console, text, style="yellow")
    for section in sections_of(scored, in_terminal=True):
        print_section(section, console)


def print_comparison(comparison: Mapping[str, Any], console: Console) -> None:
    """Print a comparison of two runs as tables; a difference is always B - A."""
    for line in side_by_side.headings(comparison):
        say(console, line, style="bold")
    for section in side_by_side.sections(comparison):
        print_section(section, console)
