"""Sections of the report that are tables: what was retrieved, how good reconstructions are, what they cost, what failed."""

from collections.abc import Iterator, Sequence

import polars as pl

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.report.facts import findings, outcome
from sdvae_ray.report.facts.findings import NONE, label, number
from sdvae_ray.report.facts.outcome import OK, Retrieval, TruthRow
from sdvae_ray.report.page import charts
from sdvae_ray.report.page.markup import (
    NUMBER,
    WHY,
    bullets,
    cell,
    esc,
    head,
    note,
    paragraph,
    row,
    row_head,
    section,
    swatch,
    table,
)
from sdvae_ray.run.scores import Scores

FAILURES = 200  # rows of the table of failed FOVs
_SENTENCES = 12


def named(config: RunConfig, side: str) -> str:
    """A side with its colour."""
    return swatch(charts.series(config, side)) + esc(label(config, side))


def by(config: RunConfig, extractor: str, group: str) -> str:
    """Extractor and, unless there is only one, group."""
    return label(config, extractor) + ("" if group == "all" else f", {group}")


# --- in short ----------------------------------------------------------------------------------------------------------------


def short_section(
    config: RunConfig, scores: Scores, rows: Sequence[Retrieval], truth: Sequence[TruthRow], failed: int
) -> str:
    lines = []
    for each in outcome.kept(config, scores):
        if each.original:
            added = f" and finds {each.added} that the originals do not" if each.added else ""
            where = by(config, each.extractor, each.group)
            kept = f"{label(config, each.side)} keeps {each.both} of the {each.original} compounds"
            lines.append(f"By {where}: {kept} that the originals retrieve{added}.")
    if len(lines) > _SENTENCES:
        lines = [*lines[:_SENTENCES], "The others are in the comparison below."]
    if not any(each.fraction is not None for each in rows):
        lines = ["No compound was scored."]
    elif not any(each.side == IMAGE_SIDE and each.fraction is not None for each in rows):
        lines.append("The originals were not scored, so there is nothing to compare reconstructions with.")
    if failed:
        lines.append(f"{failed:,} of the fields of view failed and {'is' if failed == 1 else 'are'} left out.")
    return section("short", "In short", bullets(lines), _counts_table(config, rows, truth), _reasons(config, rows))


def _reasons(config: RunConfig, rows: Sequence[Retrieval]) -> str:
    return bullets(outcome.reasons(config, rows))


def _counts_table(config: RunConfig, rows: Sequence[Retrieval], truth: Sequence[TruthRow]) -> str:
    """Retrieved of scored compounds: every side a column; the truth, where it is known, below each extractor and group."""
    scored = [each for each in rows if each.fraction is not None]
    names = findings.sides(config, (each.side for each in scored))
    body: list[str] = []
    for extractor, group in dict.fromkeys((each.extractor, each.group) for each in scored):
        found = {each.side: each for each in scored if (each.extractor, each.group) == (extractor, group)}
        cells = [f"{found[side].retrieved}/{found[side].scored}" if side in found else NONE for side in names]
        lead = [row_head(esc(by(config, extractor, group))), cell("all compounds")]
        body.append(row([*lead, *(cell(text, NUMBER) for text in cells)], "gap" if body else ""))
        here = [each for each in truth if (each.extractor, each.group) == (extractor, group)]
        for what, texts in _truth_counts(config, here, names):
            body.append(row([row_head(""), cell(what), *(cell(text, NUMBER) for text in texts)], "sub"))
    if not body:
        return ""
    columns = [head("extractor"), head("compounds"), *(_side_head(config, side) for side in names)]
    return table("Compounds retrieved of compounds scored", columns, body)


def _truth_counts(
    config: RunConfig, truth: Sequence[TruthRow], names: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    kind = "synthetic, " if config.synthetic else ""
    for active, what in ((True, "with an effect"), (False, "without an effect")):
        cells = [each.cells for each in truth if (outcome.strength_of(each.strength) != 0) == active]
        if cells:
            here = {side: [found[side] for found in cells if side in found] for side in names}
            yield (
                kind + what,
                [
                    f"{sum(c.retrieved for c in here[s])}/{sum(c.scored for c in here[s])}" if here[s] else NONE
                    for s in names
                ],
            )


def _side_head(config: RunConfig, side: str, span: int = 1) -> str:
    return f'<th scope="col" class="{NUMBER}" colspan="{span}">{named(config, side)}</th>'


# --- tables of scores --------------------------------------------------------------------------------------------------------


def metrics_section(config: RunConfig, scores: Scores) -> str:
    title = "Reconstruction quality"
    cells = findings.metric_cells(config, scores.metrics)
    if not cells:
        return section("metrics", title, paragraph("No metrics: no side has a usable field of view."))
    heads = findings.metric_heads(config, scores.metrics)
    rows = [
        row([row_head(named(config, side)), *(cell(found.get(each.name, NONE), NUMBER) for each in heads)])
        for side, found in cells.items()
    ]
    columns = [head("side"), *(head(f"{each.name} {each.arrow}", NUMBER, each.unit) for each in heads)]
    what = "Mean over all patches, then over stains (kld: RGB passes). ↑ higher is better, ↓ lower is better, – does not apply."
    return section("metrics", title, table("", columns, rows), note(what))


def retrieval_section(config: RunConfig, scores: Scores, rows: Sequence[Retrieval]) -> str:
    if not rows or config.score.perturbation is None:
        return section("retrieval", "Retrieval", paragraph("Nothing was scored: there are no compounds in this run."))
    grouped = len({each.group for each in rows}) > 1
    names = ["treated wells", "control wells", "compounds", "mAP ↑", "FR ↑"]
    names += [f"{name} ↑" for name in outcome.recall_columns(config).values()] + ["own well ↑", "FID\u00a0↓"]
    columns = [
        head("side"),
        *([head("group")] if grouped else []),
        *(head(name.replace(" ↑", "\u00a0↑"), f"{NUMBER} narrow") for name in names),
    ]
    tables = []
    for extractor in findings.extractors(config, (each.extractor for each in rows)):
        here = [each for each in rows if each.extractor == extractor]
        body, before = [], here[0].group
        for each in here:
            lead = [row_head(named(config, each.side)), *([cell(each.group)] if grouped else [])]
            cells = [cell(text, NUMBER) for text in each.numbers.values()]
            if each.status != OK:
                cells = [f'<td class="{WHY}" colspan="{len(names) - 1}">{esc(each.status)}</td>', cells[-1]]
            body.append(row([*lead, *cells], "gap" if each.group != before else ""))
            before = each.group
        caption = f"Extractor: {label(config, extractor)}" if grouped else f"Extractor: {by(config, extractor, before)}"
        tables += [table(caption, columns, body), note(_fid_note(scores, extractor))]
    return section("retrieval", "Retrieval", *tables)


def _fid_note(scores: Scores, extractor: str) -> str:
    here = scores.distributions.filter(pl.col("extractor") == extractor)
    if here.height == 0 or "fid" not in here.columns:
        return "FID: there are no patch features of the originals in this space."
    patches, features = min(here["n_image"].to_list()), max(here["dimensions"].to_list())
    few = " Fewer patches than features: it is then far too large." if patches <= features else ""
    return f"FID: the mean over stains or passes; {patches:,} or more patches of {features:,} features a side.{few}"


def truth_section(config: RunConfig, rows: Sequence[TruthRow]) -> str:
    if not rows:
        return ""
    grouped = len({each.group for each in rows}) > 1
    tables = []
    for extractor in findings.extractors(config, (each.extractor for each in rows)):
        here = [each for each in rows if each.extractor == extractor]
        names = findings.sides(config, (side for each in here for side in each.cells))
        columns = [head("phenotype"), head("strength", NUMBER), *([head("group")] if grouped else [])]
        body, before = [], here[0].phenotype
        for each in here:
            lead = [row_head(esc(each.phenotype)), cell(each.strength or NONE, NUMBER)]
            lead += [cell(each.group)] if grouped else []
            cells = [text for side in names for text in _truth_cells(each, side)]
            body.append(row([*lead, *cells], "gap" if each.phenotype != before else ""))
            before = each.phenotype
        sides = [_side_head(config, side, 2) for side in names]
        tables.append(table(f"Extractor: {label(config, extractor)}", [*columns, *sides], body, "tight"))
    what = (
        "What was put into the wells, beside what was found: normalised mAP (1 is perfect, 0 is what chance gives) and whether "
        "the compound was retrieved; of several compounds, how many. Strong phenotypes should be found, inactive compounds not."
    )
    title = "Synthetic truth" if config.synthetic else "Known truth"
    return section("truth", title, paragraph(what), *tables)


def _truth_cells(each: TruthRow, side: str) -> list[str]:
    found = each.cells.get(side)
    if found is None:
        return [cell(NONE, NUMBER), cell("")]
    return [cell(number(found.normalised_map, 2), NUMBER), cell(found.verdict, "yes" if found.retrieved else "no")]


# --- failures ----------------------------------------------------------------------------------------------------------------


def failures_section(failed: Sequence[tuple[str, str]], tried: int) -> str:
    title = "Failed fields of view"
    if not failed:
        return section("failures", title, paragraph(f"None of {tried:,}."))
    rows = [row([cell(fov, "wrap"), cell(why, "wrap")]) for fov, why in failed[:FAILURES]]
    more = f" The first {FAILURES}; the others are in the column error of fovs/." if len(failed) > FAILURES else ""
    what = f"{len(failed):,} of {tried:,} could not be used and are in no number above.{more}"
    heads = [head("field of view"), head("reason")]
    return section("failures", title, paragraph(what), table("", heads, rows))
