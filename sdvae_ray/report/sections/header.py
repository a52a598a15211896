"""The head of the report: one sentence and a few counts about the run, and the warnings that come before any number."""

from dataclasses import dataclass

import polars as pl

from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.schema import PLATE_KEY

_NAMED = 3  # sides that the title names


@dataclass(frozen=True)
class Header:
    """The head of the page.

    subject: the sides in words. title: the question that the run answers. tiles: what is counted -> the count. synthetic: the
    images are drawn.
    """

    subject: str
    title: str
    lead: str
    tiles: dict[str, str]
    random_weights: list[str]
    synthetic: bool


def header(scored: ScoredRun) -> Header:
    """Return the subject, the counts and the warnings of the page's head."""
    config = scored.config
    shelves = ((config.autoencoders, "autoencoder"), (config.codecs, "codec"))
    kinds = {kind if len(shelf) == 1 else f"{kind}s": len(shelf) for shelf, kind in shelves if shelf}
    few = len(config.sides) <= _NAMED
    subject = _listed([scored.label(side) for side in config.sides] if few else [f"{n} {k}" for k, n in kinds.items()])
    kind, used = "synthetic " if scored.is_synthetic else "", scored.usable.height
    asked = config.score.perturbation is not None
    lead = f"{used:,} {kind}fields of view went through {subject}. Originals and reconstructions were measured"
    if config.extractors:
        lead += f" and embedded by {_listed([scored.label(name) for name in config.extractors])}"
    question = "are the replicates of a compound closer to each other than to the negative controls?"
    lead += f", and asked the same question: {question}" if asked else "."
    tiles = {
        f"usable {kind}fields of view": f"{used:,} / {expected_fovs(scored):,}",
        f"patches of {config.image.patch} pixels": f"{scored.patches:,}",
    }
    for key, name in ((PLATE_KEY, "plate"), ([config.score.perturbation], "perturbation")):
        columns = [column for column in key if column in scored.fovs.columns]
        if key[-1] in columns:
            known = scored.fovs.filter(pl.col(key[-1]).is_not_null() & (pl.col(key[-1]) != ""))
            count = known.select(columns).n_unique()
            tiles[name if count == 1 else f"{name}s"] = f"{count:,}"
    tiles |= {name: str(count) for name, count in kinds.items()}
    return Header(subject, title_of(subject, asked), lead, tiles, config.random_weights, scored.is_synthetic)


def title_of(subject: str, asks_for_phenotypes: bool) -> str:
    """Return the title of a page. subject: the sides in words. asks_for_phenotypes: its run has compounds to retrieve."""
    return f"{'Does the phenotype survive' if asks_for_phenotypes else 'How much of the images survives'} {subject}?"


def expected_fovs(scored: ScoredRun) -> int:
    """Return the number of fields of view in the manifest; without run.json the number that were tried."""
    return int(scored.record["manifest"]["fovs"]) if scored.record else scored.fovs.height


def _listed(names: list[str]) -> str:
    return " and ".join(", ".join(names).rsplit(", ", 1))
