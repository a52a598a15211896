"""The scores of a run, or of two runs side by side, as one readable page of a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from sdvae_ray.report.facts import side_by_side
from sdvae_ray.report.facts.conclude.study import Rule, Study, rule_of, studies
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Section
from sdvae_ray.report.sections.answers import questions, verdict
from sdvae_ray.report.sections.header import expected_fovs
from sdvae_ray.report.sections.order import sections_of
from sdvae_ray.report.terminal.tables import print_section, say


def print_summary(scored: ScoredRun, console: Console, whole: bool = True) -> None:
    """Print the number of usable fields of view, and the sections of the report that a terminal has, or the first one."""
    kind = "synthetic plates, " if scored.is_synthetic else ""
    total = expected_fovs(scored)
    say(console, f"{scored.run.output}: {kind}{scored.usable.height} usable FOVs of {total}", style="bold")
    print_random_weights(scored, console)
    sections = sections_of(scored, in_terminal=True)
    for section in sections if whole else sections[:1]:
        print_section(section, console)


def print_conclusion(runs: Sequence[ScoredRun], rules: Sequence[Rule], console: Console) -> None:
    """Print the answers to the three questions: verdicts and names, extractors, metrics. rules: one per run."""
    rule_by_run = dict(zip((id(run) for run in runs), rules, strict=True))
    for study in studies(runs):
        rule = rule_by_run[id(study.first)]
        places = ", ".join(f"{run.run.output} (seed {run.config.seed})" for run in study.runs)
        say(console, places, style="bold")
        print_random_weights(study.first, console)
        sections = verdict.in_terminal(study, rule)
        if not sections:
            say(console, "No verdict: no side was scored beside its originals.", style="yellow")
        for section in [*sections, questions.extractors(study, rule)]:
            _print_titled(section, console)
    _print_titled(questions.metrics(runs), console)


def _print_titled(section: Section | None, console: Console) -> None:
    if section is not None:
        if section.title:
            say(console, f"\n{section.title}", style="bold")
        print_section(section, console)


def print_verdicts(scored: ScoredRun, console: Console) -> None:
    """Print the verdicts of one run in sentences."""
    for line in verdict.lines(Study((scored,)), rule_of(scored)):
        say(console, line)


def print_random_weights(scored: ScoredRun, console: Console) -> None:
    """Print which models have random weights, if any."""
    if names := ", ".join(scored.config.random_weights):
        text = f"Random weights: {names}. Their numbers test the machinery and say nothing about images."
        say(console, text, style="yellow")


def print_comparison(comparison: Mapping[str, Any], console: Console) -> None:
    """Print a comparison of two runs as tables; a difference is always B - A."""
    for line in side_by_side.headings(comparison):
        say(console, line, style="bold")
    for section in side_by_side.sections(comparison):
        print_section(section, console)
