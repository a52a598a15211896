"""The scores of a run as one readable page of a terminal."""

from rich.console import Console

from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.sections.header import expected_fovs
from sdvae_ray.report.sections.order import sections_of
from sdvae_ray.report.terminal.tables import print_section, say


def print_summary(scored: ScoredRun, console: Console) -> None:
    """The sections of the report that a terminal has, and what failed."""
    kind = "synthetic plates, " if scored.is_synthetic else ""
    total = expected_fovs(scored)
    say(console, f"{scored.run.output}: {kind}{scored.usable.height} usable FOVs of {total}", style="bold")
    if names := ", ".join(scored.config.random_weights):
        text = f"Random weights: {names}. Their numbers test the machinery and say nothing about images."
        say(console, text, style="yellow")
    for section in sections_of(scored, in_terminal=True):
        print_section(section, console)
