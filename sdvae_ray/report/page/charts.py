"""From scores to charts: which values each figure of the report is given."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.randomness import generator
from sdvae_ray.report.facts import findings
from sdvae_ray.report.facts.findings import NONE, MetricHead, label
from sdvae_ray.report.facts.outcome import Retrieval
from sdvae_ray.report.page import figures
from sdvae_ray.report.page.figures import Dumbbell, Point, Strip
from sdvae_ray.run.scores import Scores, metric_values
from sdvae_ray.run.tables import data_tables
from sdvae_ray.schema import METRICS
from sdvae_ray.storage import Storage

SAMPLE = 20_000  # FOVs whose patches make the distributions
POINTS = 1_500  # compounds of one scatter plot
COLOURS = 11  # of the style sheet, beside that of the originals
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Chart:
    """`more`: what is said beside the title, such as what could not be drawn."""

    title: str
    more: str
    svg: str


def series(config: RunConfig, side: str) -> int:
    """Number of a side's colour: 0 for the originals."""
    if side == IMAGE_SIDE:
        return 0
    return 1 + config.sides.index(side) % COLOURS if side in config.sides else COLOURS


def sampled(config: RunConfig, usable: pl.DataFrame) -> pl.DataFrame:
    """FOVs of whole files, chosen by hash, enough for the distributions of a large run."""
    counts = dict(usable.group_by(pl.col("files").list.first()).len().rows())
    names = sorted(counts)
    total, kept = 0, []
    for at in generator(config.seed, "files").permutation(len(names)):
        if total < SAMPLE:
            kept.append(names[at])
            total += counts[names[at]]
    return usable.filter(pl.col("files").list.first().is_in(kept))


def metric_charts(config: RunConfig, scores: Scores, usable: pl.DataFrame, storage: Storage) -> list[Chart]:
    """One chart per metric: the distribution over patches, per stain (or pass) and side."""
    found = [table.split("/")[1] for table in data_tables(config.output, storage) if table.startswith(f"{METRICS}/")]
    if usable.height == 0 or not found:
        return []
    fovs = sampled(config, usable)
    sides = findings.sides(config, found)
    names = [head.name for head in findings.metric_heads(config, scores.metrics)]
    return [_metric_chart(config, name, sides, fovs, storage) for name in names]


def _metric_chart(config: RunConfig, name: str, sides: Sequence[str], fovs: pl.DataFrame, storage: Storage) -> Chart:
    values = {side: metric_values(config.output, side, name, fovs, storage) for side in sides}
    known = {side: each for side, each in values.items() if not np.isnan(each).all()}
    parts = max((each.shape[2] for each in values.values()), default=0)
    rows = []
    for part, part_name in enumerate(config.image.parts(parts)):
        strips = []
        for side, each in known.items():
            quantiles = _quantiles(each[:, :, part])
            if quantiles is not None:
                strips.append(Strip(label(config, side), series(config, side), quantiles))
        rows.append((part_name, strips))
    absent = ", ".join(label(config, side) for side in sides if side not in known)
    head = findings.metric_head(config, name)
    title = f"{name}{f', {head.unit}' if head.unit else ''}"
    return Chart(
        title,
        f"does not apply to {absent}" if absent else "",
        figures.strips(title, _axis(head), rows) if known else "",
    )


def _axis(head: MetricHead) -> str:
    better = {"higher": "higher is better →", "lower": "← lower is better"}.get(head.better, "neither end is better")
    return f"{head.name}{f', {head.unit}' if head.unit else ''}   ({better})"


def _quantiles(values: np.ndarray) -> tuple[float, float, float, float, float] | None:
    """Of what is not NaN, each one of the values, so that infinity stays infinity."""
    known = np.sort(values[~np.isnan(values)].astype(np.float64))
    if len(known) == 0:
        return None
    low, first, middle, third, high = (float(known[round(q * (len(known) - 1))]) for q in QUANTILES)
    return low, first, middle, third, high


def fraction_chart(config: RunConfig, rows: Sequence[Retrieval]) -> str:
    """Fraction retrieved from the originals beside each reconstruction's; "" where nothing was scored."""
    scored = [row for row in rows if row.fraction is not None]
    originals = {(row.extractor, row.group): row for row in scored if row.side == IMAGE_SIDE}
    compared = {(row.extractor, row.group) for row in scored if row.side != IMAGE_SIDE}
    drawn = []
    for row in scored:
        image = originals.get((row.extractor, row.group))
        names = label(config, row.extractor), row.group, label(config, row.side)
        colour = series(config, row.side)
        if row.side == IMAGE_SIDE:
            if (row.extractor, row.group) not in compared:
                drawn.append(Dumbbell(*names, colour, row.fraction, None, _counts(row)))
        elif image is None:
            drawn.append(Dumbbell(*names, colour, None, row.fraction, f"{_counts(row)} (originals not scored)"))
        else:
            counts = f"{_counts(image)} → {_counts(row)}"
            drawn.append(Dumbbell(*names, colour, image.fraction, row.fraction, counts))
    axis = "fraction of compounds retrieved (FR, higher is better →)"
    return figures.dumbbells("Fraction of compounds retrieved", axis, drawn) if drawn else ""


def _counts(row: Retrieval) -> str:
    return f"{NONE if row.retrieved is None else row.retrieved}/{NONE if row.scored is None else row.scored}"


def map_charts(config: RunConfig, scores: Scores) -> list[Chart]:
    """Per extractor and reconstruction: mAP of every compound against the originals'."""
    compounds = scores.compounds
    if compounds.height == 0:
        return []
    known = compounds.filter(pl.col("map").is_not_null())
    names = itertools.product(findings.extractors(config, known["extractor"]), findings.sides(config, known["side"]))
    charts = []
    for extractor, side in names:
        here = known.filter(pl.col("extractor") == extractor)
        originals = here.filter(pl.col("side") == IMAGE_SIDE)
        if side == IMAGE_SIDE or originals.height == 0:
            continue
        pairs = originals.join(
            here.filter(pl.col("side") == side), on=["group", "compound"], how="inner", suffix="_recon"
        )
        points = _points(config, pairs)
        if not points:
            continue
        title = f"{label(config, side)} by {label(config, extractor)}"
        drawn = f", {len(points):,} drawn" if len(points) < pairs.height else ""
        axes = "mAP on the originals", f"mAP on {label(config, side)}"
        charts.append(Chart(title, f"{pairs.height:,} compounds{drawn}", figures.scatter(title, *axes, points)))
    return charts


def _points(config: RunConfig, pairs: pl.DataFrame) -> list[Point]:
    if pairs.height > POINTS:
        chosen = np.sort(generator(config.seed, "points").permutation(pairs.height)[:POINTS])
        pairs = pairs.sort("group", "compound")[chosen.tolist()]
    many = pairs["group"].n_unique() > 1
    return [
        Point(
            f"{row['compound']} [{row['group']}]" if many else row["compound"],
            row["map"],
            row["map_recon"],
            bool(row["retrieved"]),
            bool(row["retrieved_recon"]),
        )
        for row in pairs.to_dicts()
    ]
