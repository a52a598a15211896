"""The results of the two public benchmarks as lines and tables.

The authors' printed rows stand beside none of them: neither paper's table was at hand to be checked, and a figure that was not
checked is not printed.
"""

from typing import Any

from sdvae_ray.queries.cpjump1 import Benchmark
from sdvae_ray.queries.stringency import Ladder
from sdvae_ray.report.facts.table import REASON, Column, Section, Table, number, text_column

NOT_PRINTED = "The authors' printed rows are left out: their tables were not at hand to be checked."
_ACTIVITY = {
    "active_fraction": "active fraction",
    "active_map_all": "mean mAP of all compounds",
    "active_map_active": "mean mAP of active compounds",
    "active_map_all_inactive_0": "mean mAP of all, inactive as 0",
    "active_fraction_by_exchange": "active fraction by the null by exchange (ours)",
}
_CONSISTENCY = {
    "consistent_fraction": "consistent fraction of the targets that two active compounds have",
    "consistent_fraction_of_all_targets": "consistent fraction of all targets",
    "consistent_map_scored": "mean mAP of these targets",
    "consistent_map_consistent": "mean mAP of consistent targets",
    "consistent_map_all_others_0": "mean mAP of all targets, others as 0",
}


def cpjump1_section(benchmark: Benchmark) -> Section:
    """Return the benchmark's numbers in the authors' words, the floors of the activity, and what departs from the protocol."""
    summary = benchmark.summary
    columns = [text_column("meaning", "number", keeps=40), Column("value", "value", 4)]
    numbers = [{"meaning": words, "value": summary[name]} for name, words in (_ACTIVITY | _CONSISTENCY).items()]
    floors: list[Table] = []
    if benchmark.exchange.floors is not None:
        rows = [
            {
                "quantity": row["quantity"],
                "fr": row["fraction_retrieved"],
                "map": row["mean_map"],
                REASON: row["status"],
            }
            for row in benchmark.exchange.floors.rows(named=True)
        ]
        kinds = [text_column("quantity", "floor", keeps=24), Column("fr", "FR", 3), Column("map", "mAP", 3)]
        floors = [Table("Floors of the active fraction by the null by exchange", kinds, rows)]
    lines = [
        f"{len(summary['plates'])} plates, {summary['compounds']} compounds, {summary['targets']} targets, "
        f"{summary['features']:,} features ({summary['brightfield_features_left_out']} of brightfield left out)"
    ]
    notes = [f"departs from the protocol: {line}" for line in summary["departures"]]
    notes += [f"note: {note}" for note in summary["notes"]]
    tables = [Table("CPJUMP1 by the protocol of CHAMMI-75", columns, numbers), *floors]
    return Section("cpjump1", "", lines=lines, reasons=notes, tables=tables, brief=NOT_PRINTED)


def stringency_section(ladder: Ladder) -> Section:
    """Return the rungs of the ladder, in per cent as the authors give them, and each beside its permuted floor."""
    columns = [
        text_column("rung", "rung", keeps=24),
        Column("map", "mAP", 2, "higher", unit="%, 1 query a compound"),
        Column("map_all_wells", "mAP", 2, "higher", unit="%, all wells"),
        Column("permuted_map", "mAP", 2, unit="%, permuted"),
        Column("recall_at_1", "recall@1", 2, "higher", unit="%"),
        Column("permuted_recall_at_1", "recall@1", 2, unit="%, permuted"),
        Column("queries", "queries", 0),
    ]
    shares = ("map", "map_all_wells", "permuted_map", "recall_at_1", "permuted_recall_at_1")
    rows: list[dict[str, Any]] = []
    for rung in ladder.rungs.rows(named=True):
        shown = {name: None if rung[name] is None else 100 * rung[name] for name in shares}
        reason = {} if rung["status"] == "ok" else {REASON: rung["status"]}
        rows.append({"rung": rung["rung"], **shown, "queries": rung["queries"], **reason})
    facts = ladder.facts
    lines = [
        f"{facts['wells']:,} wells, {facts['compounds']:,} compounds ({number(facts['compounds_of_one_well'], 0)} of one well), "
        f"{facts['features']:,} features"
    ]
    lacking = [f"{row['rung']}: {row[REASON]}" for row in rows if REASON in row]
    notes = [*lacking, *(f"note: {note}" for note in facts["notes"])]
    table = Table("Replicates by MorphoHELM's ladder of stringency", columns, rows)
    return Section("stringency", "", lines=lines, reasons=notes, tables=[table], brief=NOT_PRINTED)
