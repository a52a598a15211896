"""One page of several runs: verdicts of each by its own originals, and no number beside one that it may not be compared with."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from report_run import EVIL, STORAGE, Page, said, scored
from test_conclude import with_wells

from sdvae_ray.config import RunConfig
from sdvae_ray.errors import ConfigError
from sdvae_ray.report.facts.conclude.study import rule_of, studies
from sdvae_ray.report.facts.conclude.verdicts import verdicts
from sdvae_ray.report.facts.runs.several import named, of_same_pixels, of_same_question, what_may_be_compared
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.page.write import render_runs
from sdvae_ray.report.sections.runs.order import page_of_runs
from sdvae_ray.run.run import Run
from sdvae_ray.settings.score import ConcludeConfig

LOSSES = {"identity": 0.0, "pca": 0.4}


def copied(made: RunConfig, folder: Path, **changes: object) -> RunConfig:
    """A copy of the run, with other settings in its run file."""
    shutil.copytree(made.output, folder)
    return made.model_copy(update={"output": str(folder), **changes})


def judged(config: RunConfig, losses: dict[str, float] = LOSSES, seed: int = 0) -> ScoredRun:
    return scored(config, with_wells(config, losses, seed=seed))


@pytest.fixture
def three(made, tmp_path) -> list[ScoredRun]:
    """A, and B of other losses and another seed; C with other rules of the scores and another crop."""
    b = copied(made, tmp_path / "b", seed=5)
    c = copied(
        made,
        tmp_path / "c",
        score=made.score.model_copy(update={"null_size": 500}),
        image=made.image.model_copy(update={"crop": 64}),
    )
    return [judged(made), judged(b, {"identity": 0.0, "pca": 0.1}, seed=2), judged(c, {"identity": 0.0}, seed=3)]


def test_only_runs_of_the_same_pixels_and_question_are_compared(three):
    runs = named(three)
    assert [[run.letter for run in alike] for alike in of_same_pixels(runs)] == [["A", "B"], ["C"]]
    assert [[run.letter for run in alike] for alike in of_same_question(runs, "intensity")] == [["A", "B"], ["C"]]
    warnings, lines = what_may_be_compared(runs)
    what = "metrics, rates and distances; FR, mAP and verdicts by latent and intensity"
    assert f"A and B | C may not be compared by {what}: image.crop and score.null_size differ." in warnings
    assert lines == [f"A and B may be compared by {what}."]
    assert what_may_be_compared(runs[:2])[0] == []


def test_a_name_with_two_meanings_and_two_margins_are_said(made, tmp_path):
    jpeg = made.codecs["jpeg"].model_copy(update={"quality": 90})
    other = copied(made, tmp_path / "other", codecs={"jpeg": jpeg})
    runs = [judged(made), judged(other)]
    warnings, _ = what_may_be_compared(named(runs))
    assert warnings == ["jpeg of A and B is not the same: codecs.jpeg: quality differs."]
    record = json.loads(Path(other.output, "run.json").read_text())
    record["config"]["score"]["conclude"] = ConcludeConfig(margin=0.2).model_dump(mode="json")
    Path(other.output, "run.json").write_text(json.dumps(record))
    warnings, _ = what_may_be_compared(named([runs[0], judged(other)]))
    assert any("different rules. A: margin 0.1 at level 0.05; B: margin 0.2" in line for line in warnings)


def test_every_run_has_its_own_verdicts_and_what_it_loses_by_name(three):
    _, sections = page_of_runs(three)
    first = sections[0]
    assert [len(one.forest.rows) for one in first.content.forests] == [4, 1]
    rows = {(row.side.text): row for one in first.content.forests for row in one.forest.rows}
    for letter, run in zip("ABC", three, strict=True):
        for verdict in verdicts(studies([run])[0], rule_of(run)):
            row = rows[f"{verdict.side} · {letter}"]
            assert (row.word, row.estimate, row.margin) == (
                verdict.word,
                verdict.difference.estimate,
                verdict.difference.margin,
            )
    lost, judgements = first.tables
    (row,) = lost.rows
    assert {letter: row[letter] for letter in "ABC"} == {"A": "pca", "B": "pca", "C": "none"}
    by_side = {row["side"]: row for row in judgements.rows}
    assert by_side["pca"]["A"].words == "inferior"
    assert "C" not in by_side["pca"]
    assert by_side["originals: normalised mAP"]["A"].words.startswith("floor -0.1")


def test_numbers_that_may_not_be_compared_share_no_chart_and_no_table(three):
    _, sections = page_of_runs(three)
    rates = sections[1]
    assert [table.title.split(";")[0] for table in rates.tables] == [
        "Rate, distortion, phenotype of A and B",
        "Rate, distortion, phenotype of C",
    ]
    assert {row["run"] for row in rates.tables[0].rows} == {"A", "B"}
    for chart in rates.charts:
        runs = {point.side.text[-1] for point in chart.points}
        assert runs in ({"A", "B"}, {"C"})


def test_the_page_names_what_differs_and_escapes_what_the_runs_are_called(three):
    page = Page(render_runs(three))
    assert "4 autoencoders and codecs, in 3 runs" in page.text
    assert "A and B | C may not be compared by metrics" in page.text
    assert "score.null_size: A 10000; B 10000; C 500" in page.text
    assert "Random weights: tiny (A), tiny (B), tiny (C)" in page.text
    assert not any(name == "src" and not value.startswith("data:") for _, name, value in page.attributes)
    evil = with_wells(three[0].config, {"identity": 0.0, "jpeg": 0.001})
    gone = (pl.col("side") == "jpeg") & (pl.col("compound") == EVIL)
    wells = evil.wells.with_columns(normalised_ap=pl.when(gone).then(pl.lit(-0.2)).otherwise(pl.col("normalised_ap")))
    compounds = evil.compounds.with_columns(retrieved=pl.col("retrieved") & ~gone)
    text = render_runs([scored(three[0].config, replace(evil, wells=wells, compounds=compounds)), three[1]])
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_the_command_writes_the_page_where_it_is_told(made, run, tmp_path, capsys):
    for config in (made, run):
        with_wells(config, LOSSES).write(config.output, STORAGE)
    page = tmp_path / "page.html"
    code, text = said(capsys, "report", made.output, run.output, "-o", str(page), "--json")
    assert code == 0, text
    assert "in 2 runs" in page.read_text()
    for arguments, words in (
        ([made.output, run.output], "--output names it"),
        ([made.output, run.output, "-o", str(tmp_path)], "the name of a page is wanted"),
        ([made.output, made.output, "-o", str(page)], "is named twice"),
        ([made.output, "-o", str(page)], "the page of one run is in its own folder"),
    ):
        code, text = said(capsys, "report", *arguments)
        assert (code, words in text) == (2, True), text


def test_runs_without_a_record_are_compared_with_none(made, tmp_path):
    config = copied(made, tmp_path / "gone")
    Path(config.output, "run.json").unlink()
    runs = named([judged(made), ScoredRun.read(Run(config), with_wells(config, LOSSES))])
    warnings, _ = what_may_be_compared(runs)
    assert any(line.startswith("A | B may not be compared by metrics") and ": manifest" in line for line in warnings)
    with pytest.raises(ConfigError, match="is named twice"):
        render_runs([judged(made), judged(made)])
