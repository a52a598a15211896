"""Is the phenotype kept? The verdict on every side in words, what is lost by name, and what is uncertain."""

from collections.abc import Sequence

from sdvae_ray.report.facts.conclude.findings import findings
from sdvae_ray.report.facts.conclude.study import Rule, Study, rule_of
from sdvae_ray.report.facts.conclude.verdicts import (
    Compound,
    Verdict,
    fates,
    verdicts,
    without_originals,
)
from sdvae_ray.report.facts.conclude.words import interval_words, lines_on_compounds, listed, open_lines, percent
from sdvae_ray.report.facts.scored import GROUP, ScoredRun
from sdvae_ray.report.facts.table import BLOCK, NONE, Column, Row, Section, Table, Value, text_column

_TITLE = "Is the phenotype kept?"
_MOST_SIDES = 10  # of a table of fates in a terminal


def section(scored: ScoredRun) -> Section | None:
    """Return the first screen of the page: a finding per extractor and group, and the numbers of all; None for a run without
    sides that stand beside their originals."""
    study, rule = Study((scored,)), rule_of(scored)
    rows = verdicts(study, rule)
    if not rows:
        return None
    return Section(
        "verdict",
        _TITLE,
        "Verdict",
        tables=[verdict_table(study, rule, rows)],
        notes=notes(study, rule, rows),
        template="verdict.html",
        content=findings(study, rule, rows, fates(study, rule)),
    )


def in_terminal(study: Study, rule: Rule) -> list[Section]:
    """Return the sections as `conclude` prints them: one table, what is lost by name and what is uncertain, a line each, and the
    fate of every compound that the originals retrieve; empty for runs without sides that stand beside their originals.
    """
    rows = verdicts(study, rule)
    if not rows:
        return []
    compounds = fates(study, rule)
    said = [*lines_on_compounds(study, compounds), *open_lines(study, rows)]
    table = verdict_table(study, rule, rows)
    sections = [Section("verdict", _TITLE, tables=[table], reasons=said, brief=" ".join(notes(study, rule, rows)))]
    if compounds:
        sections.append(Section("fates", "", tables=[fate_table(study, compounds)]))
    return sections


def lines(study: Study, rule: Rule) -> list[str]:
    """Return the verdicts in sentences: the sides of every word, what is lost by name, what is uncertain."""
    if not (rows := verdicts(study, rule)):
        return []
    words: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        words.setdefault((row.extractor, row.group, row.word), []).append(study.first.label(row.side))
    said = [
        f"By {study.first.by(extractor, group)}: {word}: {listed(sides)}."
        for (extractor, group, word), sides in words.items()
    ]
    return [*said, *lines_on_compounds(study, fates(study, rule))]


def notes(study: Study, rule: Rule, rows: Sequence[Verdict]) -> list[str]:
    """Return how the words are meant, for the small print."""
    said = [
        f"Differences of normalised mAP, side less originals, over the same wells, with {percent(rule)} intervals over compounds "
        f"and plates. Margin: {rule.words}. Equivalent: the whole interval lies within the margin; inferior, superior: beyond it; "
        'undecided is not "no difference". docs/conclude.md has the definitions.'
    ]
    if any(row.difference.plates == 1 for row in rows):
        said.append("One plate: the intervals say nothing about another plate.")
    if any(row.runs > 1 for row in rows):
        deviations = max(row.sd or 0.0 for row in rows)
        said.append(f"Means over {rows[0].runs} seeds; the sd of a difference over seeds is at most {deviations:.4f}.")
    if alone := without_originals(study):
        said.append(f"{listed(alone)}: no originals in this space, so that no verdict is possible.")
    return said


def verdict_table(study: Study, rule: Rule, rows: Sequence[Verdict]) -> Table:
    """Return one row per extractor, group and side."""
    scored = study.first
    many_groups = len({row.group for row in rows}) > 1
    columns = [
        text_column("extractor", "by", says_once=True),
        *([GROUP] if many_groups else []),
        text_column("side", "side", keeps=14),
        text_column("verdict", "verdict", keeps=10),
        *numbers(rule),
    ]
    shown: list[Row] = [
        {
            BLOCK: f"{row.extractor} {row.group}",
            "extractor": scored.label(row.extractor),
            "group": row.group,
            "side": scored.side(row.side),
            **cells(row),
        }
        for row in rows
    ]
    return Table("", columns, shown)


def numbers(rule: Rule) -> list[Column]:
    """Return the columns of the numbers of a verdict."""
    return [
        Column("difference", "difference", 3, signed=True),
        Column("interval", f"{percent(rule)} interval"),
        Column("floor", "floor", 3),
        Column("ceiling", "originals", 3),
        Column("side_map", "side", 3),
        Column("margin", "margin", 3),
        text_column("count", "compounds / plates"),
    ]


def cells(row: Verdict) -> dict[str, Value]:
    """Return the word and the numbers of a verdict by the keys of the columns."""
    difference = row.difference
    return {
        "verdict": row.word,
        "difference": difference.estimate,
        "interval": interval_words(difference),
        "floor": row.floor,
        "ceiling": row.ceiling,
        "side_map": row.side_map,
        "margin": difference.margin,
        "count": f"{difference.compounds} / {difference.plates}",
    }


def fate_table(study: Study, compounds: Sequence[Compound]) -> Table:
    """Return one row per compound that the originals retrieve, one column per side: its fate."""
    scored = study.first
    sides = scored.sides(compound.side for compound in compounds)
    title = "What became of the compounds that the originals retrieve"
    if len(sides) > _MOST_SIDES:
        changed = [compound for compound in compounds if compound.fate != "kept"]
        names, sides = {compound.name for compound in changed}, scored.sides(compound.side for compound in changed)
        compounds = [compound for compound in compounds if compound.name in names and compound.side in sides]
        title += "; compounds and sides that are not shown: all kept"
    columns = [
        text_column("extractor", "by", says_once=True),
        text_column("compound", "compound", keeps=20),
        *(Column(side, scored.label(side)) for side in sides),
    ]
    rows: dict[tuple[str, str, str], dict[str, Value]] = {}
    for compound in compounds:
        place = (compound.extractor, compound.group, compound.name)
        by = scored.by(compound.extractor, compound.group)
        head: dict[str, Value] = {BLOCK: by, "extractor": by, "compound": compound.name}
        row = rows.setdefault(place, {**head, **dict.fromkeys(sides, NONE)})
        row[compound.side] = compound.fate
    return Table(title, columns, list(rows.values()))
