"""The scores of a run as one readable page of a terminal, 100 columns wide."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from sdvae_ray.config import RunConfig
from sdvae_ray.report.facts import findings, outcome
from sdvae_ray.report.facts.findings import NONE, label, number
from sdvae_ray.report.facts.floors import FLOORS, floor_rows
from sdvae_ray.report.facts.floors import reasons as floor_reasons
from sdvae_ray.report.facts.outcome import Retrieval, TruthRow
from sdvae_ray.report.facts.rates import distortion_heads, rate_text, rates, shown_extractors
from sdvae_ray.report.facts.tasks import FLOOR, short, shown_tasks, task_rows
from sdvae_ray.report.facts.tasks import reasons as task_reasons
from sdvae_ray.report.facts.transfers import print_transfers
from sdvae_ray.report.terminal.tables import number_column, plain_table, say, text_column
from sdvae_ray.run.record import Record
from sdvae_ray.run.scores import Scores
from sdvae_ray.run.tables import read_fovs
from sdvae_ray.schema import FOV_ID
from sdvae_ray.storage import Storage

_REASONS = 3  # failed FOVs that are named
_METRICS_ABREAST = 6
_SIDES_ABREAST = 6
_FLOORS_SHOWN = ("half_same", "half_other", "posing_position", "posing_shuffled", "labels_within_treated")
_NAME = 9  # characters of an extractor over two columns


def print_summary(config: RunConfig, scores: Scores, record: Record | None, console: Console) -> None:
    """Metrics per side, retrieval per extractor, the truth where the metadata holds it, and what failed."""
    columns = [config.score.perturbation or FOV_ID, *outcome.TRUTH_COLUMNS]
    fovs = read_fovs(config.output, Storage(config.storage), columns)
    failed = findings.failures(fovs)
    say(console, _headline(config, record, fovs.height, len(failed)), style="bold")
    if config.random_weights:
        names = ", ".join(config.random_weights)
        say(
            console,
            f"Random weights: {names}. Their numbers test the machinery and say nothing about images.",
            style="yellow",
        )
    _metrics(config, scores, console)
    _rates(config, scores, console)
    _retrieval(config, scores, console)
    _floors(config, scores, console)
    _tasks(config, scores, console)
    print_transfers(config, scores, console)
    _truth(config, outcome.truth_rows(config, scores, fovs), console)
    if failed:
        say(console, f"{len(failed)} of {fovs.height} FOVs failed and are left out:", style="yellow")
        for fov, why in failed[:_REASONS]:
            say(console, f"  {fov}: {why}")
        if len(failed) > _REASONS:
            say(console, f"  and {len(failed) - _REASONS} more: see the report, or the column `error` of fovs/")


def _headline(config: RunConfig, record: Record | None, tried: int, failed: int) -> str:
    total = record["manifest"]["fovs"] if record else tried
    kind = "synthetic plates, " if config.synthetic else ""
    return f"{config.output}: {kind}{tried - failed} usable FOVs of {total}"


def _metrics(config: RunConfig, scores: Scores, console: Console) -> None:
    cells = findings.metric_cells(config, scores.metrics)
    if not cells:
        say(console, "No metrics: no side has a usable FOV.")
        return
    title = "Metrics, mean over patches and stains" + (" of synthetic images" if config.synthetic else "")
    heads = findings.metric_heads(config, scores.metrics)
    for start in range(0, len(heads), _METRICS_ABREAST):
        table = plain_table(title if start == 0 else "")
        text_column(table, "side")
        shown = heads[start : start + _METRICS_ABREAST]
        for head in shown:
            number_column(table, f"{head.name} {head.arrow}".strip() + f"\n{_short(head.unit)}")
        for side, row in cells.items():
            table.add_row(escape(label(config, side)), *(row.get(h.name, NONE).replace(" (", "\n(") for h in shown))
        console.print(table)
    say(
        console,
        "↑ higher is better, ↓ lower is better, – does not apply. ssim is SSIM, not 1 - SSIM.",
        style="dim",
    )


def _rates(config: RunConfig, scores: Scores, console: Console) -> None:
    found, heads, extractors = rates(config, scores), distortion_heads(config), shown_extractors(config, scores)
    table = plain_table(
        "Rate, distortion, phenotype; bits per pixel and stain" + (", synthetic" if config.synthetic else "")
    )
    text_column(table, "side")
    for heading in ("bits\nstored", "bits\nentropy", *(f"{h.name} {h.arrow}\n{_short(h.unit)}" for h in heads)):
        number_column(table, heading)
    for name in extractors:
        for what in ("FR ↑", "FID ↓"):
            number_column(table, f"{what}\n{_cut(name)}")
    for rate in found:
        texts = [rate_text(rate.bits), rate_text(rate.entropy), *(number(rate.distortion.get(h.name)) for h in heads)]
        for name in extractors:
            texts += [number(rate.phenotype[name].fraction, 3), number(rate.phenotype[name].fid)]
        table.add_row(escape(label(config, rate.side)), *texts)
    console.print(table)


def _cut(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _short(unit: str) -> str:
    return "of full scale" if unit == "fraction of full scale" else unit or " "


def _retrieval(config: RunConfig, scores: Scores, console: Console) -> None:
    rows = outcome.retrieval_rows(config, scores)
    if not rows:
        say(console, "No retrieval: nothing was scored.")
    if config.score.perturbation is None:
        say(console, "No retrieval: score.perturbation is null.")
        return
    recalls = outcome.recall_columns(config)
    grouped = len({row.group for row in rows}) > 1
    for extractor in findings.extractors(config, (row.extractor for row in rows)):
        here = [row for row in rows if row.extractor == extractor]
        table = plain_table(f"Retrieval by {label(config, extractor)}" + ("" if grouped else f", {_group(here[0])}"))
        text_column(table, "side")
        if grouped:
            text_column(table, "group")
        numbers = ["treated\nwells", "control\nwells", "com-\npounds", "mAP ↑", "FR ↑"]
        for heading in [*numbers, *(f"{name} ↑" for name in recalls.values()), "own\nwell ↑", "FID ↓"]:
            number_column(table, heading)
        for row in here:
            names = [label(config, row.side), *([row.group] if grouped else [])]
            table.add_row(*(escape(name) for name in names), *row.numbers.values())
        console.print(table)
    for line in outcome.reasons(config, rows):
        say(console, line, style="yellow")
    if rows:
        say(
            console,
            "FR: share of compounds told from controls. R@k: share of a well's replicates among its k nearest wells (at "
            "most k / replicates). own well: a reconstruction's nearest original is its own. FID: mean over stains or passes, "
            "in the extractor's features (not the TF-FID of image generation).",
            style="dim",
        )


def _floors(config: RunConfig, scores: Scores, console: Console) -> None:
    rows = floor_rows(config, scores)
    grouped = len({row.group for row in rows}) > 1
    for extractor in findings.extractors(config, (row.extractor for row in rows)):
        table = plain_table(f"FR by {label(config, extractor)} and its floors")
        text_column(table, "side")
        if grouped:
            text_column(table, "group")
        for heading in ("FR\ninterval", "- image\ninterval", *(FLOORS[name][0] for name in _FLOORS_SHOWN)):
            number_column(table, heading)
        for row in rows:
            if row.extractor == extractor:
                names = [label(config, row.side), *([row.group] if grouped else [])]
                shown = (row.floors[name] for name in _FLOORS_SHOWN)
                texts = (f"{row.fraction}\n{row.interval}", row.difference, *shown)
                table.add_row(*(escape(name) for name in names), *texts)
        console.print(table)
    if rows:
        for line in floor_reasons(scores):
            say(console, line, style="yellow")
        say(
            console,
            "Intervals: 95 %, compounds resampled. Floors are FR by the same code: half of the controls for the fit, half for "
            "negatives; controls posing as compounds; labels permuted. FR near a floor says nothing. The page has more of them.",
            style="dim",
        )


def _tasks(config: RunConfig, scores: Scores, console: Console) -> None:
    rows = task_rows(config, scores)
    names = shown_tasks(rows)
    grouped = len({row.group for row in rows}) > 1
    for extractor in findings.extractors(config, (row.extractor for row in rows)) if names else []:
        table = plain_table(f"Other tasks by {label(config, extractor)}")
        text_column(table, "side")
        if grouped:
            text_column(table, "group")
        for name in names:
            for heading in ("mAP ↑", "FR ↑"):
                number_column(table, f"{heading}\n{name}")
        for row in rows:
            if row.extractor == extractor:
                lead = [label(config, row.side), *([row.group] if grouped else [])]
                table.add_row(
                    *(escape(text) for text in (*lead, *(text for name in names for text in short(row, name))))
                )
        console.print(table)
    if names:
        say(console, f"In brackets: {FLOOR}", style="dim")
    for line in task_reasons(scores):
        say(console, line, style="yellow")


def _group(row: Retrieval) -> str:
    return "all wells" if row.group == "all" else row.group


def _truth(config: RunConfig, rows: Sequence[TruthRow], console: Console) -> None:
    kind = "Synthetic truth" if config.synthetic else "Known truth"
    for extractor in findings.extractors(config, (row.extractor for row in rows)):
        here = [row for row in rows if row.extractor == extractor]
        names = findings.sides(config, (side for row in here for side in row.cells))
        for start in range(0, len(names), _SIDES_ABREAST):
            title = f"{kind} by {label(config, extractor)}: normalised mAP and, beside it, retrieved"
            _truth_table(config, title if start == 0 else "", here, names[start : start + _SIDES_ABREAST], console)


def _truth_table(
    config: RunConfig, title: str, rows: Sequence[TruthRow], names: Sequence[str], console: Console
) -> None:
    grouped = len({row.group for row in rows}) > 1
    table = plain_table(title)
    text_column(table, "phenotype")
    if grouped:
        text_column(table, "group")
    number_column(table, "strength")
    for side in names:
        table.add_column(escape(label(config, side)), justify="right", overflow="fold", min_width=9)
    for row in rows:
        cells = (row.cells.get(side) for side in names)
        shown = [NONE if cell is None else f"{number(cell.normalised_map, 2)} {cell.verdict:>4}" for cell in cells]
        group = [escape(row.group)] if grouped else []
        table.add_row(escape(row.phenotype), *group, escape(row.strength) or NONE, *shown)
    console.print(table)
