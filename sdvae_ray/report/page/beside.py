"""Sections of the report on what stands beside the scores: floors and intervals, other retrieval tasks, transfer."""

from collections.abc import Iterator

from sdvae_ray.config import RunConfig
from sdvae_ray.report.facts import findings, floors, tasks, transfers
from sdvae_ray.report.facts.findings import NONE, label
from sdvae_ray.report.page.markup import NUMBER, bullets, cell, head, note, paragraph, row, row_head, section, table
from sdvae_ray.report.page.sections import named
from sdvae_ray.run.scores import Scores


def floors_section(config: RunConfig, scores: Scores) -> str:
    rows = floors.floor_rows(config, scores)
    if not rows:
        return ""
    grouped = len({each.group for each in rows}) > 1
    tables = []
    for extractor in findings.extractors(config, (each.extractor for each in rows)):
        body = []
        for each in rows:
            if each.extractor == extractor:
                lead = [row_head(named(config, each.side)), *([cell(each.group)] if grouped else [])]
                shown = [each.fraction, each.interval, *each.difference.split("\n")]
                shown += [NONE] * (4 - len(shown))
                body.append(row([*lead, *(cell(text, NUMBER) for text in (*shown, *each.floors.values()))]))
        columns = [head("side"), *([head("group")] if grouped else [])]
        columns += [head("FR", NUMBER), head("95 %", NUMBER), head("− image", NUMBER), head("95 %", NUMBER)]
        columns += [head(words.replace("\n", " "), f"{NUMBER} narrow") for words, _ in floors.FLOORS.values()]
        tables.append(table(f"Extractor: {label(config, extractor)}", columns, body, "tight"))
    what = (
        "FR with its interval (compounds resampled), its difference from the originals' over the same compounds, and what the same "
        "code gives where there is nothing to find, or without the leak of the fit into the negatives. A score near its floors "
        "says nothing."
    )
    listed = bullets([f"{words.replace(chr(10), ' ')}: {said}." for words, said in floors.FLOORS.values()])
    return section("floors", "Floors", paragraph(what), *tables, listed, bullets(floors.reasons(scores)))


def tasks_section(config: RunConfig, scores: Scores) -> str:
    rows = tasks.task_rows(config, scores)
    names = tasks.shown_tasks(rows)
    moved = transfers.transfer_rows(config, scores)
    said = [*tasks.reasons(scores), *transfers.reasons(scores)]
    if not names and not moved and not said:
        return ""
    listed = [f"{name}: {tasks.TASKS[name]}." for name in names]
    listed += [f"{name}: {words}." for name, words in transfers.TRANSFERS.items() if moved]
    what = note("p-values of these are of copairs' null: for replicates it is conservative.")
    floor = (note(f"Permuted: {tasks.FLOOR}") if names else "") + (note(transfers.FLOORS) if moved else "")
    shown = [*_task_tables(config, rows, names), *_transfer_tables(config, moved)]
    return section("tasks", "Other retrieval tasks", *shown, bullets(listed), floor, what, bullets(said))


def _task_tables(config: RunConfig, rows: list[tasks.TaskRow], names: list[str]) -> Iterator[str]:
    """One of each extractor and task."""
    grouped = len({each.group for each in rows}) > 1
    columns = [head("side"), *([head("group")] if grouped else [])]
    columns += [head(words, NUMBER) for words in tasks.NUMBERS.values()]
    for extractor in findings.extractors(config, (each.extractor for each in rows)) if names else []:
        for name in names:
            mine = [each for each in rows if each.extractor == extractor and name in each.numbers]
            body = []
            for each in mine:
                lead = [row_head(named(config, each.side)), *([cell(each.group)] if grouped else [])]
                body.append(row([*lead, *(cell(text, NUMBER) for text in each.numbers[name])]))
            if mine:
                yield table(f"Extractor: {label(config, extractor)}, {name}", columns, body, "tight")


def _transfer_tables(config: RunConfig, rows: list[transfers.TransferRow]) -> Iterator[str]:
    """One of each extractor and task: a side's transfer from one group to another, with its floors."""
    columns = [head("from → to"), head("side"), *(head(words, NUMBER) for words in transfers.NUMBERS.values())]
    for (extractor, task), mine in transfers.by_task(config, rows):
        body = []
        for group, each in mine:
            numbers = (cell(text, NUMBER) for text in each.numbers[task].values())
            body.append(row([cell(group), row_head(named(config, each.side)), *numbers], "gap" if group else ""))
        yield table(f"Extractor: {label(config, extractor)}, {task}", columns, body, "tight")
