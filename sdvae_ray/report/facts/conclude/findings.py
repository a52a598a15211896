"""The first answer of the report: what one extractor says of the sides, in words and as a forest plot."""

from collections.abc import Sequence
from dataclasses import dataclass

from sdvae_ray.report.facts.chart import Forest, ForestRow
from sdvae_ray.report.facts.conclude.study import Rule, Study
from sdvae_ray.report.facts.conclude.verdicts import Compound, Verdict
from sdvae_ray.report.facts.conclude.words import (
    certain_lines,
    interval_words,
    listed,
    percent,
    uncertain_lines,
    what_is_open,
)

_WORDS = {  # a verdict -> the words before the sides, the worst first
    "inferior": "On average worse than the originals",
    "undecided": "On average not decided",
    "equivalent": "On average as good as the originals",
    "superior": "On average better than the originals",
}


@dataclass(frozen=True)
class Finding:
    """What one extractor says of one group of wells.

    by         the extractor and, unless all wells are one group, the group
    sides      (verdict, words, sides) of every verdict that a side has, the worst first
    sees       how many compounds the extractor retrieves of the originals, in words
    loses      whether a side loses a compound
    lost       what is lost and weakened, by name
    uncertain  what may be lost, by name
    is_open    what an undecided side leaves open, and what would decide
    """

    by: str
    sides: Sequence[tuple[str, str, str]]
    sees: str
    forest: Forest
    loses: bool
    lost: Sequence[str]
    uncertain: Sequence[str]
    is_open: Sequence[str]


def findings(study: Study, rule: Rule, rows: Sequence[Verdict], compounds: Sequence[Compound]) -> list[Finding]:
    """Return one finding per extractor and group: in the run file's order, but first those whose originals retrieve a compound,
    since an extractor that retrieves none cannot say what is lost. rows, compounds: of `verdicts` and `fates`."""
    places = list(dict.fromkeys((row.extractor, row.group) for row in rows))
    seen = {place: set(study.of_originals(*place)) for place in places}
    ordered = sorted(places, key=lambda place: not seen[place])
    return [
        _finding(
            study,
            rule,
            [row for row in rows if (row.extractor, row.group) == place],
            [compound for compound in compounds if (compound.extractor, compound.group) == place],
            len(seen[place]),
        )
        for place in ordered
    ]


def _finding(study: Study, rule: Rule, rows: Sequence[Verdict], compounds: Sequence[Compound], seen: int) -> Finding:
    scored, first = study.first, rows[0]
    labels = {word: [scored.label(row.side) for row in rows if row.word == word] for word in _WORDS}
    sides = [(word, _WORDS[word], listed(names)) for word, names in labels.items() if names]
    total = first.difference.compounds
    by = scored.by(first.extractor, first.group)
    forest = Forest(
        "Normalised mAP, difference from the originals",
        f"{percent(rule)} intervals over compounds and plates",
        [_row(study, row) for row in rows],
        first.floor,
        first.ceiling,
        first.difference.margin,
    )
    sees = f"From the originals it retrieves {seen} of {total} compounds" + (
        "." if seen else ": it sees no phenotype here, and so it cannot say what is lost."
    )
    is_open = [f"{scored.label(row.side)}: {what_is_open(row)}." for row in rows if row.word == "undecided"]
    lost = certain_lines(study, compounds) if seen else []
    loses = any(compound.fate == "lost" for compound in compounds)
    return Finding(by, sides, sees, forest, loses, lost, uncertain_lines(study, compounds), is_open)


def _row(study: Study, row: Verdict) -> ForestRow:
    difference = row.difference
    side = study.first.side(row.side)
    ends = (difference.estimate, difference.low, difference.high)
    return ForestRow(side, row.word, *ends, interval_words(difference))
