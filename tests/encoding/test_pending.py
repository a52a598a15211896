"""The work that is left, and how it is cut into pieces, beside slow obvious ways."""

import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sdvae_ray.encoding.actors import FILES
from sdvae_ray.encoding.pending import Work, lacking
from sdvae_ray.encoding.stream import _pieces
from sdvae_ray.engine.columns import run_columns
from sdvae_ray.planning.pieces import fovs_per_piece, piece_size
from sdvae_ray.run.run import Run
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import CROP, ERROR, FOV_ID

GROUPS, ROWS = 5, 40


@pytest.fixture
def run(tmp_path: Path) -> Run:
    raw = {"manifest": str(tmp_path / "m.parquet"), "output": str(tmp_path / "run"), "metrics": ["mae", "psnr"]}
    return Run(parse_run({**raw, "autoencoders": {"pca": {"name": "patch_pca"}}}))


def keys_of(crops: bool) -> pl.DataFrame:
    places = list(itertools.product(range(GROUPS), range(ROWS)))
    keys = pl.DataFrame(places, schema={"row_group": pl.Int32, "row": pl.Int32}, orient="row")
    keys = keys.with_columns(pl.format("f{}-{}", "row_group", "row").alias(FOV_ID))
    return keys.with_columns(pl.when(pl.col("row") % 3 == 0).then(64).otherwise(128).alias(CROP)) if crops else keys


def committed(run: Run, keys: pl.DataFrame, seed: int) -> tuple[pl.DataFrame, dict[str, frozenset[str]]]:
    """Rows of fovs/ for some of the FOVs: with all columns, with some, in two files, and with an error."""
    random = np.random.default_rng(seed)
    everything = sorted(run_columns(run.config))
    commits = {"whole": frozenset(everything), "half": frozenset(everything[::2]), "rest": frozenset(everything[1::2])}
    kinds = [["whole"], ["half"], ["rest"], ["half", "rest"], ["half", "whole"], None]
    rows = []
    for name in random.permutation(keys[FOV_ID].to_list())[: keys.height * 3 // 4]:
        files = kinds[random.integers(len(kinds))]
        rows.append({FOV_ID: name, ERROR: "bad" if files is None else None, "files": files or ["whole"]})
    return pl.DataFrame(rows, schema={FOV_ID: pl.String, ERROR: pl.String, "files": pl.List(pl.String)}), commits


def by_the_slow_way(run: Run, keys: pl.DataFrame, fovs: pl.DataFrame, commits: dict) -> dict[tuple, list[str]]:
    usable = {row[FOV_ID]: row["files"] for row in fovs.iter_rows(named=True) if row[ERROR] is None}
    left: dict[tuple, list[str]] = {}
    for row in keys.sort("row_group", "row").iter_rows(named=True):
        missing = run_columns(run.config).difference(*(commits[name] for name in usable.get(row[FOV_ID], ())))
        if missing:
            left.setdefault((missing, row.get(CROP, 0)), []).append(row[FOV_ID])
    return left


def ids_of(works: list[Work]) -> dict[tuple, list[str]]:
    return {
        (work.wanted, work.keys[CROP][0] if CROP in work.keys.columns else 0): work.keys[FOV_ID].to_list()
        for work in works
    }


@pytest.mark.parametrize("crops", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_work_that_is_left_is_that_of_a_slow_way(run, crops, seed):
    keys = keys_of(crops)
    fovs, commits = committed(run, keys, seed)
    assert ids_of(lacking(run, keys, fovs, commits)) == by_the_slow_way(run, keys, fovs, commits)
    assert ids_of(lacking(run, keys, fovs.clear(), {})) == by_the_slow_way(run, keys, fovs.clear(), {})
    whole = fovs.clear().vstack(
        keys.select(FOV_ID, pl.lit(None, pl.String).alias(ERROR), pl.lit(["whole"], pl.List(pl.String)).alias("files"))
    )
    assert lacking(run, keys, whole, commits) == []


def test_the_files_of_a_field_come_with_it(run):
    keys = keys_of(crops=False)
    fovs, commits = committed(run, keys, 0)
    known = dict(fovs.filter(pl.col(ERROR).is_null()).select(FOV_ID, "files").iter_rows())
    for work in lacking(run, keys, fovs, commits):
        for name, files in work.keys.select(FOV_ID, "files").iter_rows():
            assert files == known.get(name)


@pytest.mark.parametrize("loaders", [1, 3])
def test_pieces_have_every_row_once_and_rows_of_one_group(run, loaders):
    keys = keys_of(crops=False)
    fovs, commits = committed(run, keys, 1)
    for work in lacking(run, keys, fovs, commits):
        seen, files = [], []
        for piece in _pieces(work.keys, loaders):
            rows = np.frombuffer(piece["rows"], np.int32)
            assert 0 < len(rows) <= piece_size(work.keys.height, loaders)
            seen += [(piece["row_group"], int(row)) for row in rows]
            files += json.loads(piece[FILES]) if FILES in piece else [[]] * len(rows)
        assert seen == work.keys.select("row_group", "row").rows()
        assert files == [names or [] for names in work.keys["files"].to_list()]


def test_a_stream_of_millions_of_fields_has_few_pieces():
    assert fovs_per_piece(1000) == fovs_per_piece(2_000_000) == 64
    assert fovs_per_piece(8_126_570) == 254
    assert 8_126_570 / piece_size(8_126_570, 500) <= 32_000
