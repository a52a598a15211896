"""The tables and lines of a comparison of two runs, A and B; a difference is always B - A."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sdvae_ray.report.facts import published
from sdvae_ray.report.facts.floors import FLOORS
from sdvae_ray.report.facts.outcome import DISTANCES, FRACTION
from sdvae_ray.report.facts.runs.settings import in_words
from sdvae_ray.report.facts.scored import GROUP, RANDOM, Values
from sdvae_ray.report.facts.table import (
    BLOCK,
    NONE,
    SIDE,
    Column,
    Row,
    Section,
    Table,
    number,
    text_column,
    with_interval,
)

RUNS = ("a", "b")
_RUN = text_column("run", "run")
_PLACE = (text_column("group", "group", says_once=True), text_column("side", "side", says_once=True))
Comparison = Mapping[str, Any]


def sections(comparison: Comparison) -> list[Section]:
    """Return the sections of a comparison: its tables and lines."""
    return [make(comparison) for make in (_data, _settings, _retrieval, _floors, _metrics, _distances, _only)]


def headings(comparison: Comparison) -> list[str]:
    """Return one line per run: where it is and how many fields of view it has."""
    lines = []
    for run in RUNS:
        facts = comparison[run]
        kind = "synthetic plates, " if facts["synthetic"] else ""
        lines.append(f"{run.upper()}  {facts['uri']}: {kind}{facts['manifest'].get('fovs', NONE)} FOVs")
    return lines


def _lines(comparison: Comparison, lines_of: Callable[[Values], list[str]]) -> Iterator[tuple[str, str]]:
    """Yield (run, line); the run is "A and B" if both runs have the line."""
    a, b = ([line for line in lines_of(comparison[run]) if line] for run in RUNS)
    for line in dict.fromkeys([*a, *b]):
        yield ("A and B" if line in a and line in b else "A" if line in a else "B"), line


def _data(comparison: Comparison) -> Section:
    lines = [
        f"{run}: random weights: {names}. Their numbers test the machinery and say nothing about images."
        for run, names in _lines(comparison, lambda facts: [", ".join(facts["random_weights"])])
    ]
    if len({comparison[run]["manifest"].get("sha256") for run in RUNS}) > 1:
        lines.append(
            "The manifests differ: FR, metrics and distances are of different data, and a difference is not one of settings."
        )
    return Section("data", "", reasons=lines)


def _settings(comparison: Comparison) -> Section:
    rows = [
        {
            "key": row["key"],
            **{run: NONE if row["only"] == other else in_words(row[run]) for run, other in ("ab", "ba")},
        }
        for row in comparison["settings"]
    ]
    if not rows:
        return Section("settings", "", lines=["The settings, versions and weights are the same."])
    columns = [text_column("key", "key", keeps=44), text_column("a", "A"), text_column("b", "B")]
    brief = "As run.json has them, – not given; a score section changed after `encode` is not in it."
    return Section("settings", "", tables=[Table("What differs", columns, rows)], brief=brief)


def _retrieval(comparison: Comparison) -> Section:
    columns = [
        GROUP,
        SIDE,
        *_three(Column(FRACTION, "FR", 3, "higher")),
        Column("paper", "FR", 4, unit="paper"),
        *_three(Column("mean_map", "mAP", 3, "higher")),
        *(Column(f"compounds_scored {run}", "scored", 0, unit=run.upper()) for run in RUNS),
    ]

    def shown(row: Values) -> Values:
        scored = {f"compounds_scored {run}": _of(row, run, "compounds_scored") for run in RUNS}
        return {**_values(row, FRACTION), "paper": _paper(row), **_values(row, "mean_map"), **scored}

    tables = _tables(comparison, "retrieval", "Retrieval", columns, lambda row: [shown(row)])
    reasons = [f"{run}: {line}" for run, line in _lines(comparison, lambda facts: facts["reasons"])]
    for run, line in _lines(comparison, lambda facts: ["; ".join(facts["departures"])]):
        reasons.append(f"{run} is not the published protocol, so no printed FR stands beside it: {line}.")
    notes = ["FR: share of compounds told from controls. scored: compounds. – not scored, or not in that run."]
    if not tables:
        notes = ["No retrieval: nothing was scored."]
    if any(_of(row, run, "paper") is not None for row in comparison["retrieval"] for run in RUNS):
        printed = f"FR as printed ({published.CITATION}), {published.DATA}, {published.COMPOUNDS} compounds a group"
        notes.append(f"paper: {printed}, aggregated as the run is; of reconstructions the mean of 3 runs.")
    notes += [f"{run}: {line}." for run, line in _lines(comparison, lambda facts: facts["no_paper"])]
    return Section("retrieval", "", tables=tables, reasons=reasons, brief="\n".join(notes))


def _paper(row: Values) -> float | str | None:
    """Return the printed FR if it is the same for both runs, else the FR of A and of B as text."""
    a, b = (_of(row, run, "paper") for run in RUNS)
    if a == b:
        return a
    return "\n".join(f"{run} {number(value, 4)}" for run, value in (("A", a), ("B", b)) if value is not None)


def _floors(comparison: Comparison) -> Section:
    """Return FR with its interval, its difference from the originals', and its floors; one row per run."""
    columns = [
        *_PLACE,
        _RUN,
        Column(FRACTION, "FR", 3, unit="interval"),
        Column("difference", "−\u00a0image", 3, unit="interval", signed=True),
        Column("over_floor", "FR over floor", 3),
        *FLOORS.values(),
    ]

    def shown(row: Values, run: str) -> Values:
        values = row[run] or {}
        fraction, apart = with_interval(values, FRACTION), with_interval(values, "difference", "difference_")
        return {"run": run.upper(), **values, FRACTION: fraction, "difference": apart}

    tables = _tables(comparison, "floors", "FR and its floors", columns, lambda row: [shown(row, run) for run in RUNS])
    return Section("floors", "", tables=tables)


def _metrics(comparison: Comparison) -> Section:
    metric, unit, beside = text_column("metric", "metric"), text_column("unit", "unit"), text_column("beside", "")
    rows = []
    for row in comparison["metrics"]:
        known = row["a"] or row["b"]
        name = Column("", row["metric"], better=known["better"]).head
        head = {"side": _label(comparison, row["side"]), "metric": name, "unit": known["unit"]}
        rows.append(head | _values(row, "mean") | {"beside": _beside_mean(row)})
    if not rows:
        return Section("metrics", "")
    table = Table(
        "Metrics, mean over patches and stains", [SIDE, metric, unit, *_three(Column("mean", "mean")), beside], rows
    )
    brief = "ssim is SSIM; 1 - SSIM is what the authors plot under that name."
    return Section("metrics", "", tables=[table], brief=brief)


def _beside_mean(row: Values) -> str:
    """Return 1 - SSIM of both runs, or their medians if a mean is infinite; else ""."""
    if any(_of(row, run, "one_minus") is not None for run in RUNS):
        key, words = "one_minus", "1 - SSIM"
    elif any(_of(row, run, "mean") in ("inf", "-inf") for run in RUNS):
        key, words = "median", "median"
    else:
        return ""
    return f"{words}: " + " | ".join(number(_float(_of(row, run, key))) for run in RUNS)


def _distances(comparison: Comparison) -> Section:
    """Return every distance that a run has; rows A, B and the difference."""
    tables, reasons = [], []
    for extractor, rows in _by_extractor(comparison["distances"]):
        columns = [c for c in DISTANCES.values() if any(c.key in (row[run] or {}) for row in rows for run in RUNS)]
        shown: list[Row] = []
        for row in rows:
            head, numbers = _place(comparison, row), {column.key: _values(row, column.key) for column in columns}
            for name, end in (("A", "a"), ("B", "b"), ("B - A", "b-a")):
                shown.append({**head, "run": name, **{key: values[f"{key} {end}"] for key, values in numbers.items()}})
        title = f"Distances from the originals' patches by {_label(comparison, extractor)}, mean over parts"
        tables.append(Table(title, [*_PLACE, _RUN, *columns], shown))
        for run in RUNS:
            whys = dict.fromkeys(_of(row, run, "reason") for row in rows)
            reasons += [f"{run.upper()}, {extractor}: {why}" for why in whys if why]
    return Section("distances", "", tables=tables, reasons=reasons)


def _only(comparison: Comparison) -> Section:
    lines = _lines(comparison, lambda facts: [f"{kind}: {', '.join(v)}" for kind, v in facts["only"].items() if v])
    return Section("only", "", reasons=[f"only in {run}: {names} (matched by name)" for run, names in lines])


def _tables(
    comparison: Comparison,
    part: str,
    title: str,
    columns: Sequence[Column],
    shown: Callable[[Values], list[Values]],
) -> list[Table]:
    """Return one table per extractor. shown: returns the table rows of a row of the comparison, without group and side."""
    return [
        Table(
            f"{title} by {_label(comparison, extractor)}",
            columns,
            [{**_place(comparison, row), **values} for row in rows for values in shown(row)],
        )
        for extractor, rows in _by_extractor(comparison[part])
    ]


def _by_extractor(rows: Sequence[Values]) -> list[tuple[str, list[Values]]]:
    return [(name, list(here)) for name, here in itertools.groupby(rows, key=lambda row: str(row["extractor"]))]


def _three(column: Column) -> list[Column]:
    """Return the columns of A, B and the difference."""
    a, b = (replace(column, key=f"{column.key} {run}", unit=run.upper()) for run in RUNS)
    return [a, b, replace(column, key=f"{column.key} b-a", unit="B - A", signed=True)]


def _values(row: Values, name: str) -> Values:
    """Return the values of A, B and the difference, under the keys of `_three`."""
    a, b = (_float(_of(row, run, name)) for run in RUNS)
    return {f"{name} a": a, f"{name} b": b, f"{name} b-a": _float(row["difference"][name])}


def _of(row: Values, run: str, name: str) -> Any:
    """Return a value of a run in a row; None if the run has no such row, or the row no such value."""
    return (row[run] or {}).get(name)


def _place(comparison: Comparison, row: Values) -> Values:
    return {BLOCK: (row["group"], row["side"]), "group": row["group"], "side": _label(comparison, row["side"])}


def _label(comparison: Comparison, name: str) -> str:
    runs = [run.upper() for run in RUNS if name in comparison[run]["random_weights"]]
    return f"{name} {RANDOM}" if len(runs) == 2 else f"{name} (random weights in {runs[0]})" if runs else name


def _float(value: float | str | None) -> float | None:
    """Return a number of the comparison, in which infinity is the text "inf"."""
    return None if value is None else float(value)
