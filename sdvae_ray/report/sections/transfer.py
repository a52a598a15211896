"""Transfer from one group to another, beside both of its floors: a table per extractor and task."""

from sdvae_ray.report.facts.outcome import OK
from sdvae_ray.report.facts.scored import ScoredRun, Values, counted_reasons
from sdvae_ray.report.facts.table import BLOCK, SIDE, Column, Section, Table, text_column

TRANSFERS = {
    "transfer_activity": "a well queries another group: its compound's wells there against the negative controls there",
    "transfer_distinctiveness": "the same against all other compounds' wells there",
}
COLUMNS = (  # key: a column of scores/tasks; a floor stands beside the number that it is a floor of
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


def section(scored: ScoredRun) -> Section | None:
    """None of a run that was scored without transfer, or before there was any."""
    rows = [row for row in scored.scores.tasks.rows(named=True) if row["task"] in TRANSFERS]
    tables = _tables(scored, [row for row in rows if row["mean_map"] is not None])
    if not rows:
        return None
    return Section(
        "transfer",
        "Transfer between groups",
        tables=tables,
        reasons=counted_reasons(_reasons(rows), "extractor, side, from and to"),
        terms=TRANSFERS if tables else {},
        notes=[_FLOORS] if tables else [],
        brief=_FLOORS if tables else "",
    )


def _tables(scored: ScoredRun, rows: list[Values]) -> list[Table]:
    """By extractor and task; rows by column, from and to, and side."""
    routed = scored.in_order({**row, "group": route(row["source"], row["target"])} for row in rows)
    tables = []
    for extractor in scored.extractors(row["extractor"] for row in routed):
        for task in TRANSFERS:
            here = [row for row in routed if (row["extractor"], row["task"]) == (extractor, task)]
            shown = [
                {**row, "side": scored.side(row["side"]), BLOCK: (row["column"], row["group"])}
                for row in sorted(here, key=lambda row: str(row["column"]))
            ]
            columns = [text_column("group", "from → to", says_once=True), SIDE, *COLUMNS]
            if shown:
                tables.append(Table(f"{task} by {scored.label(extractor)}", columns, shown))
    return tables


def route(source: str, target: str) -> str:
    """From one group to another; a value in which they agree is said once: A549 → U2OS / 24."""
    before, after = source.split(_BETWEEN), target.split(_BETWEEN)
    if len(before) != len(after):
        return f"{source} → {target}"
    return _BETWEEN.join(a if a == b else f"{a} → {b}" for a, b in zip(before, after, strict=True))


def _reasons(rows: list[Values]) -> list[str]:
    """Per row, task and distinct reason why it has no number, or no floor where that is another reason."""
    lines = []
    for row in rows:
        lacking = {row[f"{name}_status"]: f"'s floor {name}" for name in ("position", "floor")} | {row["status"]: ""}
        for why, whose in lacking.items():
            if why not in (OK, None):
                words = why if " " in why else why.replace("_", " ")
                lines.append(f"{row['task']}{whose} along {row['column']}: {words}")
    return lines
