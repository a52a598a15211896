"""Fields of view that could not be used, and why."""

from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Section, Table, text_column

FAILURES = 200  # rows of the table
_IN_TERMINAL = 3


def section(scored: ScoredRun) -> Section:
    """Return the fields of view that failed, with the reason for every one."""
    failures, tried = scored.failures, scored.fovs.height
    head = ("failures", "Failed fields of view", "Failures")
    if not failures:
        return Section(*head, lead=f"None of {tried:,}.")
    more = f" The first {FAILURES}; the others are in the column error of fovs/." if len(failures) > FAILURES else ""
    rows = [{"fov": fov, "why": why} for fov, why in failures[:FAILURES]]
    title = f"{len(failures):,} of {tried:,} fields of view failed and are left out"
    columns = [text_column("fov", "field of view"), text_column("why", "reason")]
    return Section(
        *head,
        lead=f"{len(failures):,} of {tried:,} could not be used and are in no number above.{more}",
        tables=[Table(title, columns, rows, rows_in_terminal=_IN_TERMINAL)],
        brief="All of them: the report, or the column `error` of fovs/.",
    )
