"""The first screen of several runs: what may be compared, the verdict on every side of every run, what is lost by which run."""

from collections.abc import Sequence
from dataclasses import dataclass

from sdvae_ray.report.facts.chart import Chart, Forest, ForestRow
from sdvae_ray.report.facts.conclude.study import Rule, Study, rule_of
from sdvae_ray.report.facts.conclude.verdicts import Compound, Verdict, fates, verdicts
from sdvae_ray.report.facts.conclude.words import interval_words, listed, percent
from sdvae_ray.report.facts.runs.several import (
    NamedRun,
    Runs,
    letters,
    of_same_question,
    sides_of,
    what_may_be_compared,
)
from sdvae_ray.report.facts.scored import GROUP
from sdvae_ray.report.facts.table import (
    BLOCK,
    NONE,
    Beside,
    Column,
    Row,
    Section,
    Side,
    Table,
    Value,
    number,
    text_column,
)
from sdvae_ray.report.sections.runs.rates import chart
from sdvae_ray.report.sections.runs.settings import settings_that_differ

_SETTINGS = 6  # that the first screen names


@dataclass(frozen=True)
class Judged:
    """A run with the verdicts on its sides and the fates of its compounds."""

    run: NamedRun
    rule: Rule
    verdicts: list[Verdict]
    fates: list[Compound]


@dataclass(frozen=True)
class RunsForest:
    """One forest over `runs`, which may be compared. by: the extractor and, unless all wells are one group, the group.
    sees: what each run retrieves of its originals. says_something: a run retrieves a compound of them."""

    runs: Runs
    extractor: str
    by: str
    sees: str
    says_something: bool
    forest: Forest


@dataclass(frozen=True)
class FirstScreen:
    """What the first screen shows. legend: the runs. warnings: what may not be compared. lines: what may. forests: the first one
    stands open. charts: FR over the rate by the same extractor and runs. settings: the keys that differ, in words."""

    legend: list[Side]
    warnings: list[str]
    lines: list[str]
    forests: list[RunsForest]
    charts: list[Chart]
    settings: list[str]


def section(runs: Runs) -> Section:
    """Return the first screen of several runs. content: a FirstScreen."""
    judged = [_judged(run) for run in runs]
    warnings, lines = what_may_be_compared(runs)
    forests = _forests(judged)
    drawn = [chart(one.runs, one.extractor, len(runs)) for one in forests[:1]]
    content = FirstScreen(
        [run.legend for run in runs],
        warnings,
        lines,
        forests,
        [one for one in drawn if one is not None],
        settings_that_differ(runs, _SETTINGS),
    )
    tables = [table for table in (_lost_table(judged), _verdict_table(judged)) if table.rows]
    notes = [
        "Differences of normalised mAP, a side's less those of the originals of its own run, over the same wells; intervals over "
        "compounds and plates. Every run is judged by its own originals, floor and margin, as the table has them. Only runs "
        "of the same images, metadata, rules and extractor share a chart. docs/conclude.md has the definitions."
    ]
    return Section(
        "runs", "The runs, side by side", "Verdicts", tables=tables, notes=notes, template="runs.html", content=content
    )


def _judged(run: NamedRun) -> Judged:
    study, rule = Study((run.scored,)), rule_of(run.scored)
    return Judged(run, rule, verdicts(study, rule), fates(study, rule))


def _places(judged: Sequence[Judged]) -> list[tuple[str, str]]:
    """Return (extractor, group) of every verdict."""
    return list(dict.fromkeys((row.extractor, row.group) for one in judged for row in one.verdicts))


def _forests(judged: Sequence[Judged]) -> list[RunsForest]:
    """Return a forest per extractor, group and set of runs that may be compared: first those that can say what is lost, then those
    of more runs."""
    forests, by_letter = [], {one.run.letter: one for one in judged}
    for place in _places(judged):
        for alike in of_same_question([one.run for one in judged], place[0]):
            if forest := _forest([by_letter[run.letter] for run in alike], place, len(judged)):
                forests.append(forest)
    return sorted(forests, key=lambda one: (not one.says_something, -len(one.runs)))


def _forest(judged: Sequence[Judged], place: tuple[str, str], all_runs: int) -> RunsForest | None:
    shown = {
        (row.side, one.run.letter): (one, row)
        for one in judged
        for row in one.verdicts
        if (row.extractor, row.group) == place
    }
    ordered = [
        shown[side, one.run.letter]
        for side in sides_of([one.run for one in judged])
        for one in judged
        if (side, one.run.letter) in shown
    ]
    if not ordered:
        return None
    seen = [
        f"{one.run.letter} {_seen(one, place)}"
        for one in judged
        if any((row.extractor, row.group) == place for row in one.verdicts)
    ]
    scored = judged[0].run.scored
    by = scored.by(*place) + ("" if len(judged) == all_runs else f", {letters([one.run for one in judged])}")
    forest = Forest(
        "Normalised mAP, difference from the originals of the same run",
        f"{percent(ordered[0][0].rule)} intervals over compounds and plates",
        [_row(one, row) for one, row in ordered],
        None,
        None,
        None,
    )
    says_something = any((c.extractor, c.group) == place for one in judged for c in one.fates)
    sees = f"Compounds retrieved from the originals: {listed(seen)}."
    return RunsForest([one.run for one in judged], place[0], by, sees, says_something, forest)


def _seen(one: Judged, place: tuple[str, str]) -> str:
    total = next(row.difference.compounds for row in one.verdicts if (row.extractor, row.group) == place)
    return f"{len(Study((one.run.scored,)).of_originals(*place))} of {total}"


def _row(one: Judged, row: Verdict) -> ForestRow:
    difference = row.difference
    ends = (difference.estimate, difference.low, difference.high)
    floor = None if row.floor is None or row.ceiling is None else row.floor - row.ceiling
    return ForestRow(one.run.side(row.side), row.word, *ends, interval_words(difference), difference.margin, floor)


def _verdict_table(judged: Sequence[Judged]) -> Table:
    """Return one row per extractor, group and side, a column per run: the difference and the verdict; before them what the
    differences are from: the originals, and their floor."""
    groups = len({group for _, group in _places(judged)}) > 1
    columns = [
        text_column("extractor", "by", says_once=True),
        *([GROUP] if groups else []),
        text_column("side", "side", keeps=14),
    ]
    columns += [Column(one.run.letter, one.run.letter, 3, colour=one.run.colour) for one in judged]
    rows: list[Row] = []
    for extractor, group in _places(judged):
        head: dict[str, Value] = {BLOCK: f"{extractor} {group}", "extractor": extractor, "group": group}
        of_place = [
            {row.side: row for row in one.verdicts if (row.extractor, row.group) == (extractor, group)}
            for one in judged
        ]
        baselines = {
            one.run.letter: Beside(row.ceiling, f"floor {number(row.floor, 3)}")
            for one, by_side in zip(judged, of_place, strict=True)
            for row in [*by_side.values()][:1]
        }
        rows.append({**head, "side": "originals: normalised mAP", **baselines})
        for side in sides_of([one.run for one in judged]):
            if any(side in by_side for by_side in of_place):
                cells: dict[str, Value] = {
                    one.run.letter: Beside(by_side[side].difference.estimate, by_side[side].word)
                    for one, by_side in zip(judged, of_place, strict=True)
                    if side in by_side
                }
                rows.append({**head, "side": side, **cells})
    return Table("Verdict on every side of every run, with its difference from the originals", columns, rows)


def _lost_table(judged: Sequence[Judged]) -> Table:
    """Return one row per compound that a side of a run loses, a column per run: the sides that lose it."""
    lost = {(c.extractor, c.group, c.name): None for one in judged for c in one.fates if c.fate == "lost"}
    columns = [text_column("by", "by", says_once=True), text_column("compound", "compound", keeps=20)]
    columns += [text_column(one.run.letter, one.run.letter, colour=one.run.colour) for one in judged]
    rows: list[Row] = []
    for place in lost:
        row: dict[str, Value] = {"by": judged[0].run.scored.by(*place[:2]), "compound": place[2]}
        for one in judged:
            here = [c for c in one.fates if (c.extractor, c.group, c.name) == place]
            sides = one.run.scored.sides(c.side for c in here if c.fate == "lost")
            row[one.run.letter] = listed([one.run.scored.label(side) for side in sides]) or ("none" if here else NONE)
        rows.append(row)
    notes = [f"none: no side of the run loses it. {NONE}: the run's originals do not retrieve it."]
    return Table("Lost for certain, by the sides of every run", columns, rows, notes)
