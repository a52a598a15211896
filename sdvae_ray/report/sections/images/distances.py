"""Distances between the features of the originals' patches and those of a side, one table per extractor."""

import itertools

import polars as pl

from sdvae_ray.report.facts.outcome import DISTANCES
from sdvae_ray.report.facts.scored import ScoredRun, Values
from sdvae_ray.report.facts.table import BLOCK, Column, Section, Side, Table, text_column

REFERENCES = {
    "sites": "image: half of the sites, other half",
    "plates": "image: half of the plates, other half",
    "controls": "image: controls, retrieved compounds",
}
_LEAD = (
    "Between the patches of the originals and those of a side, in the feature space of each extractor. KID is the unbiased "
    "estimate, which sides of the same patches pull below 0; its paired form leaves out a patch beside itself and is 0 for an "
    "exact copy. CMMD is the distance of Jayasumana et al. with this extractor in place of CLIP. Precision, recall, density "
    "and coverage have the originals as the real set; an exact copy has precision, recall and coverage 1. The first rows are of "
    "parts of the originals against each other: other sites of the wells, other plates, a phenotype. They have fewer patches, "
    "which makes FID larger."
)


def section(scored: ScoredRun) -> Section | None:
    """Return one table per extractor: the distances of every side, group and part; None if none was computed."""
    distances = scored.scores.distributions
    columns = [column for name, column in DISTANCES.items() if name in distances.columns]
    if distances.height == 0 or not columns:
        return None
    by_group = distances.filter(pl.col("by") == "group")
    tables = [
        _table(scored, extractor, by_group.filter(pl.col("extractor") == extractor), columns)
        for extractor in scored.extractors(by_group["extractor"])
    ]
    return Section("distances", "Distances between patches", lead=_LEAD, tables=tables)


def _references(scored: ScoredRun, extractor: str) -> list[Values]:
    """Return the distances between parts of the originals, which a side's distances are read beside."""
    table = scored.scores.references
    if table.height == 0:
        return []
    here = table.filter(pl.col("extractor") == extractor).sort("reference", maintain_order=True).rows(named=True)
    words = {name: Side(text, 0) for name, text in REFERENCES.items()}
    return [{**row, BLOCK: row["reference"], "side": words[row["reference"]], "group": row["slice"]} for row in here]


def _table(scored: ScoredRun, extractor: str, distances: pl.DataFrame, columns: list[Column]) -> Table:
    sides, groups = scored.sides(distances["side"]), distances["slice"].unique(maintain_order=True)
    rows: list[Values] = _references(scored, extractor)
    for side, group in itertools.product(sides, groups):
        here = distances.filter((pl.col("side") == side) & (pl.col("slice") == group))
        head = {BLOCK: (side, group), "side": scored.side(side), "group": group}
        rows += [{**row, **head} for row in here.rows(named=True)]
    most = max(distances["sampled"].drop_nulls().to_list(), default=None)
    lead = [text_column("side", "side", says_once=True), text_column("group", "group"), text_column("part", "part")]
    notes = []
    if most is not None:  # FID alone takes no sample
        notes.append(f"All but FID: of {most:,} patches at most, chosen by hash, the same on every side.")
    return Table(f"Distances by {scored.label(extractor)}", [*lead, *columns], rows, notes)
