"""What `retrieve` found, in a terminal: the score with its interval, and its floors."""

from rich.console import Console
from rich.markup import escape

from sdvae_ray.queries.copairs_lists import PERMUTED
from sdvae_ray.queries.retrieve import Retrieved
from sdvae_ray.report.facts.findings import count, number
from sdvae_ray.report.facts.floors import FLOORS
from sdvae_ray.report.terminal.tables import number_column, plain_table, say, text_column

_WHAT = {name: what for name, (_, what) in FLOORS.items()}
_WHAT[PERMUTED] = "profiles permuted among the queries of each plate"


def print_retrieved(found: Retrieved, console: Console) -> None:
    summary = found.summary
    for note in summary["notes"]:
        say(console, f"note: {note}", style="yellow")
    roles = f"{summary['queries']:,} queries, {summary['references']:,} references"
    say(console, f"{summary['wells']:,} wells ({roles}), {summary['features']:,} features", style="bold")
    most = "" if summary["null"] == "copairs" else "at most "  # the others stop early, or count
    low, high = (number(summary[f"fraction_retrieved_{end}"], 3) for end in ("low", "high"))
    say(
        console,
        f"mean mAP {number(summary['mean_map'], 4)}, normalised {number(summary['mean_normalised_map'], 4)}; FR "
        f"{number(summary['fraction_retrieved'], 4)} ({low} to {high}): {summary['retrieved']:,} of {summary['groups_scored']:,} "
        f"groups, by the {summary['null']} null, {most}{summary['null_size']:,} draws",
    )
    if found.floors is None:
        say(console, "No floors: no column says where on its plate a well is (Metadata_Well).", style="dim")
        return
    table = plain_table("Floors: what the same code gives")
    for name in ("quantity", "of"):
        text_column(table, name)
    for name in ("FR", "mAP", "groups\nscored"):
        number_column(table, name)
    for row in found.floors.rows(named=True):
        if row["status"] == "ok":
            numbers = (number(row["fraction_retrieved"], 3), number(row["mean_map"], 3), count(row["compounds_scored"]))
        else:
            numbers = ("–", "–", escape(row["status"]))
        table.add_row(row["quantity"], _WHAT.get(row["quantity"], "the score"), *numbers)
    console.print(table)
