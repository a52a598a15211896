"""Reconstruction quality: the mean of every metric per side, its distribution over patches, and the lost frequencies."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from sdvae_ray.distributions.quantiles import nearest_quantiles
from sdvae_ray.engine.columns import measures_posterior
from sdvae_ray.report.facts.chart import Curve, Curves, Strip, Strips
from sdvae_ray.report.facts.metrics import against_stains, metric_columns, plain_metrics, shown_mean
from sdvae_ray.report.facts.sample import sampled
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import SIDE, Column, Row, Section, Table
from sdvae_ray.run.stored.field_values import of_patches
from sdvae_ray.schema import METRICS, metrics_table

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MARKS = "dot, the median; thick bar, the middle half; thin line, 5 to 95\u00a0%."
_AXES = {"higher": "higher is better →", "lower": "← lower is better", "": "neither end is better"}
_HEAD = ("metrics", "Reconstruction quality", "Quality")
_ARROWS = "↑ higher is better, ↓ lower is better, – does not apply."
_LEAD = (
    "Power of the reconstruction over that of the original in each octave of wavelength, the median over patches: 1 (dashed) "
    "is kept, 0 is lost, above 1 is invented."
)


def means(scored: ScoredRun) -> Section:
    """Return one row per side: the mean of every metric."""
    plain, columns = plain_metrics(scored.scores.metrics), metric_columns(scored)
    rows: list[Row] = [
        {"side": scored.side(side)} | {column.key: shown_mean(plain, side, column.key) for column in columns}
        for side in scored.sides(plain["side"])
    ]
    if not rows:
        return Section(*_HEAD, reasons=["No metrics: no side has a usable field of view."])
    title = "Metrics, mean over patches and stains" + (" of synthetic images" if scored.is_synthetic else "")
    notes = [f"Mean over all patches, then over stains (kld: RGB passes). {_ARROWS}"]
    brief = f"{_ARROWS} ssim is SSIM, not 1 - SSIM."
    return Section(*_HEAD, tables=[Table(title, [SIDE, *columns], rows)], notes=notes, brief=brief)


def spectra(scored: ScoredRun) -> Section | None:
    """Return, for every metric with bands and every part, a curve per side of the median over patches;
    None without such a metric.
    """
    metrics = scored.scores.metrics
    leaks = against_stains(scored.config)
    banded = metrics.filter(pl.col("band").is_not_null() & ~pl.col("metric").is_in(leaks))
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


def distributions(scored: ScoredRun) -> Section | None:
    """Return the distribution of every metric over patches, per stain or RGB pass and side; None without values."""
    usable, prefix = scored.usable, f"{METRICS}/"
    measured = [table.removeprefix(prefix) for table in scored.run.tables() if table.startswith(prefix)]
    columns = metric_columns(scored)
    if usable.height == 0 or not measured or not columns:
        return None
    fovs, sides = sampled(scored), scored.sides(measured)
    total = f" of {usable.height:,}" if fovs.height < usable.height else ""
    lead = f"Every patch of {fovs.height:,}{total} usable fields: {_MARKS}"
    charts = [_strips(scored, column, sides, fovs) for column in columns]
    legend = [scored.side(side) for side in scored.config.sides]
    return Section("distributions", "Metrics per stain", "Per stain", lead=lead, legend=legend, charts=charts)


def _strips(scored: ScoredRun, column: Column, sides: Sequence[str], fovs: pl.DataFrame) -> Strips:
    values = {side: scored.run.read(metrics_table(side), column.key, fovs).values for side in sides}
    patches_of = {side: of_patches(of_side) for side, of_side in values.items()}
    flat = {side: patches.reshape(len(patches), -1) for side, patches in patches_of.items()}
    known = {side: patches for side, patches in flat.items() if not np.isnan(patches).all()}
    strips: dict[str, list[Strip]] = {}  # sides may have different RGB passes
    for side, patches in known.items():
        latent_of = side if measures_posterior(scored.config, column.key) else None
        for index, part in enumerate(scored.config.parts(patches.shape[1], latent_of)):
            of_part = strips.setdefault(part, [])
            if five := nearest_quantiles(patches[:, index], QUANTILES):
                of_part.append(Strip(scored.side(side), tuple(five)))
    absent = ", ".join(scored.label(side) for side in sides if side not in known)
    title = f"{column.heading}{f', {column.unit}' if column.unit else ''}"
    words = f"does not apply to {absent}" if absent else ""
    return Strips(title, words, f"{title}   ({_AXES[column.better]})", list(strips.items()))
