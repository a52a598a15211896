"""The normalisation steps against scikit-learn, and what they say when they cannot be fitted."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.feature_selection import VarianceThreshold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.retrieval.normalise import NORMALISATIONS, normalise, resolve_steps


def group(seed=0, plates=2, wells=40, controls=16, features=60):
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(features, features)) * np.linspace(3, 0.05, features)
    x = random.normal(size=(plates * wells, features)) @ mixing + 50
    plate = np.repeat([f"P{i}" for i in range(plates)], wells)
    is_control = np.tile(np.arange(wells) < controls, plates)
    return x, is_control, plate


def sklearn_published(x, is_control, plate, components):
    pipeline = make_pipeline(
        StandardScaler(), PCA(components, whiten=True, svd_solver="full"), VarianceThreshold(1e-6)
    ).fit(x[is_control])
    out = pipeline.transform(x)
    for name in np.unique(plate):
        on = plate == name
        out[on] = StandardScaler().fit(out[on & is_control]).transform(out[on])
    return out


def test_published_steps_equal_the_scikit_learn_pipeline():
    x, is_control, plate = group()
    ours = normalise(x, is_control, plate, "published")
    theirs = sklearn_published(x, is_control, plate, components=31)
    assert ours.features.shape == theirs.shape
    np.testing.assert_allclose(np.abs(ours.features), np.abs(theirs), rtol=0, atol=1e-8)


def test_components_never_exceed_the_controls_less_one_and_are_recorded():
    x, is_control, plate = group(controls=16)
    record = normalise(x, is_control, plate, "published").record
    assert [made["step"] for made in record] == ["standardise", "pca_whiten", "variance_threshold", "plate_standardise"]
    assert record[1]["components"] == 31
    assert record[1]["asked"] == 256
    assert all(made["fit_wells"] == 32 for made in record)


def test_fewer_components_can_be_asked_for():
    x, is_control, plate = group()
    out = normalise(x, is_control, plate, [{"pca_whiten": {"components": 5}}])
    assert out.features.shape == (len(x), 5)


def test_whitened_controls_have_identity_covariance():
    x, is_control, plate = group()
    out = normalise(x, is_control, plate, ["standardise", "pca_whiten"]).features[is_control]
    np.testing.assert_allclose(np.cov(out.T), np.eye(out.shape[1]), atol=1e-8)


def test_axes_without_variance_on_the_controls_are_not_whitened():
    x, is_control, plate = group(features=8)
    x = np.concatenate([x, x @ np.ones((8, 3))], axis=1)
    x[~is_control, -1] += 1.0  # off the plane that the controls lie in
    out = normalise(x, is_control, plate, ["pca_whiten"])
    assert out.record[0]["components"] == 8
    assert np.abs(out.features).max() < 1e4


def test_steps_are_fitted_on_the_flagged_wells_alone():
    x, is_control, plate = group()
    moved = x.copy()
    moved[~is_control] += 7.0
    before, after = (normalise(a, is_control, plate, "published").features for a in (x, moved))
    np.testing.assert_array_equal(before[is_control], after[is_control])


def test_plate_standardise_gives_each_plate_controls_of_mean_0_and_sd_1():
    x, is_control, plate = group()
    x[plate == "P1"] = 3 * x[plate == "P1"] + 10
    out = normalise(x, is_control, plate, "plate_standardise").features
    for name in ("P0", "P1"):
        controls = out[is_control & (plate == name)]
        np.testing.assert_allclose(controls.mean(axis=0), 0, atol=1e-10)
        np.testing.assert_allclose(controls.std(axis=0), 1, atol=1e-10)


def test_a_feature_constant_on_a_plates_controls_is_only_centred():
    x, is_control, plate = group()
    x[is_control & (plate == "P0"), 3] = 0.1
    x[~is_control & (plate == "P0"), 3] = 5.1
    out = normalise(x, is_control, plate, "plate_standardise").features
    np.testing.assert_allclose(out[~is_control & (plate == "P0"), 3], 5.0, atol=1e-12)
    np.testing.assert_allclose(out[is_control & (plate == "P0"), 3], 0.0, atol=1e-12)


def test_the_preset_none_changes_nothing():
    x, is_control, plate = group()
    out = normalise(x.astype(np.float32), is_control, plate, "none")
    assert out.features.dtype == np.float64
    assert out.record == []
    np.testing.assert_array_equal(out.features, x.astype(np.float32))


def test_every_preset_resolves_to_steps_with_all_parameters():
    for name in NORMALISATIONS:
        assert len(resolve_steps(name)) == len(NORMALISATIONS[name])
    assert resolve_steps(["pca_whiten"]) == [("pca_whiten", {"components": 256})]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("publishd", "did you mean 'published'"),
        (["pca_whitten"], "did you mean 'pca_whiten'"),
        ([{"pca_whiten": {"component": 3}}], "did you mean 'components'"),
        ([{"pca_whiten": {"components": 0}}], "at least 1"),
        ([{"pca_whiten": {"components": "many"}}], "must be a number"),
        ([{"variance_threshold": {"threshold": -1.0}}], "at least 0"),
        ([{"standardise": {}, "pca_whiten": {}}], "one name with its parameters"),
        ([{"pca_whiten": 64}], "must be a mapping"),
        ([3], "write a step's name"),
    ],
)
def test_a_wrong_step_is_refused_with_what_is_allowed(steps, said):
    with pytest.raises(ConfigError, match=said):
        resolve_steps(steps)


def test_a_plate_without_controls_is_named():
    x, is_control, plate = group()
    with pytest.raises(DataError, match="plate P1: 0 control wells"):
        normalise(x, is_control & (plate == "P0"), plate, "published")


def test_a_group_without_controls_is_refused():
    x, is_control, plate = group()
    with pytest.raises(DataError, match="0 control wells in this group"):
        normalise(x, np.zeros_like(is_control), plate, ["standardise"])


def test_features_that_are_not_finite_are_refused_naming_the_plate():
    x, is_control, plate = group()
    x[45, 2] = np.nan
    with pytest.raises(DataError, match="plate P1: 1 wells have features that are not finite"):
        normalise(x, is_control, plate, "none")


def test_identical_controls_cannot_be_whitened():
    x, is_control, plate = group()
    x[is_control] = 1.0
    with pytest.raises(DataError, match="identical profiles"):
        normalise(x, is_control, plate, "published")


def test_rows_that_do_not_match_are_refused():
    x, is_control, plate = group()
    with pytest.raises(DataError, match="80 profiles came with 79 control flags"):
        normalise(x, is_control[1:], plate, "none")
