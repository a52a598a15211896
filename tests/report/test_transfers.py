"""Transfer in the report: from which group to which, with both floors; old runs without it; reasons of what was not scored."""

import io
import re
from dataclasses import fields, replace
from html import unescape

import polars as pl
import pytest
from rich.console import Console

from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.page import write
from sdvae_ray.report.sections.order import Entry
from sdvae_ray.report.sections.phenotypes import tasks
from sdvae_ray.report.sections.phenotypes.tasks import TRANSFER_COLUMNS, route
from sdvae_ray.report.terminal.tables import print_section
from sdvae_ray.retrieval.tasks.transfer_pairs import SCHEMA, TASKS, Pair, unscored
from sdvae_ray.run.run import Run
from sdvae_ray.run.scores import Scores
from sdvae_ray.schema import ERROR, FOV_ID

WHERE = {"extractor": pl.String, "side": pl.String, "group": pl.String}
OLD = {**WHERE, "task": pl.String, "queries": pl.Int64, "groups": pl.Int64, "mean_map": pl.Float64}
OLD |= {"mean_normalised_map": pl.Float64, "fraction_retrieved": pl.Float64, "status": pl.String}
NUMBERS = [column.key for column in TRANSFER_COLUMNS]
FLOORS = "Floors. Permuted: compounds permuted among the treated wells of each plate of the group that is queried."
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


def scored(config, scores):
    fovs = pl.DataFrame(schema={FOV_ID: pl.String, ERROR: pl.String})
    return ScoredRun(Run(config), None, scores, fovs)


def sections_of(config, scores):
    sections = [make(scored(config, scores)) for make in (tasks.within, tasks.transfer)]
    return [section for section in sections if section is not None]


@pytest.fixture
def html_of(monkeypatch):
    """html_of(config, scores): the page with the two sections alone."""
    monkeypatch.setattr("sdvae_ray.report.sections.order.SECTIONS", [Entry(tasks.within), Entry(tasks.transfer)])
    return lambda config, scores: write.render(scored(config, scores)).partition("</style>")[2]


@pytest.fixture
def text_of(html_of):
    def text(config, scores):
        words = re.sub(r"<(script|style)[ >].*?</\1>", " ", html_of(config, scores), flags=re.S)
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", words)).split())

    return text


def printed(config, scores):
    console = Console(width=100, record=True, file=io.StringIO())
    for section in sections_of(config, scores):
        print_section(section, console)
    return console.export_text()


def rows_shown(config, scores):
    return [row for section in sections_of(config, scores) for table in section.tables for row in table.rows]


def reasons(config, scores):
    return [reason for section in sections_of(config, scores) for reason in section.reasons]


def test_every_number_stands_in_the_row_of_its_side_and_groups(config, text_of):
    ways = [("A549 / 24", "A549 / 48"), ("A549 / 48", "A549 / 24")]
    rows = [row for at, (a, b) in enumerate(ways) for row in rows_of(source=a, target=b, base=0.1 * at)]
    rows += rows_of(side="tiny", base=0.25)
    scores = scores_of(rows)
    shown = rows_shown(config, scores)
    assert [(row["side"].text, row["group"]) for row in shown if row["task"] == TASKS[0]] == [
        ("image", "A549 / 24 → 48"),
        ("tiny (random weights)", "A549 / 24 → 48"),
        ("image", "A549 / 48 → 24"),
    ]
    page = text_of(config, scores)
    for row in rows:
        assert " ".join(f"{row[name]:.3f}" for name in NUMBERS) in page
    assert "transfer_activity by latent" in page
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
    shown = rows_shown(config, scores_of(rows))
    assert [(row["extractor"], row["column"], row["group"]) for row in shown if row["task"] == TASKS[0]] == [
        ("latent", "Metadata_Cell_type", "U2OS → A549 / 48"),
        ("latent", "Metadata_Time", "A549 / 24 → 48"),
        ("intensity", "Metadata_Time", "A549 / 24 → 48"),
    ]


def test_a_route_says_once_what_does_not_change():
    assert route("A549 / 24", "U2OS / 24") == "A549 → U2OS / 24"
    assert route("24", "48") == "24 → 48"
    assert route("A / B / 24", "A / 48") == "A / B / 24 → A / 48"


def test_transfer_stands_beside_the_tasks_within_a_group_and_not_among_them(config, text_of):
    row = {"extractor": "latent", "side": "image", "group": "A549 / 24", "task": "distinctiveness", "status": "ok"}
    row |= {"mean_map": 0.777, "mean_normalised_map": 0.666, "fraction_retrieved": 0.555}
    scores = scores_of([row, *rows_of()])
    (table,) = tasks.within(scored(config, scores)).tables
    (shown,) = table.rows
    texts = [column.text(shown.get(column.key)) for column in tasks.COLUMNS]
    assert texts == ["0.777", "–", "0.666", "0.555", "–"]
    page = text_of(config, scores)
    assert page.index("0.777") < page.index("A549 / 24 → 48")
    assert "distinctiveness: a compound's replicates" in page
    assert "transfer_distinctiveness: the same" in page


def test_what_has_no_number_says_why(config, text_of):
    rows = [
        {"extractor": "latent", "side": side, "group": "A549 / 48", **row}
        for side in ("image", "tiny")
        for row in unscored(Pair("Metadata_Time", "A549 / 24", "A549 / 48"), "no_shared_compound").to_dicts()
    ]
    scores = scores_of(rows)
    assert reasons(config, scores) == [
        f"{task} along Metadata_Time: no shared compound (4 of extractor, side, from and to)" for task in TASKS
    ]
    for text in (text_of(config, scores), printed(config, scores)):
        assert "transfer_activity along Metadata_Time: no shared compound" in text
        assert "transfer_activity by latent" not in text
        assert FLOORS[:30] not in text


def test_a_floor_without_a_number_says_why_beside_a_score_that_has_one(config, text_of):
    rows = [row | {"position_status": "no_shared_position", "position_fraction_retrieved": None} for row in rows_of()]
    rows[1] |= {"status": "too_few_wells", "floor_status": "too_few_wells", "fraction_retrieved": None}
    found = reasons(config, scores_of(rows))
    tail = "(1 of extractor, side, from and to)"
    assert found == [
        f"transfer_activity's floor position along Metadata_Time: no shared position {tail}",
        f"transfer_distinctiveness's floor position along Metadata_Time: no shared position {tail}",
        f"transfer_distinctiveness along Metadata_Time: too few wells {tail}",
    ]
    page = text_of(config, scores_of(rows))
    assert f"{rows[1]['mean_map']:.3f}" in page  # mAP is there, FR is not
    said = "not scored: Metadata_Time was not read"
    assert said in reasons(config, scores_of([row | {"status": said} for row in rows_of()]))[0]


def test_a_run_scored_before_there_was_transfer_is_shown_as_it_was(config, text_of):
    row = {"extractor": "latent", "side": "image", "group": "A549 / 24", "task": "distinctiveness", "status": "ok"}
    row |= {"mean_map": 0.777, "mean_normalised_map": 0.666, "fraction_retrieved": 0.555}
    old = scores_of([row], OLD)
    assert tasks.transfer(scored(config, old)) is None
    assert reasons(config, old) == []
    page = text_of(config, old)
    assert "0.777" in page
    assert "position" not in page
    empty = scores_of([], {"extractor": pl.String, "side": pl.String})
    assert sections_of(config, empty) == []
    assert printed(config, empty) == ""


def test_names_from_the_data_are_no_markup(config, html_of):
    rows = list(rows_of(side=EVIL, source="<i>[b]</i>", target="[/b]"))
    html = html_of(config, scores_of(rows))
    assert "&lt;b&gt;tiny&lt;/b&gt;" in html
    assert EVIL not in html
    assert "<i>[b]</i>" not in html
    assert "→ [/b]" in re.sub(r"\s+", " ", printed(config, scores_of(rows)))
