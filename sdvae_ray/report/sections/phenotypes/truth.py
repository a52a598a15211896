"""The scores by the known truth of the metadata: the phenotype and strength of the compounds."""

from dataclasses import dataclass

import polars as pl

from sdvae_ray.report.facts.scored import GROUP, PHENOTYPE, STRENGTH, TRUTH, ScoredRun
from sdvae_ray.report.facts.table import BLOCK, NONE, Beside, Column, Row, Section, Table, text_column

_LEAD = (
    "What was put into the wells, beside what was found: normalised mAP (1 is perfect, 0 is what chance gives) and whether "
    "the compound was retrieved; of several compounds, how many. Strong phenotypes should be found, inactive compounds not."
)


@dataclass(frozen=True)
class TruthCell:
    """Compounds of one phenotype and strength on one side. normalised_map: their mean. retrieved, scored: compounds, scored are
    those with a p. compounds: all of them."""

    normalised_map: float | None
    retrieved: int
    scored: int
    compounds: int

    @property
    def verdict(self) -> str:
        """Return yes or no for one compound, `retrieved/scored` for several, NONE if none was scored."""
        if self.scored == 0:
            return NONE
        if self.compounds == 1:
            return "yes" if self.retrieved else "no"
        return f"{self.retrieved}/{self.scored}"


@dataclass(frozen=True)
class TruthRow:
    """One phenotype and strength. cells: side -> its compounds."""

    extractor: str
    group: str
    phenotype: str
    strength: str
    cells: dict[str, TruthCell]

    @property
    def degree(self) -> float:
        """Return the strength as a number; -1 if it is not a number."""
        try:
            return float(self.strength)
        except ValueError:
            return -1.0


def section(scored: ScoredRun) -> Section | None:
    """Return one table per extractor by phenotype and strength; None if the metadata has no truth."""
    rows = truth_rows(scored)
    if not rows:
        return None
    title = "Synthetic truth" if scored.is_synthetic else "Known truth"
    many = len({row.group for row in rows}) > 1
    tables = []
    for extractor in scored.extractors(row.extractor for row in rows):
        here = [row for row in rows if row.extractor == extractor]
        columns = [text_column("phenotype", "phenotype", keeps=20), *([GROUP] if many else [])]
        columns.append(Column("strength", "strength"))
        columns += [scored.side_column(side, 2) for side in scored.sides(side for row in here for side in row.cells)]
        shown: list[Row] = [
            {
                BLOCK: f"{row.group} {row.phenotype}",
                "phenotype": row.phenotype,
                "group": row.group,
                "strength": row.strength or NONE,
                **{side: Beside(cell.normalised_map, cell.verdict) for side, cell in row.cells.items()},
            }
            for row in here
        ]
        by = f"{title} by {scored.label(extractor)}: normalised mAP and, beside it, retrieved"
        tables.append(Table(by, columns, shown))
    return Section("truth", title, lead=_LEAD, tables=tables)


def truth_rows(scored: ScoredRun) -> list[TruthRow]:
    """Return scores by the phenotype and strength of the compounds; empty if the metadata has neither.

    Strong before weak, and compounds without a phenotype last.
    """
    compound, compounds, fovs = scored.config.score.perturbation, scored.scores.compounds, scored.fovs
    if compound not in fovs.columns or compounds.height == 0 or not {PHENOTYPE, TRUTH} & set(fovs.columns):
        return []
    phenotype = PHENOTYPE if PHENOTYPE in fovs.columns else TRUTH
    strength = pl.col(STRENGTH) if STRENGTH in fovs.columns else pl.lit("")
    known = fovs.select(compound=pl.col(compound), phenotype=pl.col(phenotype), strength=strength.fill_null(""))
    known = known.drop_nulls().unique(maintain_order=True)
    known = known.filter(~pl.col("compound").is_duplicated())  # the same compound with two truths has none
    retrieved = pl.col("retrieved").cast(pl.Boolean)
    key = ("extractor", "group", "phenotype", "strength", "side")
    counts = (
        compounds.join(known, on="compound", how="inner", maintain_order="left")
        .group_by(key, maintain_order=True)
        .agg(pl.col("normalised_map").mean(), retrieved.sum(), scored=retrieved.count(), compounds=pl.len())
    )
    by_side: dict[tuple[str, str, str, str], dict[str, TruthCell]] = {}
    for extractor, group, kind, degree, side, *numbers in counts.rows():
        by_side.setdefault((extractor, group, kind, degree), {})[side] = TruthCell(*numbers)
    rows = [TruthRow(*key, cells=cells_of) for key, cells_of in by_side.items()]
    order = scored.extractors(row.extractor for row in rows)
    return sorted(
        rows, key=lambda row: (order.index(row.extractor), row.group, row.degree == 0, row.phenotype, -row.degree)
    )
