"""Metrics over the patches of a run: of few fields the numbers of all values, of many the merged summaries of the plates."""

import json

import numpy as np
import polars as pl
import pytest

from sdvae_ray.controls import with_groups
from sdvae_ray.distributions.quantiles import nearest_quantiles
from sdvae_ray.distributions.summary import ERROR as LARGEST
from sdvae_ray.metrics import psnr
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.plates import in_threads
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.schema import ERROR, FOV_ID, KEYS, ROW, fov_id
from sdvae_ray.scoring import metric_distributions as module
from sdvae_ray.scoring.inputs.fovs import Fovs

STAINS = ["Mito", "AGP", "RNA", "ER", "DNA"]


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    """Of 24 fields with 2 patches and 5 stains; some errors are 0, and some patches have no value."""
    random = np.random.default_rng(0)
    errors = random.exponential(1e-3, (24, 2, 5)).astype(np.float32)
    errors[3, 0, 1], errors[5, 1, 2], errors[:, :, 4] = 0, np.nan, np.nan
    with np.errstate(divide="ignore"):
        return {"mae": errors, "psnr": -10 * np.log10(errors)}


@pytest.fixture
def run(small_run_config, values) -> Run:
    """Three plates whose fields stand mixed in four files."""
    run = Run(small_run_config(metrics=["mae", "psnr"]))
    rows = [dict(zip(KEYS, ("s", "b", f"P{at % 3}", f"A{at:02d}", "1"), strict=True)) for at in range(24)]
    for part, chosen in enumerate(np.array_split(np.arange(24), 4)):
        columns = {FOV_ID: np.array([fov_id(rows[at]) for at in chosen], object)}
        columns |= {
            ERROR: np.full(len(chosen), "", object),
            ROW: np.array([json.dumps(rows[at]) for at in chosen], object),
        }
        columns |= {f"metrics/tiny:{name}": array[chosen] for name, array in values.items()}
        write_rows(run.output, f"part-{part}", columns, run.storage)
    return run


def table_of(run: Run) -> pl.DataFrame:
    fovs = Fovs.of(with_groups(run.config.score, run.fovs()))
    return module.metric_distributions(run, fovs, {}, in_threads)


def test_the_numbers_of_few_fields_are_those_of_all_values_to_the_last_bit(run, values):
    rows = table_of(run).rows_by_key(["metric", "part"], named=True, unique=True)
    for metric, array in values.items():
        for stain in range(4):
            known = array[:, :, stain][~np.isnan(array[:, :, stain])].astype(np.float64)
            row = rows[metric, STAINS[stain]]
            assert row["patches"] == len(known)
            assert row["mean"] == (psnr.pooled(known) if metric == "psnr" else known.mean())
            assert [row["median"], row["q05"], row["q95"]] == nearest_quantiles(known, (0.5, 0.05, 0.95))
            assert row["quantile_error"] == 0
        nothing = rows[metric, "DNA"]
        assert (nothing["patches"], nothing["mean"], nothing["median"], nothing["quantile_error"]) == (
            0,
            None,
            None,
            None,
        )


def test_the_numbers_of_many_fields_are_merged_and_say_their_error(run, monkeypatch):
    exact = table_of(run)
    monkeypatch.setattr(module, "EXACT", 10)
    merged = table_of(run)
    keys = ["side", "metric", "part", "band", "patches"]
    assert merged.select(keys).equals(exact.select(keys))
    for name, error in (("mean", 1e-12), ("sd", 1e-6), ("median", LARGEST), ("q05", LARGEST), ("q95", LARGEST)):
        assert merged[name].is_null().equals(exact[name].is_null()), name
        np.testing.assert_allclose(merged[name].drop_nulls(), exact[name].drop_nulls(), rtol=error, err_msg=name)
    assert merged["quantile_error"].unique().drop_nulls().to_list() == [LARGEST]
