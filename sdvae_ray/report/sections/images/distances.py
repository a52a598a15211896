"""Distances between the features of the originals' patches and those of a side, one table per extractor."""

import itertools

import polars as pl

from sdvae_ray.report.facts.outcome import DISTANCES
from sdvae_ray.report.facts.scored import ScoredRun, Values
from sdvae_ray.report.facts.table import BLOCK, Column, Section, Table, text_column

_LEAD = (
    "Between the patches of the originals and those of a side, in the feature space of each extractor. KID is the unbiased "
    "estimate, which sides of the same patches pull below 0; its paired form leaves out a patch beside itself and is 0 for an "
    "exact copy. CMMD is the distance of Jayasumana et al. with this extractor in place of CLIP. Precision, recall, density "
    "and coverage have the originals as the real set; an exact copy has precision, recall and coverage 1."
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


def _table(scored: ScoredRun, extractor: str, distances: pl.DataFrame, columns: list[Column]) -> Table:
    sides, groups = scored.sides(distances["side"]), distances["slice"].unique(maintain_order=True)
    rows: list[Values] = []
    for side, group in itertools.product(sides, groups):
        here = distances.filter((pl.col("side") == side) & (pl.col("slice") == group))
        head = {BLOCK: (side, group), "side": scored.side(side), "group": group}
        rows += [{**row, **head} for row in here.rows(named=True)]
    most = max(distances["sampled"].drop_nulls().to_list(), default=None)
    note = f"All but FID: of {most:,} patches at most, chosen by hash, the same on every side."
    lead = [text_column("side", "side", says_once=True), text_column("group", "group"), text_column("part", "part")]
    notes = [] if most is None else [note]
    return Table(f"Distances by {scored.label(extractor)}", [*lead, *columns], rows, notes)
