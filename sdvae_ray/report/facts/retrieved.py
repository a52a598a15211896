"""The result of `retrieve` as lines and a table: the score with its interval, and its floors."""

from sdvae_ray.queries.copairs_lists import PERMUTED
from sdvae_ray.queries.retrieve import Retrieved
from sdvae_ray.report.facts.floors import MEANINGS
from sdvae_ray.report.facts.outcome import FRACTION, OK
from sdvae_ray.report.facts.table import REASON, Column, Section, Table, number, text_column

_MEANINGS = MEANINGS | {PERMUTED: "profiles permuted among the queries of each plate"}
_COLUMNS = (
    text_column("quantity", "quantity"),
    text_column("meaning", "meaning"),
    Column(FRACTION, "FR", 3),
    Column("mean_map", "mAP", 3),
    Column("compounds_scored", "groups scored", 0),
)


def retrieved_section(retrieved: Retrieved) -> Section:
    """Return the score in two lines, and a table of floors or why it is missing."""
    summary, floors = retrieved.summary, retrieved.floors
    most = "" if summary["null"] == "copairs" else "at most "  # the others stop early, or count
    low, high = (number(summary[f"{FRACTION}_{end}"], 3) for end in ("low", "high"))
    lines = [
        f"{summary['wells']:,} wells ({summary['queries']:,} queries, {summary['references']:,} references), "
        f"{summary['features']:,} features",
        f"mean mAP {number(summary['mean_map'], 4)}, normalised {number(summary['mean_normalised_map'], 4)}; FR "
        f"{number(summary[FRACTION], 4)} ({low} to {high}): {summary['retrieved']:,} of {summary['groups_scored']:,} "
        f"groups, by the {summary['null']} null, {most}{summary['null_size']:,} draws",
    ]
    notes = [f"note: {note}" for note in summary["notes"]]
    if floors is None:
        brief = "No floors: no column says where on its plate a well is (Metadata_Well)."
        return Section("retrieved", "", lines=lines, reasons=notes, brief=brief)
    rows = []
    for row in floors.rows(named=True):
        if row["status"] != OK:
            row |= {FRACTION: None, "mean_map": None, "compounds_scored": None, REASON: row["status"]}
        rows.append({**row, "meaning": _MEANINGS.get(row["quantity"], "the score")})
    table = Table("Floors: what the same code gives", _COLUMNS, rows)
    return Section("retrieved", "", lines=lines, reasons=notes, tables=[table])
