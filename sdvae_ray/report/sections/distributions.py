"""Metrics per stain: the distribution of every metric over patches, per stain or RGB pass and side."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from sdvae_ray.distributions.quantiles import nearest_quantiles
from sdvae_ray.randomness import generator
from sdvae_ray.report.facts.chart import Strip, Strips
from sdvae_ray.report.facts.metrics import metric_columns
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Column, Section
from sdvae_ray.schema import METRICS, metrics_table

SAMPLE = 20_000  # fields of view whose patches make the distributions
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MARKS = "dot, the median; thick bar, the middle half; thin line, 5 to 95\u00a0%."
_AXES = {"higher": "higher is better →", "lower": "← lower is better", "": "neither end is better"}


def section(scored: ScoredRun) -> Section | None:
    usable, prefix = scored.usable, f"{METRICS}/"
    measured = [table.removeprefix(prefix) for table in scored.run.tables() if table.startswith(prefix)]
    columns = metric_columns(scored)
    if usable.height == 0 or not measured or not columns:
        return None
    fovs, sides = sampled(scored), scored.sides(measured)
    of = f" of {usable.height:,}" if fovs.height < usable.height else ""
    return Section(
        "distributions",
        "Metrics per stain",
        "Per stain",
        lead=f"Every patch of {fovs.height:,}{of} usable fields: {_MARKS}",
        legend=[scored.side(side) for side in scored.config.sides],
        charts=[_chart(scored, column, sides, fovs) for column in columns],
    )


def sampled(scored: ScoredRun) -> pl.DataFrame:
    """Usable fields of view of whole files, chosen by hash, enough for the distributions of a large run."""
    file = pl.col("files").list.first()
    counts = dict(scored.usable.group_by(file).len().rows())
    names = sorted(counts)
    total, kept = 0, []
    for index in generator(scored.config.seed, "files").permutation(len(names)):
        if total < SAMPLE:
            kept.append(names[index])
            total += counts[names[index]]
    return scored.usable.filter(file.is_in(kept))


def _chart(scored: ScoredRun, column: Column, sides: Sequence[str], fovs: pl.DataFrame) -> Strips:
    values = {side: scored.run.read(metrics_table(side), column.key, fovs).values for side in sides}
    values = {side: patches.reshape(*patches.shape[:2], -1) for side, patches in values.items()}
    known = {side: patches for side, patches in values.items() if not np.isnan(patches).all()}
    parts = []
    for index, part in enumerate(scored.config.image.parts(max(patches.shape[2] for patches in values.values()))):
        quantiles = {side: nearest_quantiles(patches[:, :, index], QUANTILES) for side, patches in known.items()}
        parts.append((part, [Strip(scored.side(side), tuple(five)) for side, five in quantiles.items() if five]))
    absent = ", ".join(scored.label(side) for side in sides if side not in known)
    title = f"{column.heading}{f', {column.unit}' if column.unit else ''}"
    words = f"does not apply to {absent}" if absent else ""
    return Strips(title, words, f"{title}   ({_AXES[column.better]})", parts if known else [])
