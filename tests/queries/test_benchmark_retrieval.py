"""The retrieval benchmark on a few plates: what it prints, and that it finds copairs' ranks."""

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import harness
import retrieval


@pytest.fixture
def record(monkeypatch):
    pytest.importorskip("copairs.map", reason="copairs is a test dependency")
    rates = {f"{dtype} numpy": harness.Rate(0.1, 0.1) for dtype in ("float64", "float32")}
    monkeypatch.setattr(retrieval, "product_rates", lambda: rates)
    monkeypatch.setattr(retrieval, "FEATURES", 64)  # copairs' seconds grow with it
    monkeypatch.setattr(retrieval, "FEATURES_ALONE", 64)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = retrieval.main(["--wells=600", "--alone=1600", "--repeats=1", "--threads=1"])
    assert code == 0
    return json.loads(out.getvalue().splitlines()[-1])


def test_it_ends_with_one_json_line_and_the_ranks_are_those_of_copairs(record):
    rows = record["results"]
    assert record["benchmark"] == "retrieval"
    assert {row["task"] for row in rows} == {"activity", "distinct"}
    ours = [row for row in rows if row.get("ties") == "copairs"]
    assert len(ours) == 2
    assert all(row["wells_that_differ"] == 0 and row["ratio"] > 0 and row["wells"] == 600 for row in ours)
    assert [row["task"] for row in rows if row["wells"] == 1600] == ["activity"]


def test_the_campaign_has_plates_controls_and_replicates():
    x, wells = retrieval.campaign(4 * 384, 8)
    assert x.shape == (1536, 8)
    assert wells["control"].sum() == 256
    assert (wells.filter(~wells["control"]).group_by("compound").len()["len"] == 4).all()
    x, wells = retrieval.of_task("distinct", 1000, 8)
    assert len(x) == len(wells) == 1000
    assert not wells["control"].any()
