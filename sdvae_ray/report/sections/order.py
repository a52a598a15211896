"""The sections of the report in their order; the terminal has some of them, the page all."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Section
from sdvae_ray.report.sections import (
    comparison,
    distances,
    distributions,
    examples,
    failures,
    floors,
    latents,
    metrics,
    provenance,
    rates,
    reading,
    retrieval,
    short,
    spectra,
    tasks,
    transfer,
    truth,
)


class Entry(NamedTuple):
    """`make` gives the section of a run, or None where the run has nothing for it."""

    make: Callable[[ScoredRun], Section | None]
    in_terminal: bool = False


SECTIONS = [
    Entry(short.section),
    Entry(examples.section),
    Entry(rates.section, in_terminal=True),
    Entry(metrics.section, in_terminal=True),
    Entry(spectra.section),
    Entry(retrieval.section, in_terminal=True),
    Entry(floors.section, in_terminal=True),
    Entry(tasks.section, in_terminal=True),
    Entry(transfer.section, in_terminal=True),
    Entry(comparison.section),
    Entry(truth.section, in_terminal=True),
    Entry(distributions.section),
    Entry(distances.section),
    Entry(latents.sizes),
    Entry(latents.space),
    Entry(failures.section, in_terminal=True),
    Entry(reading.section),
    Entry(provenance.the_run),
    Entry(provenance.again),
]


def page_sections(scored: ScoredRun) -> list[Section]:
    return list(_made(scored, SECTIONS))


def terminal_sections(scored: ScoredRun) -> list[Section]:
    return list(_made(scored, [entry for entry in SECTIONS if entry.in_terminal]))


def _made(scored: ScoredRun, entries: list[Entry]) -> Iterator[Section]:
    for entry in entries:
        if (section := entry.make(scored)) is not None:
            yield section
