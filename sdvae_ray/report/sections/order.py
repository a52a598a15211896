"""The sections of the report in their order; the terminal has some of them, the page all."""

from collections.abc import Callable
from typing import NamedTuple

from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Section
from sdvae_ray.report.sections.answers import dose, questions, short, verdict
from sdvae_ray.report.sections.explore import compounds, wells
from sdvae_ray.report.sections.images import distances, examples, latents, leakage, metrics, quality, rates
from sdvae_ray.report.sections.phenotypes import audits, comparison, floors, retrieval, tasks, truth
from sdvae_ray.report.sections.record import failures, provenance, reading


class Entry(NamedTuple):
    """A section's place in the report. make: returns the section of a run, or None if the run has nothing for it."""

    make: Callable[[ScoredRun], Section | None]
    in_terminal: bool = False


SECTIONS = [
    # is the phenotype kept, at what rate, and what is lost?
    Entry(verdict.section),
    Entry(rates.section, in_terminal=True),
    Entry(compounds.section),
    Entry(examples.section),
    Entry(wells.with_thumbnails),
    Entry(short.section),
    Entry(comparison.section),
    Entry(dose.section),
    Entry(truth.section, in_terminal=True),
    # what of the pixels is lost?
    Entry(metrics.means, in_terminal=True),
    Entry(metrics.spectra),
    Entry(leakage.section, in_terminal=True),
    Entry(metrics.distributions),
    Entry(distances.section),
    # how far do the scores hold?
    Entry(retrieval.section, in_terminal=True),
    Entry(floors.section, in_terminal=True),
    Entry(floors.ceilings, in_terminal=True),
    Entry(floors.estimates),
    Entry(tasks.within, in_terminal=True),
    Entry(tasks.transfer, in_terminal=True),
    Entry(audits.stringency, in_terminal=True),
    Entry(audits.neighbours),
    Entry(audits.sets, in_terminal=True),
    # which extractor, which metric?
    Entry(questions.extractors_of_run),
    Entry(questions.metrics_of_run),
    Entry(latents.sizes),
    Entry(latents.space),
    # what went wrong, and how was it done?
    Entry(quality.section, in_terminal=True),
    Entry(failures.section, in_terminal=True),
    Entry(reading.section),
    Entry(provenance.the_run),
    Entry(provenance.again),
]


def sections_of(scored: ScoredRun, in_terminal: bool = False) -> list[Section]:
    """Return the sections that the run has something for, in order. in_terminal: only the terminal's."""
    sections = [entry.make(scored) for entry in SECTIONS if entry.in_terminal or not in_terminal]
    return [section for section in sections if section is not None]
