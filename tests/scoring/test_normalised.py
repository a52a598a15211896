"""Profiles that are too many to hold: every step gives the same numbers, fitted from parts through Ray, as in memory."""

import importlib.util

import numpy as np
import polars as pl
import pytest

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.normalisation.contract import apply
from sdvae_ray.retrieval.normalisation.normalise import normalise
from sdvae_ray.retrieval.normalisation.shelf import find_step, step_names
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.table_files import write_wide_table
from sdvae_ray.scoring.normalised import normaliser_of
from sdvae_ray.scoring.profiles import FILE, ROW, Profiles
from sdvae_ray.storage import Storage

PLATES, WELLS, CONTROLS, FEATURES = 5, 24, 12, 20
NOTHING_HELD = 8
HARMONY = pytest.param(
    ["standardise", {"pca_whiten": {"components": 6}}, "harmony"],
    marks=pytest.mark.skipif(importlib.util.find_spec("harmonypy") is None, reason="harmonypy is not installed"),
)


def stored(folder, seed=0, bad=False):
    """(Profiles on disk, a table of their wells with roles, the same (W, D) in memory)."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(FEATURES, FEATURES)) * np.geomspace(3, 0.3, FEATURES)
    files, frames, parts = [], [], []
    for plate in range(PLATES):
        x = (random.normal(size=(WELLS, FEATURES)) @ mixing + 100 + random.normal(size=FEATURES)).astype(np.float32)
        x[:, 3] = 0.1  # constant
        if bad and plate == 2:
            x[5, 1] = np.nan
        names = pl.DataFrame({"Metadata_Well": [f"W{i:02d}" for i in range(WELLS)]})
        table = pl.concat([names, pl.DataFrame(x, schema=[f"made_0_{i}" for i in range(FEATURES)])], how="horizontal")
        files.append(f"{folder}/P{plate}.parquet")
        write_wide_table(files[-1], table.to_arrow(), Storage())
        frames.append(
            names.with_columns(
                pl.lit(f"P{plate}").alias("plate"), pl.lit(plate).alias(FILE), pl.int_range(pl.len()).alias(ROW)
            )
        )
        parts.append(x)
    wells = pl.concat(frames).with_columns(Metadata_lab=pl.col("plate").replace({"P0": "a", "P1": "a", "P2": "a"}))
    return Profiles("made", "image", wells, files, FEATURES, {}), wells, np.concatenate(parts)


def masks(wells):
    control = wells[ROW].to_numpy() < CONTROLS
    return control, np.ones(len(control), bool)


@pytest.mark.parametrize(
    "steps",
    [
        *([name] for name in step_names() if not hasattr(find_step(name), "NO_FIT")),
        "published",
        ["mad_robustize", {"sphere": {"method": "PCA", "epsilon": 0.1}}],
        [{"mad_robustize": {"per": "plate"}}, {"sphere": {"method": "ZCA-cor", "per": "plate"}}],
        ["standardise", {"sphere": {"method": "ZCA", "epsilon": "auto"}}, "plate_standardise"],
        [{"standardise": {"fit": "all"}}, {"pca_whiten": {"components": 5, "fit": "all"}}],
        [{"tvn": {"components": 8}}],
        HARMONY,
        [],
    ],
)
def test_streamed_profiles_are_normalised_as_held_ones(local_ray, small_run_config, tmp_path, steps):
    config = small_run_config(score={"normalise": steps})
    profiles, wells, x = stored(tmp_path)
    fit, every = masks(wells)
    expected = normalise(x, fit, wells["plate"], steps, position=wells["Metadata_Well"])
    normaliser = normaliser_of(Run(config), [(profiles, wells)])
    held = normaliser(fit, every)
    streamed = normaliser_of(Run(config), [(profiles, wells)], NOTHING_HELD)(fit, every)
    np.testing.assert_array_equal(held.features, expected.features)
    assert held.record == expected.record
    assert streamed.features.dtype == np.float32
    # what is stored of the streamed ones has 24 bits
    np.testing.assert_allclose(
        streamed.features, expected.features, rtol=0, atol=2e-7 * np.abs(expected.features).max(initial=1)
    )
    if "harmony" not in steps:
        for normalised in (held, streamed):  # the fitted steps give the same of the profiles as they are
            chained = apply(normalised.chain, x.astype(float), normaliser.source.wells)
            np.testing.assert_allclose(chained, normalised.features, rtol=1e-6, atol=1e-6)
    assert len(streamed.record) == len(expected.record)
    for a, b in zip(streamed.record, expected.record, strict=True):
        assert a.keys() == b.keys()
        for key, value in b.items():
            assert a[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9)), key


def test_batches_may_span_plates(local_ray, small_run_config, tmp_path):
    config = small_run_config(score={"normalise": [{"tvn": {"components": 4}}], "batch": "Metadata_lab"})
    profiles, wells, x = stored(tmp_path)
    fit, every = masks(wells)
    expected = normalise(x, fit, wells["plate"], [{"tvn": {"components": 4}}], batch=wells["Metadata_lab"])
    assert expected.record[0]["batches"] == 3
    for most in (NOTHING_HELD, 1 << 20):
        normalised = normaliser_of(Run(config), [(profiles, wells)], most)(fit, every)
        np.testing.assert_allclose(normalised.features, expected.features, rtol=0, atol=1e-5)


def test_two_sets_of_one_plate_are_normalised_as_one(local_ray, small_run_config, tmp_path):
    config = small_run_config(score={"normalise": "published"})
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, wells, x = stored(tmp_path / "a")
    second, _, y = stored(tmp_path / "b", seed=1)
    fit, every = masks(wells)
    nobody = np.zeros_like(fit)
    chosen = (np.concatenate([fit, nobody]), np.concatenate([every, nobody]))
    plates = pl.concat([wells["plate"], wells["plate"]])
    expected = normalise(np.concatenate([x, y]), chosen[0], plates, "published", fittable=chosen[1])
    for most in (NOTHING_HELD, 1 << 20):
        normalised = normaliser_of(Run(config), [(first, wells), (second, wells)], most)(*chosen)
        np.testing.assert_allclose(normalised.features, expected.features, rtol=0, atol=1e-4)


def test_some_wells_of_a_plate_are_read_without_the_others(local_ray, small_run_config, tmp_path):
    config = small_run_config(score={"normalise": "none"})
    profiles, wells, x = stored(tmp_path)
    chosen = np.flatnonzero(np.arange(len(wells)) % 3 == 1)[::-1]
    normaliser = normaliser_of(Run(config), [(profiles, wells[chosen])], NOTHING_HELD)
    np.testing.assert_array_equal(normaliser(*masks(wells[chosen])).features, x[chosen])


@pytest.mark.parametrize("most", [NOTHING_HELD, 1 << 20])
def test_what_cannot_be_normalised_is_one_line(local_ray, small_run_config, tmp_path, most):
    config = small_run_config(score={"normalise": "published"})
    profiles, wells, _ = stored(tmp_path, bad=True)
    with pytest.raises(DataError, match=r"^plate P2: 1 wells have features that are not finite[^\n]*$"):
        normaliser_of(Run(config), [(profiles, wells)], most)(*masks(wells))
    profiles, wells, _ = stored(tmp_path)
    fit, every = masks(wells)
    with pytest.raises(DataError, match=r"^plate P4: 1 control wells; plate_standardise needs at least 2[^\n]*$"):
        normaliser_of(Run(config), [(profiles, wells)], most)(
            fit & ((wells["plate"] != "P4") | (wells[ROW] == 0)).to_numpy(), every
        )
