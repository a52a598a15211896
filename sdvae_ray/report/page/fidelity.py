"""Sections of the report on how a side differs: which spatial frequencies it loses, and how far apart its patches' features are."""

import itertools

import polars as pl

from sdvae_ray.config import RunConfig
from sdvae_ray.report.facts import findings
from sdvae_ray.report.facts.findings import label, number
from sdvae_ray.report.facts.outcome import DISTANCES
from sdvae_ray.report.page import charts
from sdvae_ray.report.page.charts import Chart
from sdvae_ray.report.page.curves import Curve, curves
from sdvae_ray.report.page.markup import NUMBER, cell, head, note, paragraph, row, row_head, section, swatch, table
from sdvae_ray.report.page.sections import by, named
from sdvae_ray.report.page.views import chart_grid
from sdvae_ray.run.scores import Scores


def spectra_section(config: RunConfig, scores: Scores) -> str:
    """Every metric with bands: per part a curve of each side's median over patches."""
    banded = scores.metrics.filter(pl.col("band").is_not_null())
    if banded.height == 0:
        return ""
    drawn = []
    for metric, part in itertools.product(
        banded["metric"].unique(maintain_order=True), banded["part"].unique(maintain_order=True)
    ):
        here = banded.filter((pl.col("metric") == metric) & (pl.col("part") == part))
        if here.height:
            drawn.append(_spectrum(config, metric, part, here))
    legend = "".join(f"<li>{named(config, side)}</li>" for side in findings.sides(config, banded["side"]))
    what = (
        "Power of the reconstruction over that of the original in each octave of wavelength, the median over patches: 1 (dashed) "
        "is kept, 0 is lost, above 1 is invented."
    )
    return section(
        "spectra", "Which frequencies are lost", paragraph(what), f'<ul class="legend">{legend}</ul>', chart_grid(drawn)
    )


def _spectrum(config: RunConfig, metric: str, part: str, here: pl.DataFrame) -> Chart:
    bands = here["band"].unique(maintain_order=True).to_list()
    lines = []
    for side in findings.sides(config, here["side"]):
        values = dict(here.filter(pl.col("side") == side).select("band", "median").iter_rows())
        curve = tuple(values.get(band) for band in bands)
        lines.append(Curve(label(config, side), charts.series(config, side), curve))
    title = f"{metric}, {part}"
    return Chart(title, "", curves(title, "wavelength", "reconstruction / original", bands, lines))


def distances_section(config: RunConfig, scores: Scores) -> str:
    found = scores.distributions
    shown = [name for name in DISTANCES if name in found.columns]
    if found.height == 0 or not shown:
        return ""
    found = found.filter(pl.col("by") == "group")
    tables = []
    for extractor in findings.extractors(config, found["extractor"]):
        here = found.filter(pl.col("extractor") == extractor)
        body: list[str] = []
        for side, group in itertools.product(
            findings.sides(config, here["side"]), here["slice"].unique(maintain_order=True)
        ):
            rows = here.filter((pl.col("side") == side) & (pl.col("slice") == group))
            for at, each in enumerate(rows.rows(named=True)):
                lead = row_head(named(config, side) if at == 0 else swatch(charts.series(config, side)))
                texts = [cell(by(config, "", group).strip(", ") or "all"), cell(each["part"])]
                texts += [cell(number(each[name]), NUMBER) for name in shown]
                body.append(row([lead, *texts], "gap" if at == 0 and body else ""))
        heads = [head("side"), head("group"), head("part"), *(head(DISTANCES[name], NUMBER) for name in shown)]
        sampled = here["sampled"].max() if here["sampled"].drop_nulls().len() else None
        caption = f"Extractor: {label(config, extractor)}"
        tables += [table(caption, heads, body, "tight"), note(_sampled(sampled))]
    what = (
        "Between the patches of the originals and those of a side, in the feature space of each extractor. KID is the unbiased "
        "estimate, which sides of the same patches pull below 0; its paired form leaves out a patch beside itself and is 0 for an "
        "exact copy. CMMD is the distance of Jayasumana et al. with this extractor in place of CLIP. Precision, recall, density "
        "and coverage have the originals as the real set; an exact copy has precision, recall and coverage 1."
    )
    return section("distances", "Distances between patches", paragraph(what), *tables)


def _sampled(patches: object) -> str:
    return (
        ""
        if patches is None
        else f"All but FID: of {patches:,} patches at most, chosen by hash, the same on every side."
    )
