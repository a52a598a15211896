"""Which metric should one use? Every metric against the phenotype that sides lose, over the sides of one or more runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType

import numpy as np
import polars as pl

from sdvae_ray import shelves
from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.errors import DataError
from sdvae_ray.report.facts.conclude.study import Study, studies
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.retrieval.significance.prediction import Prediction, prediction
from sdvae_ray.run.cost import Cost, added, of_metric
from sdvae_ray.run.stored.field_values import per_field
from sdvae_ray.schema import ERROR, FOV_ID, WELL_KEY, metrics_table

LEAST_SIDES, LEAST_FAMILIES, LEAST_COMPOUNDS = 15, 3, 3


@dataclass(frozen=True)
class Answer:
    """The metrics of one extractor and group, from the best correlation down; or `reason`, why the question has no answer."""

    extractor: str
    group: str
    metrics: dict[str, Prediction] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # metric -> why
    parts: dict[str, list[str]] = field(default_factory=dict)  # metric -> names of its parts
    costs: dict[str, Cost] = field(
        default_factory=dict
    )  # metric -> its cost for one side of a field, as far as it was measured
    reason: str = ""

    @property
    def predicting(self) -> list[str]:
        """Return the metrics that predict, from the best correlation down."""
        return [name for name, metric in self.metrics.items() if metric.predicts]

    @property
    def cheapest(self) -> str | None:
        """Return the metric that predicts at the least core-seconds and GPU-seconds together; None: not measured of all."""
        if not self.predicting or not all(name in self.costs for name in self.predicting):
            return None
        return min(
            self.predicting, key=lambda name: self.costs[name].core_seconds + (self.costs[name].gpu_seconds or 0)
        )


def answers(runs: Sequence[ScoredRun]) -> list[Answer]:
    """Return one answer per extractor and group that was scored on the originals; sides of all runs are one ladder.

    A side that changes no score is left out (identity, lossless codecs). Compounds are those that the originals retrieve: the
    others have no phenotype to lose.
    """
    ladder = Ladder(studies(runs))
    return [_answer(ladder, extractor, group) for extractor, group in ladder.places]


def family(run: ScoredRun, side: str) -> str:
    """Return the family of a side: the codec's kind, or the autoencoder with its weights, whatever its latent_bits."""
    config = run.config
    if side in config.codecs:
        return config.codecs[side].name
    settings = config.autoencoders[side]
    return f"{settings.name} {settings.source or settings.options.get('weights_seed', '')}".strip()


class Ladder:
    """The sides of several studies: losses by compound, and metrics by compound."""

    def __init__(self, parts: list[Study]) -> None:
        self.studies = parts
        images = [
            part.wells.filter(pl.col("side") == IMAGE_SIDE).select("extractor", "group").unique() for part in parts
        ]
        rows = {row for image in images for row in image.iter_rows()}
        self.places = sorted(rows)

    @cached_property
    def _fields(self) -> list[list[pl.DataFrame]]:
        """Return for every study and run the usable fields of treated wells: fov_id, files, group, compound."""
        return [_fields_of(study) for study in self.studies]

    def losses(self, extractor: str, group: str) -> list[tuple[int, str, dict[str, float]]]:
        """Return (number of the study, side, compound -> loss) of every side that loses or gains anything."""
        losses = []
        for number, study in enumerate(self.studies):
            retrieved = study.of_originals(extractor, group)
            for side in study.first.config.sides:
                pairs = study.pairs(extractor, group, side).filter(pl.col("compound").is_in(retrieved))
                means = pairs.group_by("compound").agg(loss=(pl.col("image") - pl.col("side")).mean())
                loss = dict(means.select("compound", "loss").iter_rows())
                if any(loss.values()):
                    losses.append((number, side, loss))
        return losses

    def metric(self, number: int, side: str, name: str, group: str) -> dict[str, np.ndarray]:
        """Return compound -> the mean of a metric over patches, fields and runs, (K,); empty if the side has none."""
        study, sums = self.studies[number], list[pl.DataFrame]()
        for run, fields in zip(study.runs, self._fields[number], strict=True):
            try:
                ids, values = run.run.read(metrics_table(side), name, fields.filter(pl.col("group") == group))
            except (KeyError, DataError):
                continue
            if len(ids) == 0:
                continue
            means = per_field(
                values, _mean_over_patches
            )  # an exact patch has an infinite PSNR, and says nothing of the others
            by_fov = pl.DataFrame({FOV_ID: ids, "mean": means})
            sums.append(by_fov.join(fields.select(FOV_ID, "compound"), on=FOV_ID, maintain_order="left"))
        by_compound: dict[str, np.ndarray] = {}
        if sums:
            for (compound,), rows in pl.concat(sums).group_by("compound", maintain_order=True):
                by_compound[str(compound)] = _mean_of_known(np.stack(list(rows["mean"])), axis=0)
        return by_compound


def _mean_over_patches(values: np.ndarray) -> np.ndarray:
    """Return the mean of the known values (n, P, ...) of every field over its patches, (n, K)."""
    return _mean_of_known(values.reshape(*values.shape[:2], -1).astype(np.float64), axis=1)


def _fields_of(study: Study) -> list[pl.DataFrame]:
    wells = study.wells.select(*WELL_KEY, "group", "compound").unique(maintain_order=True)
    usable = (run.fovs.filter(pl.col(ERROR).is_null()).select(FOV_ID, "files", *WELL_KEY) for run in study.runs)
    return [fovs.join(wells, on=list(WELL_KEY), maintain_order="left") for fovs in usable]


def _answer(ladder: Ladder, extractor: str, group: str) -> Answer:
    losses = ladder.losses(extractor, group)
    families = [family(ladder.studies[number].first, side) for number, side, _ in losses]
    compounds = sorted(set.intersection(*(set(loss) for _, _, loss in losses))) if losses else []
    for count, least, what in (
        (len(losses), LEAST_SIDES, "sides that change a score"),
        (len(set(families)), LEAST_FAMILIES, "families of sides"),
        (len(compounds), LEAST_COMPOUNDS, "compounds that the originals retrieve"),
    ):
        if count < least:
            return Answer(extractor, group, reason=f"{count} {what}, and at least {least} are wanted")
    measured: dict[str, Prediction] = {}
    left_out: dict[str, str] = {}
    parts: dict[str, list[str]] = {}
    first = ladder.studies[0].first
    for name in dict.fromkeys(name for study in ladder.studies for name in study.first.config.metrics):
        values = [ladder.metric(number, side, name, group) for number, side, _ in losses]
        have = [index for index, value in enumerate(values) if all(_has_a_number(value.get(one)) for one in compounds)]
        own = {families[index] for index in have}
        if len(have) < LEAST_SIDES or len(own) < LEAST_FAMILIES:
            left_out[name] = f"known of {len(have)} sides of {len(own)} families"
            continue
        worse = turned(first, name, np.array([[values[index][one] for index in have] for one in compounds]))
        known = np.isfinite(worse).all((0, 1))  # a band may exist nowhere
        if not known.any():
            left_out[name] = "no stain, pass or band has a number everywhere"
            continue
        loss = np.array([[losses[index][2][one] for index in have] for one in compounds])
        damage = worse[:, :, known].transpose(2, 0, 1)  # (C, N, K) -> (K, C, N)
        measured[name] = prediction(damage, loss, np.array([families[index] for index in have]), seed=first.config.seed)
        names = first.config.parts(len(known))
        parts[name] = [part for part, is_known in zip(names, known, strict=True) if is_known]
    ordered = dict(sorted(measured.items(), key=lambda item: -item[1].correlation))
    runs = [run for study in ladder.studies for run in study.runs]
    costs = added(run.costs for run in runs)
    told = {name: cost for name in ordered if (cost := of_metric(costs, name)) is not None}
    return Answer(extractor, group, ordered, left_out, parts, told)


def _mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean of the finite values over an axis; NaN without one."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis) / known.sum(axis)


def _has_a_number(values: np.ndarray | None) -> bool:
    return values is not None and bool(np.isfinite(values).any())


def turned(run: ScoredRun, name: str, values: np.ndarray) -> np.ndarray:
    """Return a metric so that more is worse.

    One whose best value is 1 (radial_power) becomes its distance from 1, a correlation with other stains (leakage) its size.
    """
    module = _module(run, name)
    if getattr(module, "AGAINST_STAINS", False):
        return np.abs(values)
    if module.HIGHER_IS_BETTER is None and hasattr(module, "BANDS"):
        return np.abs(values - 1)
    return -values if is_better_higher(run, name) else values


def is_better_higher(run: ScoredRun, name: str) -> bool:
    """Return whether more of a metric is better, so that `turned` changes its sign."""
    return bool(_module(run, name).HIGHER_IS_BETTER)


def _module(run: ScoredRun, name: str) -> ModuleType:
    settings = run.config.metrics.get(name)
    return shelves.find("metrics", settings.name if settings is not None else name)
