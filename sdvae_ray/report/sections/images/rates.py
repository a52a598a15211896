"""Rate, distortion and phenotype of every side: a row per side, and FR over the rate."""

import math
from collections.abc import Mapping, Sequence

import polars as pl

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.report.facts import outcome
from sdvae_ray.report.facts.chart import RatePoint, RatePoints
from sdvae_ray.report.facts.metrics import mean, mean_of, metric_column
from sdvae_ray.report.facts.scored import ScoredRun, Values
from sdvae_ray.report.facts.table import SIDE, Column, Section, Table
from sdvae_ray.run.cost import of_side
from sdvae_ray.schema import BITS, CODED, ENTROPY, RATES

DISTORTIONS = ("foreground_ssim", "psnr", "ssim", "ms_ssim", "lpips", "mae")  # the first of them that the run has
_MOST_DISTORTIONS = 2
_MOST_EXTRACTORS = 3
NOTE = (
    "Every side by its rate; the originals by that of their raw pixels. A latent as stored takes 16 bits a value. Coded: the bytes "
    "of files, one per RGB pass of a field, that give back the very latent that was decoded; of a codec, one per stain. Without "
    "latent_bits the files hold every float16 value. Entropy: what an ideal coder without context would need for the latent "
    "quantised to latent_bits; or to 8 bits where the reconstruction is of a latent that is not quantised: then it is no rate of "
    "this row. Seconds: of a field of view, both ways, as this run measured them on its machines, the start included; "
    "what autoencoders share is told of each. FR and mAP are means over groups, FID over groups and parts."
)


def section(scored: ScoredRun) -> Section | None:
    """Return one row per side with its rate, and a chart per extractor; None for a run of fewer than two sides."""
    rows, names = rates(scored), extractors(scored)
    if len(rows) < 2:
        return None
    labels = {name: scored.label(name) for name in names}
    columns = [
        SIDE,
        *number_columns(rows, [metric_column(scored.config, name) for name in distortions(scored)], labels),
    ]
    asked = scored.config.score.perturbation is not None
    words = "Rate, distortion, phenotype" if asked else "Rate and distortion"
    title = f"{words}; bits per pixel and stain" + (", synthetic" if scored.is_synthetic else "")
    shown = [row | {"side": scored.side(row["side"])} for row in rows]
    if asked:
        charts = [_chart(scored, rows, name) for name in names]
    else:
        charts = [_distortion_chart(scored, rows, name) for name in distortions(scored)]
    return Section(
        "rates",
        "Rate, distortion and phenotype" if asked else words,
        "Rate and phenotype" if asked else words,
        tables=[Table(title, columns, shown, [NOTE])],
        charts=[chart for chart in charts if chart.points],
    )


def number_columns(rows: Sequence[Values], distortions: Sequence[Column], labels: Mapping[str, str]) -> list[Column]:
    """Return the columns of the numbers of `rates`. distortions: of the runs. labels: of the extractors, by name."""
    columns = [Column(name, "bits", 3, unit=words, in_terminal=name != ENTROPY) for name, words in RATES.items()]
    columns += distortions
    for name, unit in labels.items():
        columns += [
            Column(f"{name} fraction_retrieved", "FR", 3, "higher", unit),
            Column(f"{name} mean_map", "mAP", 3, "higher", unit, in_terminal=False),
            Column(f"{name} fid", "FID", better="lower", unit=unit),
        ]
    return columns + [
        Column(key, heading, better="lower", unit="per field")
        for key, heading in (("core_seconds", "core-s"), ("gpu_seconds", "GPU-s"))
        if any(row.get(key) is not None for row in rows)
    ]


def extractors(scored: ScoredRun) -> list[str]:
    """Return the extractors that were scored, three at most."""
    summary = scored.scores.summary
    return scored.extractors(summary["extractor"] if summary.height else ())[:_MOST_EXTRACTORS]


def rates(scored: ScoredRun) -> list[Values]:
    """Return one row per side, the originals first, then from most bits to least.

    Keys: side; every rate of schema.RATES, in bits per pixel and stain; distortions, the mean over parts and patches; where the
    run measured it, `core_seconds` and, if it had a GPU, `gpu_seconds` of a field of view, from original to reconstruction; and per
    extractor `<extractor> fraction_retrieved` and `<extractor> mean_map`, means over groups, and `<extractor> fid`, over groups
    and parts.
    """
    pixels, metrics = scored.config.image.patch**2, scored.scores.metrics
    rows = []
    for side in [IMAGE_SIDE, *scored.config.sides]:
        row: Values = {"side": side, BITS: float(scored.config.image.scaling.bits)}
        if side != IMAGE_SIDE:
            bits = {name: mean_of(metrics, side, name) for name in RATES}
            row |= {name: None if value is None else value / pixels for name, value in bits.items()}
            row |= {name: mean_of(metrics, side, name) for name in distortions(scored)}
            if (cost := of_side(scored.costs, side)) is not None:
                row |= {"core_seconds": cost.core_seconds, "gpu_seconds": cost.gpu_seconds}
        for name in extractors(scored):
            row |= {f"{name} {key}": value for key, value in _phenotype(scored, name, side).items()}
        rows.append(row)
    return [rows[0], *sorted(rows[1:], key=lambda row: -(row[BITS] or 0))]


def distortions(scored: ScoredRun) -> list[str]:
    """Return the metrics that stand for distortion, two at most."""
    return [name for name in DISTORTIONS if name in scored.config.metrics][:_MOST_DISTORTIONS]


def _phenotype(scored: ScoredRun, extractor: str, side: str) -> dict[str, float | None]:
    """Return the means over groups of FR, mAP and the Frechet distance (itself a mean over parts)."""
    rows = [row for row in outcome.retrieval_rows(scored) if (row["extractor"], row["side"]) == (extractor, side)]
    keys = ("fraction_retrieved", "mean_map", "fid")
    return {key: mean([row[key] for row in rows if row.get(key) is not None]) for key in keys}


def _chart(scored: ScoredRun, rows: list[Values], extractor: str) -> RatePoints:
    """Return the chart of FR over the rate: of the bytes of files, if they are known."""
    points = points_of(scored, rows, extractor)
    return chart_of(f"Fraction retrieved by {scored.label(extractor)}", points, rows[0][_fraction(extractor)])


def _distortion_chart(scored: ScoredRun, rows: list[Values], metric: str) -> RatePoints:
    """Return the chart of the mean of a metric over the rate; a side without error has no finite PSNR, and is named."""
    column = metric_column(scored.config, metric)
    known = [row for row in rows[1:] if row[BITS] is not None and row[metric] is not None]
    points = [
        RatePoint(
            scored.side(row["side"]), row[CODED] or row[BITS], row[metric], is_codec=row["side"] in scored.config.codecs
        )
        for row in known
        if math.isfinite(row[metric])
    ]
    words = "mean over patches; bytes of files, as coded; circles: autoencoders; squares: codecs"
    if exact := [scored.label(row["side"]) for row in known if not math.isfinite(row[metric])]:
        words += f"; not drawn, without error: {', '.join(exact)}"
    values = [point.value for point in points] or [0.0]
    axis = ", ".join(word for word in (metric, column.unit) if word)
    axis += f" ({column.better} is better)" if column.better else ""
    return RatePoints(f"{metric} over the rate", words, axis, points, None, (min(values), max(values)))


def chart_of(title: str, points: Sequence[RatePoint], reference: float | None) -> RatePoints:
    """Return a chart of FR over the rate. reference: FR of the originals; None: there is not one for all points."""
    words = "bytes of files, as coded; circles: autoencoders; squares: codecs; lines: 95 % intervals"
    return RatePoints(
        title,
        words + ("" if reference is None else "; dashed: the originals"),
        "FR (higher is better)",
        points,
        reference,
    )


def points_of(scored: ScoredRun, rows: Sequence[Values], extractor: str) -> list[RatePoint]:
    """Return FR of every side at its rate, with its interval. rows: of `rates`."""
    key, ends, points = _fraction(extractor), _intervals(scored, extractor), []
    for row in rows[1:]:
        if row[key] is not None and row[BITS] is not None:
            low, high = ends.get(row["side"], (None, None))
            bits, is_codec = row[CODED] or row[BITS], row["side"] in scored.config.codecs
            points.append(RatePoint(scored.side(row["side"]), bits, row[key], low, high, is_codec))
    return points


def _fraction(extractor: str) -> str:
    return f"{extractor} fraction_retrieved"


def _intervals(scored: ScoredRun, extractor: str) -> dict[str, tuple[float | None, float | None]]:
    """Return side -> the interval of its FR over compounds; empty with several groups, whose mean has no interval."""
    table = scored.scores.differences
    if "quantity" not in table.columns or scored.scores.summary["group"].n_unique() > 1:
        return {}
    here = table.filter(
        (pl.col("extractor") == extractor) & (pl.col("quantity") == "fraction_retrieved") & pl.col("low").is_not_null()
    )
    return {side: (low, high) for side, low, high in here.select("side", "low", "high").iter_rows()}
