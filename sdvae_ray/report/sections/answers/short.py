"""In short: how many of the originals' compounds each reconstruction keeps, and compounds retrieved of compounds scored."""

from collections.abc import Callable, Mapping, Sequence

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.report.facts import outcome
from sdvae_ray.report.facts.conclude.words import listed
from sdvae_ray.report.facts.outcome import FRACTION
from sdvae_ray.report.facts.scored import ScoredRun, Values
from sdvae_ray.report.facts.table import BLOCK, NONE, Row, Section, Table, text_column
from sdvae_ray.report.sections.phenotypes.truth import TruthCell, TruthRow, truth_rows

_SENTENCES = 12
_EFFECTS: dict[str, Callable[[TruthRow], bool]] = {
    "with an effect": lambda row: row.degree != 0,
    "without an effect": lambda row: row.degree == 0,
}


def section(scored: ScoredRun) -> Section | None:
    """Return one sentence per extractor and group, and a table of counts; None for a run without a perturbation."""
    if scored.config.score.perturbation is None:
        return None
    rows = [row for row in outcome.retrieval_rows(scored) if row.get(FRACTION) is not None]
    lines = _sentences(scored) if rows else ["No compound was scored."]
    if rows and not any(row["side"] == IMAGE_SIDE for row in rows):
        lines.append("The originals were not scored, so there is nothing to compare reconstructions with.")
    if failed := len(scored.failures):
        lines.append(f"{failed:,} of the fields of view failed and {'is' if failed == 1 else 'are'} left out.")
    reasons = outcome.reasons(scored)
    return Section(
        "short",
        "How many compounds are kept?",
        "How many",
        lines=lines,
        tables=[_counts(scored, rows)] if rows else [],
        reasons=reasons,
    )


def _sentences(scored: ScoredRun) -> list[str]:
    """Return one sentence per extractor and group: which sides keep how many of the originals' compounds, the most first."""
    rows: dict[tuple[str, str], list[Values]] = {}
    for row in outcome.kept(scored):
        if row["original"]:
            rows.setdefault((row["extractor"], row["group"]), []).append(row)
    lines = []
    for place, here in rows.items():
        parts = []
        for both in sorted({row["both"] for row in here}, reverse=True):
            sides = [scored.label(row["side"]) for row in here if row["both"] == both]
            parts.append(f"{listed(sides)} {'keep' if len(sides) > 1 else 'keeps'} {both}")
        total = here[0]["original"]
        kept = f"of the {total} compounds that the originals retrieve, {'; '.join(parts)}."
        added = [f"{scored.label(row['side'])} {row['added']}" for row in here if row["added"]]
        more = f" Beside these, compounds that the originals do not retrieve: {', '.join(added)}." if added else ""
        lines.append(f"By {scored.by(*place)}: {kept}{more}")
    return lines if len(lines) <= _SENTENCES else [*lines[:_SENTENCES], "The others are in the comparison below."]


def _counts(scored: ScoredRun, scores: Sequence[Values]) -> Table:
    """Return retrieved of scored compounds, one column per side; below each extractor and group the truth, if it is known."""
    columns = [text_column("extractor", "extractor", says_once=True), text_column("compounds", "compounds")]
    columns += [scored.side_column(side) for side in scored.sides(row["side"] for row in scores)]
    truth = truth_rows(scored)
    rows: list[Row] = []
    for extractor, group in dict.fromkeys((row["extractor"], row["group"]) for row in scores):
        counts = {
            row["side"]: f"{row['retrieved']}/{row['compounds_scored']}"
            for row in scores
            if (row["extractor"], row["group"]) == (extractor, group)
        }
        head = {BLOCK: f"{extractor} {group}", "extractor": scored.by(extractor, group)}
        rows.append({**head, "compounds": "all compounds", **counts})
        here = [row for row in truth if (row.extractor, row.group) == (extractor, group)]
        for words, has_effect in _EFFECTS.items():
            if cells := [row.cells for row in here if has_effect(row)]:
                kind = "synthetic, " if scored.is_synthetic else ""
                rows.append({**head, "compounds": f"{kind}{words}", **{side: _sum(cells, side) for side in counts}})
    return Table("Compounds retrieved of compounds scored", columns, rows)


def _sum(rows: Sequence[Mapping[str, TruthCell]], side: str) -> str:
    cells = [row[side] for row in rows if side in row]
    return f"{sum(cell.retrieved for cell in cells)}/{sum(cell.scored for cell in cells)}" if cells else NONE
