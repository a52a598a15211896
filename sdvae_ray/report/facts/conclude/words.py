"""Verdicts and fates in sentences: what is lost by name, what is uncertain, and what would decide."""

from collections.abc import Callable, Sequence

from sdvae_ray.report.facts.conclude.study import Rule, Study
from sdvae_ray.report.facts.conclude.verdicts import Compound, Fate, Verdict
from sdvae_ray.report.facts.table import NONE, number
from sdvae_ray.retrieval.significance.equivalence import EQUIVALENT, UNDECIDED, Equivalence

_RETRIEVED = "compounds that the originals retrieve"
_NAMED = 8  # compounds that a line names, at most


def lines_on_compounds(study: Study, compounds: Sequence[Compound]) -> list[str]:
    """Return what is lost, what is weakened and what is uncertain, by name; sides with the same names share a line."""
    return [*certain_lines(study, compounds), *uncertain_lines(study, compounds)]


def certain_lines(study: Study, compounds: Sequence[Compound]) -> list[str]:
    """Return what is lost and what is weakened, by name; or that nothing is lost for certain."""
    if not compounds:
        return ["The originals retrieve no compound: there is no phenotype to lose."] if study.wells.height else []
    said = [
        *_named(study, compounds, "lost", lambda sides, names: f"Lost by {sides}: {names}."),
        *_named(
            study, compounds, "weakened", lambda sides, names: f"Weakened by {sides}, and still retrieved: {names}."
        ),
    ]
    if not any(compound.fate == "lost" for compound in compounds):
        said.insert(0, f"None of the {_RETRIEVED} is lost for certain.")
    return said


def uncertain_lines(study: Study, compounds: Sequence[Compound]) -> list[str]:
    """Return what a side no longer retrieves though the fall may be chance, by name."""
    return _named(
        study,
        compounds,
        "undecided",
        lambda sides, names: f"Uncertain: {sides} no longer {_verb(sides)} {names}, and the fall may be chance.",
    )


def _verb(sides: str) -> str:
    return "retrieve" if " and " in sides else "retrieves"


def _named(study: Study, compounds: Sequence[Compound], fate: Fate, sentence: Callable[[str, str], str]) -> list[str]:
    order = study.first.extractors(compound.extractor for compound in compounds)  # of the run file: the first one leads
    by_side: dict[tuple[str, str, str], list[str]] = {}
    for compound in sorted(compounds, key=lambda compound: order.index(compound.extractor)):
        if compound.fate == fate:
            by_side.setdefault((compound.extractor, compound.group, compound.side), []).append(compound.name)
    by_names: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (extractor, group, side), names in by_side.items():
        by_names.setdefault((extractor, group, tuple(sorted(names))), []).append(side)
    many = len({(compound.extractor, compound.group) for compound in compounds}) > 1
    said = []
    for (extractor, group, shared), sides in by_names.items():
        shown = [*shared[:_NAMED], *([f"{len(shared) - _NAMED} more"] if len(shared) > _NAMED else [])]
        where = f"By {study.first.by(extractor, group)}: " if many else ""
        said.append(
            where + sentence(listed([study.first.label(side) for side in study.first.sides(sides)]), listed(shown))
        )
    return said


def open_lines(study: Study, rows: Sequence[Verdict]) -> list[str]:
    """Return one line per undecided verdict: what is open, and what would decide."""
    return [
        f"Undecided: {study.first.label(row.side)} by {study.first.by(row.extractor, row.group)}: {what_is_open(row)}."
        for row in rows
        if row.word == UNDECIDED
    ]


def what_is_open(row: Verdict) -> str:
    """Return what an undecided verdict leaves open, and what would decide."""
    return "; ".join(text for text in (row.reason, what_decides(row.difference)) if text)


def what_decides(difference: Equivalence) -> str:
    """Return what would change the verdict, in words, labelled as the estimate that it is; "" where nothing is known."""
    if difference.margin is None or difference.low is None or difference.high is None:
        return ""
    if difference.verdict != UNDECIDED:
        if difference.verdict != EQUIVALENT:
            return ""
        least = max(abs(difference.low), abs(difference.high))
        return f"equivalent at any margin above {least:.3f}"
    if (needed := difference.needed) is None:
        return "the difference is at the margin: more data may never decide"
    if needed.compounds and needed.plates:
        size = f"{needed.compounds} compounds on {needed.plates} plates"
    else:
        size = f"{needed.compounds} compounds" if needed.compounds else f"{needed.plates} plates"
    return f"about {size} would show it {needed.for_verdict} (an estimate)"


def interval_words(difference: Equivalence) -> str:
    """Return the interval as `-0.146 to 0.067`; NONE without one."""
    if difference.low is None:
        return NONE
    return f"{number(difference.low, 3)} to {number(difference.high, 3)}"


def percent(rule: Rule) -> str:
    """Return how much of the distribution an interval holds, such as 90 %."""
    return f"{100 * (1 - 2 * rule.level):g} %"


def listed(names: Sequence[str]) -> str:
    """Return names as a, b and c."""
    return " and ".join(", ".join(names).rsplit(", ", 1))
