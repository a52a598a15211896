"""The page of several runs: its head, and its sections in their order."""

from collections.abc import Sequence

from sdvae_ray.report.facts.conclude.words import listed
from sdvae_ray.report.facts.runs.several import Runs, named, sides_of
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Section
from sdvae_ray.report.sections.header import Header, title_of
from sdvae_ray.report.sections.runs import rates, settings, verdicts

_NAMED = 3  # sides that the title names


def page_of_runs(runs: Sequence[ScoredRun]) -> tuple[Header, list[Section]]:
    """Return the head and the sections of a page of several runs. Raises ConfigError for a run that is named twice."""
    compared = named(runs)
    sections = [verdicts.section(compared), rates.section(compared), settings.section(compared)]
    return _header(compared), [section for section in sections if section is not None]


def _header(runs: Runs) -> Header:
    sides = sides_of(runs)
    subject = (
        f"{listed(sides) if len(sides) <= _NAMED else f'{len(sides)} autoencoders and codecs'}, in {len(runs)} runs"
    )
    asked = any(run.scored.config.score.perturbation is not None for run in runs)
    tiles = {f"usable fields of view, {run.letter}": f"{run.scored.usable.height:,}" for run in runs}
    random = [f"{name} ({run.letter})" for run in runs for name in run.scored.config.random_weights]
    lead = (
        f"{len(runs)} runs, each with its own page (sdvae-ray report RUN). Here their verdicts, rates and scores stand beside each "
        "other where they may be compared, and the settings in which they differ are named."
    )
    is_synthetic = all(run.scored.is_synthetic for run in runs)
    return Header(subject, title_of(subject, asked), lead, tiles, random, is_synthetic)
