"""Retrieval tasks within a group, beside phenotypic activity: rows for the terminal and the page. Transfer is in transfers.py."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sdvae_ray.config import RunConfig
from sdvae_ray.report.facts import findings
from sdvae_ray.report.facts.findings import NONE, number
from sdvae_ray.run.scores import Scores

TASKS = {
    "distinctiveness": "a compound's replicates against all other compounds' wells",
    "consistency": "compounds that share a target against those that share none, on mean profiles",
    "cross_side": "a reconstruction queries the originals: its compound's other wells against its plate's controls",
}
OK = "ok"
NUMBERS = {  # column of scores/tasks -> its heading; a floor stands beside what it is a floor of
    "mean_map": "mAP ↑",
    "floor_map": "permuted",
    "mean_normalised_map": "normalised ↑",
    "fraction_retrieved": "FR ↑",
    "floor_fraction_retrieved": "permuted",
}
FLOOR = "the floor, the same with profiles permuted within each plate (consistency: among all compounds)."


@dataclass(frozen=True)
class TaskRow:
    """Of one side: task -> texts in the order of NUMBERS."""

    extractor: str
    side: str
    group: str
    numbers: dict[str, tuple[str, ...]]


def task_rows(config: RunConfig, scores: Scores) -> list[TaskRow]:
    """By extractor, group and side; what was not scored has no entry."""
    found: dict[tuple[str, str, str], dict[str, tuple[str, ...]]] = {}
    for row in of_tasks(scores, TASKS):
        key = (row["extractor"], row["side"], row["group"])
        numbers = found.setdefault(key, {})
        if row["status"] == OK:
            numbers[row["task"]] = tuple(number(row.get(name), 3) for name in NUMBERS)
    rows = [TaskRow(*key, numbers) for key, numbers in found.items()]
    return findings.in_order(config, rows)


def short(row: TaskRow, task: str) -> tuple[str, str]:
    """mAP and FR of a task, each with its floor in brackets."""
    if task not in row.numbers:
        return NONE, NONE
    mean, floor, _, fraction, floor_fraction = row.numbers[task]
    return f"{mean} ({floor})", f"{fraction} ({floor_fraction})"


def shown_tasks(rows: list[TaskRow]) -> list[str]:
    return [name for name in TASKS if any(name in row.numbers for row in rows)]


def reasons(scores: Scores) -> list[str]:
    """A line per task and reason why it was not scored."""
    lacking = [row for row in of_tasks(scores, TASKS) if row["status"] != OK]
    counts: dict[str, int] = {}
    for row in lacking:
        text = f"{row['task']} {row['status']}"
        counts[text] = counts.get(text, 0) + 1
    return [f"{text} ({count} of extractor, side and group)" for text, count in counts.items()]


def of_tasks(scores: Scores, names: Collection[str]) -> list[dict[str, Any]]:
    """The rows of scores/tasks of these tasks."""
    return [row for row in scores.tasks.rows(named=True) if row["task"] in names]
