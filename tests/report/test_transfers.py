"""Transfer in the report: from which group to which, with both floors; old runs without it; reasons of what was not scored."""

import io
import re
from dataclasses import fields, replace
from html import unescape

import polars as pl
import pytest
from rich.console import Console

from sdvae_ray.report.facts.tasks import task_rows
from sdvae_ray.report.facts.transfers import FLOORS, NUMBERS, print_transfers, reasons, route, transfer_rows
from sdvae_ray.report.page.beside import tasks_section
from sdvae_ray.retrieval.tasks.transfer_pairs import SCHEMA, TASKS, Pair, unscored
from sdvae_ray.run.scores import Scores

WHERE = {"extractor": pl.String, "side": pl.String, "group": pl.String}
OLD = {**WHERE, "task": pl.String, "queries": pl.Int64, "groups": pl.Int64, "mean_map": pl.Float64}
OLD |= {"mean_normalised_map": pl.Float64, "fraction_retrieved": pl.Float64, "status": pl.String}
EVIL = "<b>tiny</b>"


def rows_of(extractor="latent", side="image", column="Metadata_Time", source="A549 / 24", target="A549 / 48", base=0.0):
    """Both tasks of one way; every number is another, from `base`."""
    numbers = [name for name, kind in SCHEMA.items() if kind == pl.Float64]
    for at, task in enumerate(TASKS):
        head = {"extractor": extractor, "side": side, "group": target, "column": column, "source": source}
        values = {name: base + 0.3 * at + 0.001 * (number + 1) for number, name in enumerate(numbers)}
        statuses = {name: "ok" for name in SCHEMA if name.endswith("status")}
        yield {**head, "target": target, "task": task, "queries": 30, "groups": 10, **statuses, **values}


def scores_of(rows, schema=None):
    empty = pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})
    scores = Scores(**{field.name: empty for field in fields(Scores)})
    return replace(scores, tasks=pl.DataFrame(list(rows), schema=schema or {**WHERE, **SCHEMA}))


@pytest.fixture
def config(small_run_config):
    return small_run_config(score={"group": ["Metadata_Cell_type", "Metadata_Time"]})


def text_of(config, scores):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", tasks_section(config, scores))))


def printed(config, scores):
    console = Console(width=100, record=True, file=io.StringIO())
    print_transfers(config, scores, console)
    return console.export_text()


def test_every_number_stands_in_the_row_of_its_side_and_groups(config):
    ways = [("A549 / 24", "A549 / 48"), ("A549 / 48", "A549 / 24")]
    rows = [row for at, (a, b) in enumerate(ways) for row in rows_of(source=a, target=b, base=0.1 * at)]
    rows += rows_of(side="tiny", base=0.25)
    scores = scores_of(rows)
    found = transfer_rows(config, scores)
    assert [(each.side, each.group) for each in found] == [
        ("image", "A549 / 24 → 48"),
        ("tiny", "A549 / 24 → 48"),
        ("image", "A549 / 48 → 24"),
    ]
    page = text_of(config, scores)
    for row in rows:
        assert " ".join(f"{row[name]:.3f}" for name in NUMBERS) in re.sub(" +", " ", page)
    assert "Extractor: latent, transfer_activity" in page
    assert "mAP ↑ normalised ↑ permuted position FR ↑ permuted position" in page
    assert FLOORS in page
    terminal = printed(config, scores)
    lines = [line.rstrip() for line in terminal.splitlines()]
    assert lines.index("transfer_activity by latent") < lines.index("transfer_distinctiveness by latent")
    first = next(at for at, line in enumerate(lines) if "A549 / 24 → 48" in line)
    for at, row in ((first, rows[0]), (first + 1, rows[4])):  # image, tiny
        assert f" {row['side']} " in lines[at]
        assert re.findall(r"\d\.\d{3}", lines[at]) == [f"{row[name]:.3f}" for name in NUMBERS]
    assert max(len(line) for line in terminal.splitlines()) <= 100


def test_the_rows_are_by_extractor_column_and_groups(config):
    rows = [
        *rows_of(extractor="intensity"),
        *rows_of(column="Metadata_Time"),
        *rows_of(column="Metadata_Cell_type", source="U2OS / 48", target="A549 / 48"),
    ]
    found = transfer_rows(config, scores_of(rows))
    assert [(each.extractor, each.column, each.group) for each in found] == [
        ("latent", "Metadata_Cell_type", "U2OS → A549 / 48"),
        ("latent", "Metadata_Time", "A549 / 24 → 48"),
        ("intensity", "Metadata_Time", "A549 / 24 → 48"),
    ]


def test_a_route_says_once_what_does_not_change():
    assert route("A549 / 24", "U2OS / 24") == "A549 → U2OS / 24"
    assert route("24", "48") == "24 → 48"
    assert route("A / B / 24", "A / 48") == "A / B / 24 → A / 48"


def test_transfer_stands_beside_the_tasks_within_a_group_and_not_among_them(config):
    row = {"extractor": "latent", "side": "image", "group": "A549 / 24", "task": "distinctiveness", "status": "ok"}
    row |= {"mean_map": 0.777, "mean_normalised_map": 0.666, "fraction_retrieved": 0.555}
    scores = scores_of([row, *rows_of()])
    (found,) = task_rows(config, scores)
    assert found.numbers == {"distinctiveness": ("0.777", "–", "0.666", "0.555", "–")}
    page = text_of(config, scores)
    assert page.index("0.777") < page.index("A549 / 24 → 48")
    assert "distinctiveness: a compound's replicates" in page
    assert "transfer_distinctiveness: the same" in page


def test_what_has_no_number_says_why(config):
    rows = [
        {"extractor": "latent", "side": side, "group": "A549 / 48", **row}
        for side in ("image", "tiny")
        for row in unscored(Pair("Metadata_Time", "A549 / 24", "A549 / 48"), "no_shared_compound").to_dicts()
    ]
    scores = scores_of(rows)
    assert reasons(scores) == [
        f"{task} along Metadata_Time: no shared compound (4 of extractor, side, from and to)" for task in TASKS
    ]
    for text in (text_of(config, scores), printed(config, scores)):
        assert "transfer_activity along Metadata_Time: no shared compound" in text
        assert "by latent" not in text
        assert FLOORS[:30] not in text


def test_a_floor_without_a_number_says_why_beside_a_score_that_has_one(config):
    rows = [row | {"position_status": "no_shared_position", "position_fraction_retrieved": None} for row in rows_of()]
    rows[1] |= {"status": "too_few_wells", "floor_status": "too_few_wells", "fraction_retrieved": None}
    found = reasons(scores_of(rows))
    tail = "(1 of extractor, side, from and to)"
    assert found == [
        f"transfer_activity's floor position along Metadata_Time: no shared position {tail}",
        f"transfer_distinctiveness's floor position along Metadata_Time: no shared position {tail}",
        f"transfer_distinctiveness along Metadata_Time: too few wells {tail}",
    ]
    page = text_of(config, scores_of(rows))
    assert f"{rows[1]['mean_map']:.3f}" in page  # mAP is there, FR is not
    said = "not scored: Metadata_Time was not read"
    assert said in reasons(scores_of([row | {"status": said} for row in rows_of()]))[0]


def test_a_run_scored_before_there_was_transfer_is_shown_as_it_was(config):
    row = {"extractor": "latent", "side": "image", "group": "A549 / 24", "task": "distinctiveness", "status": "ok"}
    row |= {"mean_map": 0.777, "mean_normalised_map": 0.666, "fraction_retrieved": 0.555}
    old = scores_of([row], OLD)
    assert transfer_rows(config, old) == reasons(old) == []
    assert printed(config, old) == ""
    page = text_of(config, old)
    assert "0.777" in page
    assert "position" not in page
    empty = scores_of([], {"extractor": pl.String, "side": pl.String})
    assert tasks_section(config, empty) == ""
    assert printed(config, empty) == ""


def test_names_from_the_data_are_no_markup(config):
    rows = list(rows_of(side=EVIL, source="<i>[b]</i>", target="[/b]"))
    html = tasks_section(config, scores_of(rows))
    assert EVIL not in html
    assert "<i>[b]</i>" not in html
    assert "→ [/b]" in re.sub(r"\s+", " ", printed(config, scores_of(rows)))
