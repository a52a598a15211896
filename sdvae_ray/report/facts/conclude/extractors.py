"""Are general extractors as good as others? The originals by one extractor against those by another, over the same wells."""

import itertools
from dataclasses import replace

import polars as pl

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.report.facts.conclude.study import Rule, Study, paired
from sdvae_ray.report.facts.conclude.verdicts import Verdict, difference_of, margin_of, mean_map, open_question
from sdvae_ray.retrieval.significance.equivalence import EQUIVALENT, INFERIOR, SUPERIOR, UNDECIDED, Word, holm

UNTRAINED = "untrained"


def extractor_verdicts(study: Study, rule: Rule) -> list[Verdict]:
    """Return one verdict per group and pair of extractors that embed the originals; `side` is the second extractor of the pair.

    The difference is the second's normalised mAP less the first's. The margin is the rule's share of the longer of the two ways
    from floor to originals. A verdict is given if its p, corrected by Holm over the pairs of the group, is at most the level; the
    interval is not corrected.
    """
    rows: list[Verdict] = []
    originals = study.wells.filter(pl.col("side") == IMAGE_SIDE)
    for group in originals["group"].unique(maintain_order=True):
        names = study.first.extractors(originals.filter(pl.col("group") == group)["extractor"])
        rows += _corrected([_pair(study, rule, group, *pair) for pair in itertools.combinations(names, 2)], rule)
    return rows


def labelled(study: Study, extractor: str) -> str:
    """Return the name of an extractor, marked if its weights are random."""
    settings = study.first.config.extractors.get(extractor)
    return f"{extractor} ({UNTRAINED})" if settings is not None and settings.random else extractor


def _pair(study: Study, rule: Rule, group: str, first: str, second: str) -> Verdict:
    pairs = paired(study.of(first, group, IMAGE_SIDE), study.of(second, group, IMAGE_SIDE), "second", "first")
    maps = [mean_map(pairs, name) for name in ("first", "second")]
    margins, reasons = [], []
    floors = [study.floor(extractor, group) for extractor in (first, second)]
    for (floor, why), ceiling in zip(floors, maps, strict=True):
        margin, reason = margin_of(rule.margin, floor, ceiling, why)
        margins.append(margin)
        reasons.append(reason)
    known = [margin for margin in margins if margin is not None]
    # one extractor may be at its floor; without a floor of both there is no scale
    margin = max(known) if known and None not in [floor for floor, _ in floors] else None
    difference = difference_of(pairs, "first", "second", margin, rule.level, study.first.config.seed)
    reason = open_question(difference) if margin is not None else next(text for text in reasons if text)
    return Verdict(first, group, second, difference, floors[0][0], maps[0], maps[1], reason, len(study.runs))


def _corrected(rows: list[Verdict], rule: Rule) -> list[Verdict]:
    """Return the verdicts of one family, each claim corrected by Holm over the family."""
    words: list[Word] = [EQUIVALENT, INFERIOR, SUPERIOR]
    tested = [row for row in rows if row.difference.p_equivalent is not None]
    corrected = {word: holm([getattr(row.difference, f"p_{word}") for row in tested]) for word in words}
    verdicts = {}
    for number, row in enumerate(tested):
        claims = [word for word in words if corrected[word][number] <= rule.level]
        equivalent, inferior, superior = (float(corrected[word][number]) for word in words)
        word = claims[0] if claims else UNDECIDED
        reason = row.reason or ("undecided after Holm's correction" if word == UNDECIDED else "")
        difference = replace(
            row.difference, verdict=word, p_equivalent=equivalent, p_inferior=inferior, p_superior=superior
        )
        verdicts[row.extractor, row.side] = replace(row, difference=difference, reason=reason)
    return [verdicts.get((row.extractor, row.side), row) for row in rows]
