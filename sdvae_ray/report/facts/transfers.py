"""Transfer from one group to another, its floors beside it: rows for the terminal and the page."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from rich.console import Console
from rich.markup import escape

from sdvae_ray.config import RunConfig
from sdvae_ray.report.facts import findings
from sdvae_ray.report.facts.findings import label, number
from sdvae_ray.report.facts.tasks import OK, of_tasks
from sdvae_ray.report.terminal.tables import number_column, plain_table, say, text_column
from sdvae_ray.run.scores import Scores

TRANSFERS = {
    "transfer_activity": "a well queries another group: its compound's wells there against the negative controls there",
    "transfer_distinctiveness": "the same against all other compounds' wells there",
}
NUMBERS = {  # column of scores/tasks -> its heading; a floor stands beside what it is a floor of
    "mean_map": "mAP ↑",
    "mean_normalised_map": "normalised ↑",
    "floor_normalised_map": "permuted",
    "position_normalised_map": "position",
    "fraction_retrieved": "FR ↑",
    "floor_fraction_retrieved": "permuted",
    "position_fraction_retrieved": "position",
}
FLOORS = (
    "Floors. Permuted: compounds permuted among the treated wells of each plate of the group that is queried. Position: control "
    "wells query the controls at their own position there. Transfer near a floor says nothing of the compound."
)
_BETWEEN = " / "  # the values of a group


@dataclass(frozen=True)
class TransferRow:
    """Of one side, from one group to another: task -> NUMBERS as text, of the tasks that were scored."""

    extractor: str
    side: str
    group: str  # from and to: A549 → U2OS / 24
    column: str
    numbers: dict[str, dict[str, str]]


def transfer_rows(config: RunConfig, scores: Scores) -> list[TransferRow]:
    """By extractor, column, from, to and side; none of a run that was scored before there was transfer."""
    found: dict[tuple[str, str, str, str], dict[str, dict[str, str]]] = {}
    for row in of_tasks(scores, TRANSFERS):
        if row["mean_map"] is not None:
            key = (row["extractor"], row["side"], route(row["source"], row["target"]), row["column"])
            found.setdefault(key, {})[row["task"]] = {name: number(row[name], 3) for name in NUMBERS}
    rows = findings.in_order(config, (TransferRow(*key, numbers) for key, numbers in found.items()))
    extractors = findings.extractors(config, (row.extractor for row in rows))
    return sorted(rows, key=lambda row: (extractors.index(row.extractor), row.column))


def route(source: str, target: str) -> str:
    """From one group to another; a value in which they agree is said once."""
    here, there = source.split(_BETWEEN), target.split(_BETWEEN)
    if len(here) != len(there):
        return f"{source} → {target}"
    return _BETWEEN.join(a if a == b else f"{a} → {b}" for a, b in zip(here, there, strict=True))


def reasons(scores: Scores) -> list[str]:
    """A line per task and reason why it has no number, or no floor where that is another reason."""
    found: Counter[str] = Counter()
    for row in of_tasks(scores, TRANSFERS):
        lacking = {row[f"{what}_status"]: f"'s floor {what}" for what in ("position", "floor")} | {row["status"]: ""}
        for why, what in lacking.items():
            if why not in (OK, None):
                words = why if " " in why else why.replace("_", " ")
                found[f"{row['task']}{what} along {row['column']}: {words}"] += 1
    return [f"{text} ({count} of extractor, side, from and to)" for text, count in found.items()]


def print_transfers(config: RunConfig, scores: Scores, console: Console) -> None:
    """A table per extractor and task, 100 columns wide, and why something has no number."""
    rows = transfer_rows(config, scores)
    for (extractor, task), mine in by_task(config, rows):
        table = plain_table(f"{task} by {label(config, extractor)}")
        text_column(table, "from → to")
        text_column(table, "side")
        for heading in NUMBERS.values():
            number_column(table, heading)
        for group, row in mine:
            table.add_row(escape(group), escape(label(config, row.side)), *row.numbers[task].values())
        console.print(table)
    for line in reasons(scores):
        say(console, line, style="yellow")
    if rows:
        say(console, FLOORS, style="dim")


def by_task(
    config: RunConfig, rows: list[TransferRow]
) -> Iterator[tuple[tuple[str, str], list[tuple[str, TransferRow]]]]:
    """(extractor, task) of every table, and its rows with their `group`, which is said once of the sides that follow each other."""
    for extractor in findings.extractors(config, (row.extractor for row in rows)):
        for task in TRANSFERS:
            mine = [row for row in rows if row.extractor == extractor and task in row.numbers]
            again = [first.group == second.group for first, second in pairwise(mine)]
            if mine:
                shown = [("" if same else row.group, row) for same, row in zip([False, *again], mine, strict=True)]
                yield (extractor, task), shown
