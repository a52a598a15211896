"""Which frequencies are lost: of every metric with bands, per part, a curve of each side's median over patches."""

import polars as pl

from sdvae_ray.report.facts.chart import Curve, Curves
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Section

_LEAD = (
    "Power of the reconstruction over that of the original in each octave of wavelength, the median over patches: 1 (dashed) "
    "is kept, 0 is lost, above 1 is invented."
)


def section(scored: ScoredRun) -> Section | None:
    banded = scored.scores.metrics.filter(pl.col("band").is_not_null())
    if banded.height == 0:
        return None
    charts = [
        _spectrum(scored, f"{metric}, {part}", rows)
        for (metric, part), rows in banded.group_by("metric", "part", maintain_order=True)
    ]
    legend = [scored.side(side) for side in scored.sides(banded["side"])]
    return Section("spectra", "Which frequencies are lost", lead=_LEAD, legend=legend, charts=charts)


def _spectrum(scored: ScoredRun, title: str, rows: pl.DataFrame) -> Curves:
    bands = rows["band"].unique(maintain_order=True).to_list()
    curves = []
    for side in scored.sides(rows["side"]):
        medians = dict(rows.filter(pl.col("side") == side).select("band", "median").iter_rows())
        curves.append(Curve(scored.side(side), tuple(medians.get(band) for band in bands)))
    return Curves(title, "", "wavelength", "reconstruction / original", bands, curves)
