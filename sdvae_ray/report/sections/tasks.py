"""Retrieval tasks within a group, beside phenotypic activity: a table per extractor and task."""

from sdvae_ray.report.facts.outcome import OK
from sdvae_ray.report.facts.scored import ScoredRun, counted_reasons
from sdvae_ray.report.facts.table import Column, Section

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


def section(scored: ScoredRun) -> Section | None:
    rows = [row for row in scored.scores.tasks.rows(named=True) if row["task"] in TASKS]
    if not rows:
        return None
    tables, terms = [], {}
    for task, meaning in TASKS.items():
        if known := [row for row in rows if row["task"] == task and row["status"] == OK]:
            tables += scored.tables_by_extractor(task, known, COLUMNS)
            terms[task] = meaning
    lacking = (f"{row['task']} {row['status']}" for row in rows if row["status"] != OK)
    return Section(
        "tasks",
        "Other retrieval tasks",
        tables=tables,
        reasons=counted_reasons(lacking, "extractor, side and group"),
        terms=terms,
        notes=[_FLOOR, _NULL] if tables else [],
        brief=_FLOOR if tables else "",
    )
