"""Is the phenotype kept? The verdict on every side, and the fate of every compound that the originals retrieve."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import polars as pl

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.report.facts.conclude.study import Rule, Study
from sdvae_ray.retrieval.significance.equivalence import UNDECIDED, Equivalence, equivalence, holm
from sdvae_ray.retrieval.significance.falls import falls

Fate = Literal["kept", "weakened", "lost", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one side, or on one extractor against another.

    difference  of normalised mAP, the side's less the originals', over the same wells
    floor       normalised mAP of controls that pose as compounds, of the originals; None: unknown
    ceiling     normalised mAP of the originals over the wells compared
    side_map    the side's
    reason      why there is no margin, or what an undecided interval leaves open; "" otherwise
    runs, sd    how many seeds, and the standard deviation of the difference over them (None for one)
    """

    extractor: str
    group: str
    side: str
    difference: Equivalence
    floor: float | None
    ceiling: float | None
    side_map: float | None
    reason: str
    runs: int = 1
    sd: float | None = None

    @property
    def word(self) -> str:
        """Return the verdict."""
        return self.difference.verdict


@dataclass(frozen=True)
class Compound:
    """What became of a compound that the originals retrieve.

    fate  lost: its AP falls significantly, and the side does not retrieve it; weakened: it falls, and is retrieved; undecided: it
          is not retrieved, and the fall may be chance; kept: the others
    p     of the fall, one-sided, corrected by Holm over the compounds that the originals retrieve; None with one well
    """

    extractor: str
    group: str
    side: str
    compound: str
    name: str
    image: float
    reconstruction: float
    p: float | None
    fate: Fate


def verdicts(study: Study, rule: Rule) -> list[Verdict]:
    """Return one verdict per extractor, group and side, in the run file's order; extractors without originals have none."""
    rows = [_verdict(study, rule, *place) for place in places(study)]
    order = study.first.in_order({"extractor": row.extractor, "group": row.group, "side": row.side} for row in rows)
    by_place = {(row.extractor, row.group, row.side): row for row in rows}
    return [by_place[row["extractor"], row["group"], row["side"]] for row in order]


def places(study: Study) -> Iterator[tuple[str, str, str]]:
    """Yield (extractor, group, side) of every side that was scored beside the originals."""
    scored = study.wells.select("extractor", "group", "side").unique(maintain_order=True)
    images = set(scored.filter(pl.col("side") == IMAGE_SIDE).select("extractor", "group").iter_rows())
    for extractor, group, side in scored.iter_rows():
        if side != IMAGE_SIDE and (extractor, group) in images:
            yield extractor, group, side


def without_originals(study: Study) -> list[str]:
    """Return the extractors that embed sides but not the originals, so that nothing can be kept or lost."""
    compared = {extractor for extractor, _, _ in places(study)}
    return [name for name in study.first.extractors(study.wells["extractor"]) if name not in compared]


def margin_of(share: float, floor: float | None, ceiling: float | None, why: str) -> tuple[float | None, str]:
    """Return the margin in units of normalised mAP; or None and the reason why there is none."""
    if floor is None:
        return None, f"no floor: {why}"
    if ceiling is None or ceiling <= floor:
        return None, "the originals are not above their floor: there is nothing to keep"
    return share * (ceiling - floor), ""


def _verdict(study: Study, rule: Rule, extractor: str, group: str, side: str) -> Verdict:
    pairs = study.pairs(extractor, group, side)
    floor, why = study.floor(extractor, group)
    ceiling, side_map = mean_map(pairs, "image"), mean_map(pairs, "side")
    margin, reason = margin_of(rule.margin, floor, ceiling, why)
    difference = difference_of(pairs, "image", "side", margin, rule.level, study.first.config.seed)
    sd = None
    if len(study.runs) > 1:
        alone = [Study((run,)).pairs(extractor, group, side) for run in study.runs]
        values = pl.Series([(mean_map(one, "side") or 0.0) - (mean_map(one, "image") or 0.0) for one in alone])
        sd = float(values.std())  # type: ignore[arg-type]
    return Verdict(
        extractor,
        group,
        side,
        difference,
        floor,
        ceiling,
        side_map,
        reason or open_question(difference),
        len(study.runs),
        sd,
    )


def difference_of(
    pairs: pl.DataFrame, first: str, second: str, margin: float | None, level: float, seed: int
) -> Equivalence:
    """Return the verdict on `second` less `first`, columns of wells with compound and plate."""
    wells = pairs.select("compound", "plate", value=pl.col(second) - pl.col(first))
    return equivalence(wells, margin, level, seed=seed)


def mean_map(pairs: pl.DataFrame, column: str) -> float | None:
    """Return the mean over compounds of the mean over their wells."""
    means = pairs.group_by("compound", maintain_order=True).agg(pl.col(column).mean()).sort("compound")
    return means[column].mean()  # type: ignore[return-value]


def open_question(difference: Equivalence) -> str:
    """Return what an undecided difference with a margin leaves open; "" for any other."""
    if (
        difference.verdict != UNDECIDED
        or difference.margin is None
        or difference.low is None
        or difference.high is None
    ):
        return "" if difference.low is not None else "fewer than two compounds"
    if difference.high < 0:
        return "lower than the originals; whether by more than the margin is open"
    if difference.low > 0:
        return "higher than the originals; whether by more than the margin is open"
    if difference.is_not_inferior:
        return "not lower by the margin; whether higher by more is open"
    return "both 0 and more than the margin are possible"


def fates(study: Study, rule: Rule) -> list[Compound]:
    """Return the fate of every compound that the originals retrieve, for every extractor, group and side."""
    names = study.first.treatments()
    known = {tuple(place): retrieved for *place, retrieved in study.retrieved.rows()}
    rows: list[Compound] = []
    for extractor, group, side in places(study):
        retrieved_before = study.of_originals(extractor, group)
        table = falls(study.pairs(extractor, group, side)).filter(pl.col("compound").is_in(retrieved_before))
        corrected = holm(table["p"].fill_null(1.0))
        for row, p in zip(table.to_dicts(), corrected, strict=True):
            retrieved = bool(known.get((extractor, side, group, row["compound"])))
            fallen = row["p"] is not None and p <= rule.level
            fate: Fate = ("weakened" if fallen else "kept") if retrieved else "lost" if fallen else "undecided"
            name = names.get(row["compound"], row["compound"])
            numbers = (row["image"], row["side"], None if row["p"] is None else float(p))
            rows.append(Compound(extractor, group, side, row["compound"], name, *numbers, fate))
    return rows
