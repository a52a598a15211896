"""Originals against reconstructions: FR of each side and of the originals, and mAP compound by compound."""

import itertools

import numpy as np
import polars as pl

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.randomness import generator
from sdvae_ray.report.facts import outcome
from sdvae_ray.report.facts.chart import Dumbbell, Dumbbells, Point, Scatter
from sdvae_ray.report.facts.outcome import FRACTION
from sdvae_ray.report.facts.scored import ScoredRun, Values
from sdvae_ray.report.facts.table import NONE, Section

POINTS = 1_500  # compounds of one scatter plot
_HEAD = ("fr", "Originals against reconstructions", "Comparison")


def section(scored: ScoredRun) -> Section | None:
    """Return the section; None for a run without a perturbation. content: the charts of compounds, and the key of their marks."""
    if scored.config.score.perturbation is None:
        return None
    fractions = fraction_chart(scored)
    if not fractions.rows:
        return Section(*_HEAD, lead="No compound was scored, so there is nothing to compare.")
    sides = [scored.side(side) for side in (IMAGE_SIDE, *scored.config.sides)]
    return Section(*_HEAD, legend=sides, charts=[fractions], template="comparison.html", content=map_charts(scored))


def fraction_chart(scored: ScoredRun) -> Dumbbells:
    """Return the chart of fractions retrieved from the originals and from each reconstruction; no row if nothing was scored."""
    rows = [row for row in outcome.retrieval_rows(scored) if row.get(FRACTION) is not None]
    originals = {(row["extractor"], row["group"]): row for row in rows if row["side"] == IMAGE_SIDE}
    compared = {(row["extractor"], row["group"]) for row in rows if row["side"] != IMAGE_SIDE}
    dumbbells = []
    for row in rows:
        key = row["extractor"], row["group"]
        image, names, side = originals.get(key), (scored.label(key[0]), key[1]), scored.side(row["side"])
        if row["side"] != IMAGE_SIDE:
            counts = f"{_counts(image)} → {_counts(row)}" if image else f"{_counts(row)} (originals not scored)"
            fraction = None if image is None else image[FRACTION]
            dumbbells.append(Dumbbell(*names, side, fraction, row[FRACTION], counts))
        elif key not in compared:
            dumbbells.append(Dumbbell(*names, side, row[FRACTION], None, _counts(row)))
    axis = "fraction of compounds retrieved (FR, higher is better →)"
    return Dumbbells("Fraction of compounds retrieved", "", axis, dumbbells)


def _counts(row: Values) -> str:
    retrieved, among = (row.get(name) for name in ("retrieved", "compounds_scored"))
    return f"{NONE if retrieved is None else retrieved}/{NONE if among is None else among}"


def map_charts(scored: ScoredRun) -> list[Scatter]:
    """Return a chart per extractor and reconstruction: mAP of every compound against its mAP on the originals."""
    compounds = scored.scores.compounds
    if compounds.height == 0:
        return []
    known = compounds.filter(pl.col("map").is_not_null())
    charts = []
    for extractor, side in itertools.product(scored.extractors(known["extractor"]), scored.sides(known["side"])):
        here = known.filter(pl.col("extractor") == extractor)
        originals, recon = (here.filter(pl.col("side") == name) for name in (IMAGE_SIDE, side))
        pairs = originals.join(recon, on=["group", "compound"], how="inner", suffix="_recon", maintain_order="left")
        if side == IMAGE_SIDE or pairs.height == 0:
            continue
        points, label = _points(scored.config, pairs), scored.label(side)
        drawn = f", {len(points):,} drawn" if len(points) < pairs.height else ""
        title = f"{label} by {scored.label(extractor)}"
        words = f"{pairs.height:,} compounds{drawn}"
        charts.append(Scatter(title, words, "mAP on the originals", f"mAP on {label}", points))
    return charts


def _points(config: RunConfig, pairs: pl.DataFrame) -> list[Point]:
    if pairs.height > POINTS:
        chosen = np.sort(generator(config.seed, "points").permutation(pairs.height)[:POINTS])
        pairs = pairs.sort("group", "compound")[chosen.tolist()]
    many = pairs["group"].n_unique() > 1
    columns = ("compound", "group", "map", "map_recon", "retrieved", "retrieved_recon")
    return [
        Point(f"{compound} [{group}]" if many else compound, x, y, bool(on_image), bool(on_recon))
        for compound, group, x, y, on_image, on_recon in pairs.select(columns).rows()
    ]
