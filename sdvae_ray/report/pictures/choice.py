"""The choice of the fields of view that the report shows, deterministically: what is lost, then the worst, the median and the best
field by a metric, then what is kept, and a control.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.randomness import generator
from sdvae_ray.report.facts.conclude.study import Study, rule_of
from sdvae_ray.report.facts.conclude.verdicts import fates
from sdvae_ray.report.facts.conclude.words import listed
from sdvae_ray.report.facts.sample import sampled
from sdvae_ray.report.facts.scored import PHENOTYPE, STRENGTH, ScoredRun
from sdvae_ray.report.facts.table import number
from sdvae_ray.schema import FOV_ID, metrics_table
from sdvae_ray.selection import select

EXAMPLES = 7
_LOST = 2  # compounds that are lost, at most
_RANKED_BY = ("foreground_ssim", "ssim", "psnr")  # the first of them that the run has ranks its fields
_EXACT = ("identity", "lossless")  # sides that change no pixel say nothing of a field

Kind = Literal["lost", "worst", "median", "best", "kept", "control", "other"]


@dataclass(frozen=True)
class Choice:
    """A FOV that is shown.

    what      its treatment in words
    why       why it was chosen
    kind      the same in a word
    compound  the treatment as the tables name it; "" for a control
    side      the side to look at first: one that loses the compound; "" if no side is special
    """

    fov_id: str
    what: str
    why: str
    kind: Kind = "other"
    compound: str = ""
    side: str = ""


def choose(scored: ScoredRun, count: int = EXAMPLES) -> list[Choice]:
    """Return at most `count` FOVs to show. The FOV of a compound is chosen by the seed and not by its looks."""
    if scored.usable.height == 0:
        return []
    chosen: list[Choice] = []
    shown: set[str] = set()
    phenotypes: set[str] = set()
    for choice in _candidates(scored):
        phenotype = _phenotype(scored, choice)
        is_of_compound = choice.kind in ("lost", "kept")
        if len(chosen) == count:
            break
        if choice.fov_id not in shown and not (is_of_compound and phenotype in phenotypes):
            chosen.append(choice)
            shown.add(choice.fov_id)
            phenotypes |= {phenotype} if is_of_compound else set()
    return chosen


def _candidates(scored: ScoredRun) -> Iterator[Choice]:
    """Yield the FOVs in the order in which the report wants them."""
    lost = list(_lost(scored))
    yield from lost[:_LOST]
    yield from _by_metric(scored)
    kept = [choice for choice in _most_active(scored) if choice.compound not in {loss.compound for loss in lost}]
    yield from kept[:1]
    yield from _controls(scored)
    yield from kept[1:]
    ids = sorted(scored.usable[FOV_ID].to_list())
    for place in generator(scored.config.seed, "example").permutation(len(ids)).tolist():
        yield _choice(scored, ids[place], "chosen by hash", "other")


def _lost(scored: ScoredRun) -> Iterator[Choice]:
    """Yield one FOV per lost compound: by the first extractor of the run file that finds a loss, lost by more sides first, then by
    the largest fall."""
    losses = [row for row in fates(Study((scored,)), rule_of(scored)) if row.fate == "lost"]
    for extractor in scored.extractors(row.extractor for row in losses):
        here = [row for row in losses if row.extractor == extractor]
        rank = {
            name: (-len(rows), min(row.reconstruction - row.image for row in rows), name)
            for name in {row.compound for row in here}
            if (rows := [row for row in here if row.compound == name])
        }
        for name in sorted(rank, key=lambda name: rank[name]):
            rows = [row for row in here if row.compound == name]
            sides = scored.sides(row.side for row in rows)
            first = next(row for row in rows if row.side == sides[0])
            fall = f"normalised mAP {number(first.image, 2)} on the originals, {number(first.reconstruction, 2)} on"
            words = f"lost by {listed([scored.label(side) for side in sides])}: {fall} {scored.label(sides[0])}"
            yield from _of_compound(scored, name, f"{words}, by {scored.by(extractor, first.group)}", "lost", sides[0])


def _by_metric(scored: ScoredRun) -> Iterator[Choice]:
    """Yield the fields with the least, the median and the highest mean of a metric over the sides that change pixels."""
    config = scored.config
    metric = next((name for name in _RANKED_BY if name in config.metrics), None)
    names = {side: model.name for shelf in (config.autoencoders, config.codecs) for side, model in shelf.items()}
    sides = [side for side, name in names.items() if name not in _EXACT]
    if metric is None or not sides:
        return
    means: dict[str, list[float]] = {}
    fovs = sampled(scored)
    for side in sides:
        ids, values = scored.run.read(metrics_table(side), metric, fovs)
        for fov_id, patches in zip(ids, values, strict=True):
            known = patches[np.isfinite(patches)]
            means.setdefault(fov_id, []).append(float(known.mean()) if known.size else math.nan)
    ranked = sorted((float(np.mean(numbers)), fov_id) for fov_id, numbers in means.items())
    ranked = [row for row in ranked if math.isfinite(row[0])]
    places: dict[Kind, int] = {"worst": 0, "median": (len(ranked) - 1) // 2, "best": len(ranked) - 1}
    for kind, place in places.items() if len(ranked) >= len(places) else ():
        mean, fov_id = ranked[place]
        of = f"{len(ranked):,} fields, the mean of all sides that change pixels"
        yield _choice(scored, fov_id, f"{metric} {number(mean, 3)}, the {kind} of {of}", kind)


def _most_active(scored: ScoredRun) -> Iterator[Choice]:
    """Yield one FOV per compound, the highest first, by normalised mAP on the originals, averaged over extractors and groups. If
    the originals were not scored, the mAP is that on the reconstructions."""
    if scored.scores.compounds.height == 0:
        return
    known = scored.scores.compounds.filter(pl.col("normalised_map").is_not_null())
    originals = known.filter(pl.col("side") == IMAGE_SIDE)
    used, where = (originals, "the originals") if originals.height else (known, "the reconstructions")
    means = used.group_by("compound").agg(pl.col("normalised_map").mean())
    by = ", ".join(scored.extractors(used["extractor"]))
    for name, value in means.sort("normalised_map", "compound", descending=[True, False]).rows():
        why = f"normalised mAP {number(value, 2)} on {where} by {by}"
        yield from _of_compound(scored, str(name), why, "kept")


def _controls(scored: ScoredRun) -> Iterator[Choice]:
    """Yield one field of a control well."""
    config, fovs = scored.config, scored.usable
    if config.score.perturbation:
        controls = fovs.filter(select(config.score.control, fovs.columns, "score.control"))
        if controls.height:
            yield Choice(_by_hash(config, controls), "control", "a control well", "control")


def _of_compound(scored: ScoredRun, name: str, why: str, kind: Kind, side: str = "") -> Iterator[Choice]:
    compound = scored.config.score.perturbation or ""
    if compound in scored.usable.columns:
        rows = scored.usable.filter(pl.col(compound) == name)
        if rows.height:
            yield _choice(scored, _by_hash(scored.config, rows), why, kind, side)


def _choice(scored: ScoredRun, fov_id: str, why: str, kind: Kind, side: str = "") -> Choice:
    row = scored.usable.filter(pl.col(FOV_ID) == fov_id)
    compound = scored.config.score.perturbation or ""
    name = str(row[compound][0] or "") if compound in row.columns else ""
    return Choice(fov_id, _what(row, name), why, kind, name, side)


def _phenotype(scored: ScoredRun, choice: Choice) -> str:
    """Return the known phenotype of a choice, or its compound."""
    row = scored.usable.filter(pl.col(FOV_ID) == choice.fov_id)
    return str(row[PHENOTYPE][0]) if PHENOTYPE in row.columns else choice.compound


def _what(rows: pl.DataFrame, name: str) -> str:
    """Return the compound's name, with its phenotype if that is known."""
    if PHENOTYPE not in rows.columns or rows[PHENOTYPE][0] is None:
        return name
    strength = f", strength {rows[STRENGTH][0]}" if STRENGTH in rows.columns and rows[STRENGTH][0] is not None else ""
    return f"{name} ({rows[PHENOTYPE][0]}{strength})" if name else str(rows[PHENOTYPE][0])


def _by_hash(config: RunConfig, rows: pl.DataFrame) -> str:
    names = sorted(rows[FOV_ID].to_list())
    return names[int(generator(config.seed, "example", *names[:1], str(len(names))).integers(len(names)))]
