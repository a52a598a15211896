"""Retrieval tasks other than phenotypic activity, within a group and between groups: a table per extractor and task."""

from typing import Any

from sdvae_ray.report.facts.outcome import OK
from sdvae_ray.report.facts.scored import ScoredRun, Values, counted_reasons
from sdvae_ray.report.facts.table import BLOCK, SIDE, Column, Section, Table, text_column

TASKS = {
    "distinctiveness": "a compound's replicates against all other compounds' wells",
    "consistency": "compounds that share a target against those that share none, on mean profiles",
    "cross_side": "a reconstruction queries the originals: its compound's other wells against its plate's controls",
}
COLUMNS = (  # key: a column of scores/tasks; a floor stands beside the number that it is a floor of
    Column("mean_map", "mAP", 3, "higher"),
    Column("floor_map", "permuted", 3),
    Column("mean_normalised_map", "normalised", 3, "higher"),
    Column("fraction_retrieved", "FR", 3, "higher"),
    Column("floor_fraction_retrieved", "permuted", 3),
)
_FLOOR = "Permuted: the floor, the same with profiles permuted within each plate (consistency: among all compounds)."
_NULL = "p-values of these are of copairs' null: for replicates it is conservative."

TRANSFERS = {
    "transfer_activity": "a well queries another group: its compound's wells there against the negative controls there",
    "transfer_distinctiveness": "the same against all other compounds' wells there",
}
TRANSFER_COLUMNS = (
    Column("mean_map", "mAP", 3, "higher"),
    Column("mean_normalised_map", "normalised", 3, "higher"),
    Column("floor_normalised_map", "permuted", 3),
    Column("position_normalised_map", "position", 3),
    Column("fraction_retrieved", "FR", 3, "higher"),
    Column("floor_fraction_retrieved", "permuted", 3),
    Column("position_fraction_retrieved", "position", 3),
)
_FLOORS = (
    "Floors. Permuted: compounds permuted among the treated wells of each plate of the group that is queried. Position: control "
    "wells query the controls at their own position there. Transfer near a floor says nothing of the compound."
)
_BETWEEN = " / "  # the values of a group


def within(scored: ScoredRun) -> Section | None:
    """Return the tasks within a group; None if the run was scored without them."""
    rows = [row for row in scored.scores.tasks.rows(named=True) if row["task"] in TASKS]
    if not rows:
        return None
    tables, terms = [], {}
    for task, meaning in TASKS.items():
        if known := [row for row in rows if row["task"] == task and row["status"] == OK]:
            tables += scored.tables_by_extractor(task, known, COLUMNS)
            terms[task] = meaning
    lacking = (f"{row['task']} {row['status']}" for row in rows if row["status"] != OK)
    reasons = counted_reasons(lacking, "extractor, side and group")
    small: dict[str, Any] = {"notes": [_FLOOR, _NULL], "brief": _FLOOR} if tables else {}
    return Section("tasks", "Other retrieval tasks", tables=tables, reasons=reasons, terms=terms, **small)


def transfer(scored: ScoredRun) -> Section | None:
    """Return the transfer between groups; None if the run was scored without transfer."""
    rows = [row for row in scored.scores.tasks.rows(named=True) if row["task"] in TRANSFERS]
    if not rows:
        return None
    tables = _transfer_tables(scored, [row for row in rows if row["mean_map"] is not None])
    reasons = counted_reasons(_reasons(rows), "extractor, side, from and to")
    small: dict[str, Any] = {"terms": TRANSFERS, "notes": [_FLOORS], "brief": _FLOORS} if tables else {}
    return Section("transfer", "Transfer between groups", tables=tables, reasons=reasons, **small)


def _transfer_tables(scored: ScoredRun, rows: list[Values]) -> list[Table]:
    """Return one table per extractor and task; rows are sorted by column, then groups, then side."""
    routed = scored.in_order({**row, "group": route(row["source"], row["target"])} for row in rows)
    tables = []
    for extractor in scored.extractors(row["extractor"] for row in routed):
        for task in TRANSFERS:
            here = [row for row in routed if (row["extractor"], row["task"]) == (extractor, task)]
            shown = [
                {**row, "side": scored.side(row["side"]), BLOCK: (row["column"], row["group"])}
                for row in sorted(here, key=lambda row: str(row["column"]))
            ]
            columns = [text_column("group", "from → to", says_once=True), SIDE, *TRANSFER_COLUMNS]
            if shown:
                tables.append(Table(f"{task} by {scored.label(extractor)}", columns, shown))
    return tables


def route(source: str, target: str) -> str:
    """Return the text of a transfer from one group to another; a value that both have is printed once: A549 → U2OS / 24."""
    before, after = source.split(_BETWEEN), target.split(_BETWEEN)
    if len(before) != len(after):
        return f"{source} → {target}"
    return _BETWEEN.join(a if a == b else f"{a} → {b}" for a, b in zip(before, after, strict=True))


def _reasons(rows: list[Values]) -> list[str]:
    """Return lines that say why numbers are missing: for every row one line for its score and one for a
    floor with another reason.
    """
    lines = []
    for row in rows:
        lacking = {row[f"{name}_status"]: f"'s floor {name}" for name in ("position", "floor")} | {row["status"]: ""}
        for why, whose in lacking.items():
            if why not in (OK, None):
                words = why if " " in why else why.replace("_", " ")
                lines.append(f"{row['task']}{whose} along {row['column']}: {words}")
    return lines
