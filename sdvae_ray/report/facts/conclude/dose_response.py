"""Dose and response: how a phenotype falls as the damage of a side grows, over the ladder of sides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.optimize import isotonic_regression

from sdvae_ray.report.facts.conclude.predictors import Answer, Ladder, answers, is_better_higher, turned
from sdvae_ray.report.facts.conclude.study import studies
from sdvae_ray.report.facts.scored import ScoredRun


@dataclass(frozen=True)
class DoseResponse:
    """One phenotype over the sides, from the least damage to the most.

    metric     the measure of damage: the metric that predicts best, or correlates best where none predicts
    compounds  those of the phenotype that the originals retrieve; every number is a mean over them
    image      normalised mAP of the originals
    doses      of every side, in units of the metric
    responses  normalised mAP of every side
    fit        isotonic regression of the responses on the damage: it never rises (least squares)
    half       dose at which the fit falls to half of `image`, between two sides by a straight line; None: not within the ladder
    """

    extractor: str
    group: str
    metric: str
    phenotype: str
    compounds: int
    image: float
    sides: tuple[str, ...]
    doses: tuple[float, ...]
    responses: tuple[float, ...]
    fit: tuple[float, ...]
    half: float | None


def dose_responses(runs: Sequence[ScoredRun]) -> list[DoseResponse]:
    """Return one curve per extractor, group and phenotype that the originals retrieve; empty where a ladder is too short to ask
    which metric predicts. A phenotype is a treatment by its name, whatever its compounds.
    """
    ladder = Ladder(studies(runs))
    return [curve for answer in answers(runs) if answer.metrics for curve in _curves(ladder, answer)]


def _curves(ladder: Ladder, answer: Answer) -> list[DoseResponse]:
    metric = next(iter(answer.predicting or answer.metrics))
    first = ladder.studies[0].first
    points = _points(ladder, answer, metric)
    curves = []
    for (phenotype,), rows in points.group_by("phenotype", maintain_order=True):
        by_side = (
            rows.group_by("study", "label", maintain_order=True)
            .agg(pl.col("damage", "image", "side").mean(), pl.col("compound").n_unique())
            .sort("damage", "label")
        )
        damage, image = by_side["damage"].to_numpy(), float(by_side["image"].mean())  # type: ignore[arg-type]
        fit = isotonic_regression(by_side["side"].to_numpy(), increasing=False).x
        sign = -1 if is_better_higher(first, metric) else 1
        half = _fallen_to(damage, fit, image / 2)
        curves.append(
            DoseResponse(
                answer.extractor,
                answer.group,
                metric,
                str(phenotype),
                int(by_side["compound"].max()),  # type: ignore[arg-type]
                image,
                tuple(by_side["label"]),
                tuple((sign * damage).tolist()),
                tuple(by_side["side"]),
                tuple(fit.tolist()),
                None if half is None else sign * half,
            )
        )
    return curves


def _points(ladder: Ladder, answer: Answer, metric: str) -> pl.DataFrame:
    """Return study, label, phenotype, compound, damage, image, side: one row per side and compound with a known damage."""
    rows = []
    for number, side, loss in ladder.losses(answer.extractor, answer.group):
        study = ladder.studies[number]
        names, values = study.first.treatments(), ladder.metric(number, side, metric, answer.group)
        pairs = study.pairs(answer.extractor, answer.group, side).filter(pl.col("compound").is_in(list(loss)))
        means = pairs.group_by("compound").agg(pl.col("image", "side").mean()).sort("compound")
        for compound, image, value in means.iter_rows():
            if compound in values:
                worse = turned(study.first, metric, values[compound])
                damage = float(worse[np.isfinite(worse)].mean()) if np.isfinite(worse).any() else None
                phenotype = names.get(compound, compound).removesuffix(f" ({compound})")
                rows.append((number, study.first.label(side), phenotype, compound, damage, image, value))
    schema: dict[str, type[pl.DataType]] = {"study": pl.Int64}
    schema |= dict.fromkeys(("label", "phenotype", "compound"), pl.String)
    schema |= dict.fromkeys(("damage", "image", "side"), pl.Float64)
    return pl.DataFrame(rows, schema=schema, orient="row").drop_nulls("damage").sort("phenotype", "study")


def _fallen_to(damage: np.ndarray, fit: np.ndarray, level: float) -> float | None:
    """Return the damage at which the fit, which never rises, reaches a level; None if it starts below it or stays above it."""
    below = np.flatnonzero(fit <= level)
    if not len(below) or below[0] == 0:
        return None
    at = int(below[0])
    share = (fit[at - 1] - level) / (fit[at - 1] - fit[at])
    return float(damage[at - 1] + share * (damage[at] - damage[at - 1]))
