"""The normalisation steps against scikit-learn, and what they say when they cannot be fitted."""

import json

import numpy as np
import pytest
from scipy.stats import median_abs_deviation
from sklearn.decomposition import PCA
from sklearn.feature_selection import VarianceThreshold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.retrieval.normalisation.normalise import NORMALISATIONS, normalise, resolve_steps


def group(seed=0, plates=2, wells=40, controls=16, features=60):
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(features, features)) * np.linspace(3, 0.05, features)
    x = random.normal(size=(plates * wells, features)) @ mixing + 50
    plate = np.repeat([f"P{i}" for i in range(plates)], wells)
    is_control = np.tile(np.arange(wells) < controls, plates)
    return x, is_control, plate


def places(plates=2, wells=40):
    """Names of the wells of `group`, six columns a plate, rows first: the controls lie in all columns and in some rows."""
    return np.array([f"{'ABCDEFGH'[at // 6]}{at % 6 + 1:02d}" for _ in range(plates) for at in range(wells)])


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


@pytest.mark.parametrize("controls", [64, 40])
def test_published_steps_equal_scikit_learn_at_the_size_of_a_real_group(controls):
    """Four plates of 384 wells, 5 stains x 384 features; 256 controls allow 255 components, 160 allow 159."""
    random = np.random.default_rng(1)
    latent = random.normal(size=(4 * 384, 300)) * np.geomspace(5, 0.2, 300)
    x = latent @ random.normal(size=(300, 1920)) + 0.5 * random.normal(size=(4 * 384, 1920)) + 10
    plate = np.repeat([f"P{i}" for i in range(4)], 384)
    is_control = np.tile(np.arange(384) < controls, 4)
    ours = normalise(x, is_control, plate, "published")
    theirs = sklearn_published(x, is_control, plate, components=4 * controls - 1)
    assert ours.features.shape == theirs.shape == (1536, 4 * controls - 1)
    # the last axes carry 1e-2 of the first's sd, so a rounding of 1e-15 * 1920 terms is 1e-10 of a profile of size 10
    np.testing.assert_allclose(np.abs(ours.features), np.abs(theirs), rtol=0, atol=1e-8)
    whitening = ours.record[1]
    assert (whitening["components"], whitening["asked"]) == (4 * controls - 1, 256)
    assert whitening["rank"] == 4 * controls - 1
    assert whitening["explained_variance"] == pytest.approx(1)


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
    assert resolve_steps(["pca_whiten"]) == [("pca_whiten", {"components": 256, "fit": "controls"})]
    assert resolve_steps("published") == [
        ("standardise", {"fit": "controls", "per": "group", "precision": "float64"}),
        ("pca_whiten", {"components": 256, "fit": "controls"}),
        ("variance_threshold", {"threshold": 1e-6, "fit": "controls"}),
        ("plate_standardise", {"fit": "controls"}),
    ]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("publishd", "did you mean 'published'"),
        (["pca_whitten"], "did you mean 'pca_whiten'"),
        ([{"pca_whiten": {"component": 3}}], "did you mean 'components'"),
        ([{"pca_whiten": {"components": 0}}], "at least 1"),
        ([{"pca_whiten": {"components": "many"}}], "must be a number"),
        ([{"variance_threshold": {"threshold": -1.0}}], "at least 0"),
        ([{"mad_robustize": {"epsilom": 1}}], "did you mean 'epsilon'"),
        ([{"mad_robustize": {"per": "plates"}}], "did you mean 'plate'"),
        ([{"standardise": {"fit": "control"}}], "did you mean 'controls'"),
        ([{"standardise": {"fit": 3}}], "fit 3 is not known"),
        ([{"plate_standardise": {"per": "group"}}], "unknown parameter 'per' of plate_standardise"),
        ([{"sphere": {"method": "ZCA_cor"}}], "did you mean 'ZCA-cor'"),
        ([{"sphere": {"epsilon": "automatic"}}], "must be a number, or 'auto', not 'automatic'"),
        ([{"sphere": {"epsilon": -1}}], "at least 0, or 'auto'"),
        ([{"sphere": {"epsilon": float("nan")}}], "at least 0, or 'auto'"),
        ([{"tvn": {"components": True}}], "must be a number"),
        ([{"tvn": {"regularization": 1}}], "did you mean 'regularisation'"),
        (["mad_robustise"], "did you mean 'mad_robustize'"),
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


EVERY = [
    [{"standardise": {"per": "plate"}}],
    [{"mad_robustize": {"per": "plate"}}, {"sphere": {"method": "PCA"}}],
    ["mad_robustize", {"sphere": {"method": "ZCA-cor", "epsilon": 0.1, "per": "plate"}}],
    ["variance_threshold", "plate_standardise", {"pca_whiten": {"components": 20, "fit": "all"}}],
    ["standardise", {"sphere": {"method": "ZCA", "epsilon": "auto", "fit": "all"}}, "plate_standardise"],
    [{"tvn": {"components": 20}}, "standardise"],
    "published",
]


@pytest.mark.parametrize("steps", EVERY, ids=str)
def test_a_permutation_of_the_wells_permutes_the_profiles(steps):
    x, is_control, plate = group()
    order = np.random.default_rng(3).permutation(len(x))
    straight = normalise(x, is_control, plate, steps)
    shuffled = normalise(x[order], is_control[order], plate[order], steps)
    largest = np.abs(straight.features).max()
    np.testing.assert_allclose(shuffled.features, straight.features[order], rtol=0, atol=1e-8 * largest)
    for ours, theirs in zip(straight.record, shuffled.record, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(ours[key] == pytest.approx(theirs[key]) for key in ours)


@pytest.mark.parametrize("steps", EVERY, ids=str)
def test_every_list_of_steps_survives_constant_features_and_leaves_a_json_record(steps):
    x, is_control, plate = group()
    x[:, 3] = 0.1
    x[is_control, 4] = 7.0
    out = normalise(x, is_control, plate, steps)
    assert np.isfinite(out.features).all()
    record = json.loads(json.dumps(out.record))
    assert record[-1]["features"] == out.features.shape[1]
    assert all(made["fit_wells"] == (len(x) if made.get("fit") == "all" else is_control.sum()) for made in record)


def test_mad_robustize_is_pycytominers_formula():
    x, is_control, plate = group()
    fit = x[is_control]
    for epsilon in (1e-18, 0.5):
        out = normalise(x, is_control, plate, [{"mad_robustize": {"epsilon": epsilon}}]).features
        median = np.median(fit, axis=0)
        mad = median_abs_deviation(fit, scale=1 / 1.4826)
        np.testing.assert_allclose(out, (x - median) / (mad + epsilon), rtol=1e-12, atol=1e-12)


def test_mad_robustize_equals_pycytominer():
    pd = pytest.importorskip("pandas")
    transform = pytest.importorskip("pycytominer.operations.transform")
    x, is_control, plate = group()
    theirs = transform.RobustMAD(1e-18).fit(pd.DataFrame(x[is_control])).transform(pd.DataFrame(x))
    ours = normalise(x, is_control, plate, ["mad_robustize"]).features
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("step", ["standardise", "mad_robustize"])
def test_per_plate_is_each_plate_alone(step):
    x, is_control, plate = group()
    both = normalise(x, is_control, plate, [{step: {"per": "plate"}}])
    for name in ("P0", "P1"):
        on = plate == name
        np.testing.assert_array_equal(both.features[on], normalise(x[on], is_control[on], plate[on], [step]).features)
    assert both.record[0]["plates"] == 2
    with pytest.raises(DataError, match=f"plate P1: 0 control wells; {step} needs at least 2 on each plate"):
        normalise(x, is_control & (plate == "P0"), plate, [{step: {"per": "plate"}}])


def test_a_feature_of_which_most_controls_are_equal_is_only_centred_by_mad_robustize():
    x, is_control, plate = group()
    x[:, 3] = np.where(np.arange(len(x)) % 4 == 0, x[:, 3], 2.0)
    out = normalise(x, is_control, plate, ["mad_robustize"])
    np.testing.assert_array_equal(out.features[:, 3], x[:, 3] - 2.0)
    assert out.record[0]["constant"] == 1


def test_fit_all_is_scikit_learn_fitted_on_all_wells_and_needs_no_controls():
    x, is_control, plate = group()
    none = np.zeros_like(is_control)
    out = normalise(x, none, plate, [{"standardise": {"fit": "all"}}, {"pca_whiten": {"components": 9, "fit": "all"}}])
    theirs = make_pipeline(StandardScaler(), PCA(9, whiten=True, svd_solver="full")).fit_transform(x)
    np.testing.assert_allclose(np.abs(out.features), np.abs(theirs), rtol=0, atol=1e-8)
    assert out.record[0]["fit_wells"] == len(x)


def test_fit_all_leaves_out_the_wells_that_may_not_be_fitted_on():
    x, is_control, plate = group()
    fittable = np.arange(len(x)) % 3 != 0
    steps = [{"standardise": {"fit": "all"}}]
    out = normalise(x, is_control, plate, steps, fittable=fittable)
    np.testing.assert_allclose(out.features, StandardScaler().fit(x[fittable]).transform(x), rtol=0, atol=1e-9)
    assert out.record[0]["fit_wells"] == fittable.sum()
    with pytest.raises(DataError, match="1 wells to fit on in this group"):
        normalise(x, is_control, plate, steps, fittable=np.arange(len(x)) == 5)


@pytest.mark.parametrize("step", ["standardise", "mad_robustize", "pca_whiten", "sphere", "variance_threshold", "tvn"])
def test_one_control_is_too_few_for_every_step(step):
    x, _, plate = group()
    with pytest.raises(DataError, match="plates P0, P1: 1 control wells in this group; normalisation needs at least 2"):
        normalise(x, np.arange(len(x)) == 0, plate, [step])


def test_identical_controls_cannot_be_sphered():
    x, is_control, plate = group()
    x[is_control] = 1.0
    with pytest.raises(DataError, match="plates P0, P1: the 32 wells of the fit have identical profiles"):
        normalise(x, is_control, plate, ["sphere"])


def test_batches_that_do_not_match_are_refused():
    x, is_control, plate = group()
    with pytest.raises(DataError, match="80 profiles came with 79 batches"):
        normalise(x, is_control, plate, ["tvn"], batch=plate[1:])
