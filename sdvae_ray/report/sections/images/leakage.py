"""Leakage between stains: for every side and stain, the stain whose fine texture its error follows most."""

import polars as pl

from sdvae_ray.report.facts.metrics import against_stains
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import SIDE, Beside, Column, Row, Section, Table

_NOTE = (
    "The error of a stain (columns) and the stain whose fine detail correlates with it most, with r, the median over patches where "
    "cells are. Near 0: no leak. A stain that is packed alone cannot leak, but stains share structure: compare sides, and with "
    "grey packing. The whole matrix: scores/metrics.parquet."
)
_BRIEF = "r of a stain's error and the fine detail of the other stain that it follows most; near 0: no leak."


def section(scored: ScoredRun) -> Section | None:
    """Return a table per metric that compares stains: one row per side, one column per stain; None without such a metric."""
    tables = []
    for metric in against_stains(scored.config):
        rows = scored.scores.metrics.filter((pl.col("metric") == metric) & pl.col("median").is_not_null())
        if rows.height:
            tables.append(_table(scored, metric, rows))
    return Section("leakage", "Leakage between stains", tables=tables, brief=_BRIEF) if tables else None


def _table(scored: ScoredRun, metric: str, medians: pl.DataFrame) -> Table:
    columns = [Column(stain, stain, 2, signed=True) for stain in scored.config.image.stains]
    rows: list[Row] = []
    for side in scored.sides(medians["side"]):
        row: dict[str, Beside] = {}
        for stain in scored.config.image.stains:
            of_stain = medians.filter((pl.col("side") == side) & (pl.col("part") == stain))
            if of_stain.height:
                strongest = of_stain.sort(pl.col("median").abs(), descending=True, maintain_order=True).row(
                    0, named=True
                )
                row[stain] = Beside(strongest["median"], strongest["band"])
        rows.append({"side": scored.side(side), **row})
    return Table(f"Strongest {metric} of every stain's error", [SIDE, *columns], rows, [_NOTE])
