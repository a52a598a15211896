"""fovs/ by plate: the rows are those of `Run.fovs`, whatever the files hold and however they are read."""

import json

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sdvae_ray.run.run import Run
from sdvae_ray.run.stored import plates
from sdvae_ray.run.stored.plates import PLACE, in_threads, read_committed, reduced
from sdvae_ray.run.stored.table_files import committed_files
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.schema import ERROR, FOV_ID, KEYS, PLATE_KEY, ROW, fov_id


@pytest.fixture
def run(small_run_config) -> Run:
    """Five files whose plates overlap; a column of the metadata is of some files alone; some FOVs failed, some were tried twice."""
    run = Run(small_run_config())
    random = np.random.default_rng(0)
    keys = [
        dict(zip(KEYS, ("s", "b", f"P{plate}", f"A{well:02d}", "1"), strict=True))
        for plate in range(3)
        for well in range(8)
    ]
    for number in range(5):
        rows = [dict(keys[at]) for at in random.choice(len(keys), 10, replace=False)]
        if number > 2:
            rows = [row | {"Metadata_late": f"x{number}"} for row in rows]
        errors = np.array(["broken" if failed else "" for failed in random.random(10) < 0.3], object)
        columns = {FOV_ID: np.array([fov_id(row) for row in rows], object), ERROR: errors}
        columns[ROW] = np.array([json.dumps(row) for row in rows], object)
        columns["qc_mean"] = random.random((10, 5), np.float32)
        columns["metrics/tiny:mae"] = random.random((10, 2, 5), np.float32)
        write_rows(run.output, f"part-{number}", columns, run.storage)
    return run


@pytest.mark.parametrize("files", [1, 2, 256])
def test_the_rows_by_plate_are_those_of_the_run(run, files, monkeypatch):
    monkeypatch.setattr(plates, "_FILES", files)
    monkeypatch.setattr(plates, "_PIECES", 1)
    names = committed_files(run.output, run.storage)
    committed = read_committed(run, names, lambda name: name.startswith("Metadata_") or name == "qc_mean")
    tables = [reduced(parts, committed.columns) for parts in committed.plates.values()]
    assert {
        key: table.select(PLATE_KEY).unique().rows() for key, table in zip(committed.plates, tables, strict=True)
    } == {key: [key] for key in committed.plates}
    whole = run.fovs([*KEYS, "Metadata_late", "qc_mean"])
    together = pl.concat(tables).select(whole.columns)
    assert_frame_equal(together.sort(FOV_ID), whole.sort(FOV_ID))
    usable = pl.concat(tables).filter(pl.col(ERROR).is_null()).sort(PLACE)
    assert usable[FOV_ID].to_list() == whole.filter(pl.col(ERROR).is_null())[FOV_ID].to_list()
    assert committed.commits == run.commits([])[1]


def test_results_of_threads_come_in_order():
    assert list(in_threads(lambda a, b: a - b, [(5, 1), (3, 3), (9, 2)])) == [4, 0, 7]
