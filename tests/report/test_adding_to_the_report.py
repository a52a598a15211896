"""What CONTRIBUTING shows of the report is enough: a number of the summary, a rate, a section, a QC column, from its own text."""

import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from report_run import Page, page_of, scores_of, summary_of, write_run

from sdvae_ray.config import RunConfig
from sdvae_ray.engine import rate
from sdvae_ray.engine.files import quality
from sdvae_ray.report.facts.table import Column
from sdvae_ray.report.sections import order
from sdvae_ray.report.sections.phenotypes import retrieval
from sdvae_ray.schema import RATES

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def code_of(title: str) -> list[str]:
    """The Python blocks below a heading of CONTRIBUTING."""
    section = TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.S)
    assert blocks
    return blocks


def test_a_number_of_the_summary_is_one_column(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = code_of("Adding a number to the summary")
    (column,) = eval(f"[{line}]", {"Column": Column})
    assert column.key not in {known.key for known in retrieval.COLUMNS}  # the example is of something new
    scores = scores_of(run)
    scores = replace(scores, summary=scores.summary.with_columns(pl.lit(0.98765).alias(column.key)))
    for text in (Page(page_of(run, scores)).text, summary_of(run, scores)):
        assert "0.988" not in text
    monkeypatch.setattr(retrieval, "COLUMNS", (*retrieval.COLUMNS, column))
    for text in (Page(page_of(run, scores)).text, summary_of(run, scores)):
        assert "0.988" in text
        assert column.heading in text


def test_a_column_beside_bits_is_a_name_and_a_function(
    made: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, function, measure = code_of("Adding a column beside bits")
    names = eval(f"{{{words}}}")
    (name,) = names
    assert name not in RATES
    monkeypatch.setitem(RATES, name, names[name])
    space = vars(rate).copy()
    exec(function, space)
    monkeypatch.setitem(rate.MEASURES, name, eval(f"{{{measure}}}", space)[name])
    config = made.model_copy(update={"output": str(tmp_path / "run"), "manifest": str(tmp_path / "manifest.parquet")})
    write_run(tmp_path, config)
    scores = scores_of(config)
    means = dict(scores.metrics.filter(pl.col("metric") == name).group_by("side").agg(pl.col("mean").mean()).rows())
    bits = dict(scores.metrics.filter(pl.col("metric") == "bits").group_by("side").agg(pl.col("mean").mean()).rows())
    assert 0 < means["pca"] <= bits["pca"] / 2  # 8 of 16 bits
    assert means["identity"] is None
    for text in (Page(page_of(config, scores)).text, summary_of(config, scores)):
        assert all(word in text for word in names[name].split())  # a narrow heading is broken between words
        assert f"{means['pca'] / 64**2:.3f}" in text


def test_a_section_is_a_file_and_a_line(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    file, line = code_of("Adding a section to the report")
    assert len(file.splitlines()) < 25
    plates = types.ModuleType("plates")
    monkeypatch.setitem(sys.modules, "plates", plates)
    exec(file, vars(plates))
    (entry,) = eval(f"[{line}]", {"Entry": order.Entry, "plates": plates})
    monkeypatch.setattr(order, "SECTIONS", [*order.SECTIONS[:4], entry, *order.SECTIONS[4:]])
    html = page_of(run, scores_of(run))
    assert '<a href="#plates">Plates</a>' in html
    assert '<section id="plates">' in html
    assert html.index('id="rates"') < html.index('id="plates"') < html.index('id="metrics"')
    for text in (Page(html).text, summary_of(run, scores_of(run))):
        assert re.search(r"Usable fields of view.*P1\W+7\b", text, re.S)


def test_a_qc_column_is_one_function(made: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = code_of("Adding a QC column")
    ((name, measure),) = eval(f"{{{line}}}", {"np": np}).items()
    assert name not in quality.QC
    monkeypatch.setitem(quality.QC, name, measure)
    config = made.model_copy(update={"output": str(tmp_path / "run"), "manifest": str(tmp_path / "manifest.parquet")})
    write_run(tmp_path, config)
    files = sorted(Path(config.output, "fovs").glob("*.parquet"))
    values, means = (
        np.concatenate([pq.read_table(file)[column].combine_chunks().to_numpy_ndarray() for file in files])
        for column in (name, "qc_mean")
    )
    assert values.shape == (8, 5)
    usable = ~np.isnan(means).any(1)
    assert usable.sum() == 7
    assert (values[usable] > means[usable]).all()
    assert np.isnan(values[~usable]).all()
