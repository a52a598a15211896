"""Distortion, rate and phenotype of the sides of several runs: a table per set of runs of the same pixels, and FR over the rate."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.report.facts.chart import RatePoint, RatePoints
from sdvae_ray.report.facts.metrics import metric_column
from sdvae_ray.report.facts.runs.several import (
    NamedRun,
    Runs,
    extractors_of,
    letters,
    of_same_pixels,
    of_same_question,
    sides_of,
)
from sdvae_ray.report.facts.scored import Values
from sdvae_ray.report.facts.table import BLOCK, SIDE, Column, Section, Table, text_column
from sdvae_ray.report.sections.images.rates import (
    DISTORTIONS,
    NOTE,
    chart_of,
    distortions,
    extractors,
    number_columns,
    points_of,
    rates,
)


def section(runs: Runs) -> Section | None:
    """Return the section; None for runs without sides."""
    if not sides_of(runs):
        return None
    rows = {run.letter: rates(run.scored) for run in runs}
    return Section(
        "rates",
        "Rate, distortion and phenotype",
        "Rate and phenotype",
        tables=[_table(alike, rows, len(runs)) for alike in of_same_pixels(runs)],
        charts=charts(runs),
        legend=[run.legend for run in runs],
    )


def charts(runs: Runs) -> list[RatePoints]:
    """Return a chart per extractor and set of runs whose FR by it may be compared."""
    drawn = [
        chart(alike, extractor, len(runs))
        for extractor in extractors_of(runs)
        for alike in of_same_question(runs, extractor)
    ]
    return [one for one in drawn if one is not None]


def chart(runs: Runs, extractor: str, all_runs: int) -> RatePoints | None:
    """Return FR by an extractor over the rate of every side of the runs, in the colours of these; None where none was scored."""
    points, references = list[RatePoint](), set[float | None]()
    for run in runs:
        if extractor in extractors(run.scored):
            rows = rates(run.scored)
            references.add(rows[0][f"{extractor} fraction_retrieved"])
            for row, point in _paired(rows, points_of(run.scored, rows, extractor), run):
                points.append(replace(point, side=run.side(row)))
    if not points:
        return None
    which = "" if len(runs) == all_runs else f", {letters(runs)}"
    reference = references.pop() if len(references) == 1 else None
    return chart_of(f"Fraction retrieved by {runs[0].scored.label(extractor)}{which}", points, reference)


def _paired(rows: Sequence[Values], points: Sequence[RatePoint], run: NamedRun) -> list[tuple[str, RatePoint]]:
    """Return (side, point) of every point: a point names its side by its label."""
    names = {run.scored.side(row["side"]).text: row["side"] for row in rows[1:]}
    return [(names[point.side.text], point) for point in points]


def _table(runs: Runs, rows: Mapping[str, Sequence[Values]], all_runs: int) -> Table:
    """Return one row per side and run, those of one side below each other."""
    shown = []
    for side in (IMAGE_SIDE, *sides_of(runs)):
        for run in runs:
            row = next((row for row in rows[run.letter] if row["side"] == side), None)
            if row is not None:
                shown.append({**row, BLOCK: side, "side": run.scored.side(side), "run": run.letter})
    having = {name: run for run in reversed(runs) for name in distortions(run.scored)}
    columns = [metric_column(having[name].scored.config, name) for name in DISTORTIONS if name in having]
    labels = {name: name for name in extractors_of(runs) if any(name in extractors(run.scored) for run in runs)}
    kind = ", synthetic" if all(run.scored.is_synthetic for run in runs) else ""
    which = "" if len(runs) == all_runs else f" of {letters(runs)}"
    notes = [NOTE, *_apart(runs, list(labels))]
    heads = [SIDE, text_column("run", "run"), *number_columns(shown, columns, labels)]
    return Table(
        f"Rate, distortion, phenotype{which}; bits per pixel and stain{kind}", _known(heads, shown), shown, notes
    )


def _known(columns: Sequence[Column], rows: Sequence[Values]) -> list[Column]:
    """Return the columns that have a value."""
    return [column for column in columns if any(row.get(column.key) is not None for row in rows)]


def _apart(runs: Runs, names: Sequence[str]) -> list[str]:
    """Return which FR and mAP of the table may not be compared."""
    sets = {name: of_same_question(runs, name) for name in names}
    return [
        f"FR and mAP by {name} may not be compared between {' | '.join(letters(alike) for alike in apart)}."
        for name, apart in sets.items()
        if len(apart) > 1
    ]
