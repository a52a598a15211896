"""Whitening, sphering, alignment: against scikit-learn, pycytominer, formulas written out, and moments that were merged."""

import functools
import importlib.util
from typing import get_args

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power
from sklearn.covariance import oas
from sklearn.decomposition import PCA

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.retrieval.normalisation.axes import axes_of_moments, principal_axes
from sdvae_ray.retrieval.normalisation.moments import Moments, merged, moments
from sdvae_ray.retrieval.normalisation.normalise import normalise, resolve_steps
from sdvae_ray.retrieval.normalisation.steps.pca_whiten import pca_whitening
from sdvae_ray.retrieval.normalisation.steps.sphere import Method, oracle_shrinkage, sphering
from sdvae_ray.retrieval.normalisation.steps.tvn import ridge_power

METHODS = get_args(Method)


def wells(n=300, features=40, seed=0):
    """(n, features) along tilted axes of sd 10 to 0.01, so a covariance of condition number 1e6, about means up to 50."""
    random = np.random.default_rng(seed)
    axes = np.linalg.qr(random.normal(size=(features, features)))[0]
    z = random.normal(size=(n, features)) * np.geomspace(10, 0.01, features)
    return z @ axes.T + random.uniform(-50, 50, features)


def of_methods(fit, method, epsilon, other=None):
    whitening, record = sphering(principal_axes(fit, method.endswith("-cor")), method, epsilon)
    return whitening(fit if other is None else other), record


@pytest.mark.parametrize("method", METHODS)
def test_sphering_without_a_ridge_gives_the_fit_identity_covariance(method):
    out, record = of_methods(wells(), method, 0)
    np.testing.assert_allclose(np.cov(out.T), np.eye(40), rtol=0, atol=1e-6)
    assert record["rank"] == record["components"] == 40
    assert record["explained_variance"] == pytest.approx(1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [300, 25])
def test_sphering_with_a_ridge_is_the_inverse_root_of_the_covariance_plus_the_ridge(method, n):
    fit, other = wells(n), wells(50, seed=1)
    z, y = fit - fit.mean(axis=0), other - fit.mean(axis=0)
    if method.endswith("-cor"):
        z, y = z / fit.std(axis=0), y / fit.std(axis=0)
    expected = y @ np.linalg.inv(np.real(fractional_matrix_power(np.cov(z.T) + 0.3 * np.eye(40), 0.5)))
    out, record = of_methods(fit, method, 0.3, other)
    if method.startswith("PCA"):
        axes = PCA().fit(z).components_[: min(n - 1, 40)]
        expected = expected @ axes.T
        sign = np.sign((out * expected).sum(axis=0))
        expected = expected * sign
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    assert record["rank"] == min(n - 1, 40)
    assert record["components"] == out.shape[1]


def test_zca_without_a_ridge_drops_what_is_orthogonal_to_a_fit_of_low_rank():
    fit = wells(25)
    out, record = of_methods(fit, "ZCA", 0)
    values = np.linalg.eigvalsh(np.cov(out.T))
    np.testing.assert_allclose(values[:16], 0, atol=1e-8)
    np.testing.assert_allclose(values[16:], 1, atol=1e-8)
    assert (record["rank"], record["components"]) == (24, 40)


@pytest.mark.parametrize("method", METHODS)
def test_sphering_equals_pycytominer_where_both_regularise_nothing(method):
    pd = pytest.importorskip("pandas")
    transform = pytest.importorskip("pycytominer.operations.transform")
    fit, other = wells(), wells(50, seed=1)
    theirs = transform.Spherize(epsilon=0, method=method).fit(pd.DataFrame(fit)).transform(pd.DataFrame(other))
    ours, _ = of_methods(fit, method, 0, other)
    np.testing.assert_allclose(np.abs(ours), np.abs(np.asarray(theirs)), rtol=0, atol=1e-8 * np.abs(ours).max())


@pytest.mark.parametrize("correlation", [False, True])
@pytest.mark.parametrize("n", [300, 25])
def test_the_automatic_ridge_is_scikit_learns_shrinkage_by_another_name(correlation, n):
    fit = wells(n)
    z = (fit - fit.mean(axis=0)) / (fit.std(axis=0) if correlation else 1.0)
    _, shrinkage = oas(z, assume_centered=True)
    axes = principal_axes(fit, correlation)
    assert oracle_shrinkage(axes) == pytest.approx(shrinkage, rel=1e-9)
    _, record = sphering(axes, "ZCA-cor" if correlation else "ZCA", "auto")
    shrunk = (1 - shrinkage) * np.cov(z.T) + shrinkage * np.trace(np.cov(z.T)) / 40 * np.eye(40)
    ours = np.cov(z.T) + record["epsilon"] * np.eye(40)
    np.testing.assert_allclose(ours * (1 - shrinkage), shrunk, rtol=0, atol=1e-9 * np.abs(shrunk).max())
    assert record["asked"] == "auto"
    assert record["shrinkage"] == pytest.approx(shrinkage)


def test_the_automatic_ridge_stays_finite_on_round_noise():
    _, record = of_methods(np.random.default_rng(0).normal(size=(5, 200)), "PCA", "auto")
    assert record["shrinkage"] <= 0.999
    assert np.isfinite(record["epsilon"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epsilon", [0, 0.1, "auto"])
def test_sphering_from_merged_moments_equals_the_direct_fit(method, epsilon):
    fit, other = wells(), wells(50, seed=1)
    whole = functools.reduce(merged, [moments(part) for part in np.array_split(fit, 7)], moments(fit[:0]))
    axes = axes_of_moments(whole, correlation=method.endswith("-cor"))
    streamed, record = sphering(axes, method, epsilon)
    direct, expected = of_methods(fit, method, epsilon, other)
    # float64 knows the smallest eigenvalues of a covariance of condition 1e6 to 2e-16 * 1e6, times the wells summed over
    np.testing.assert_allclose(streamed(other), direct, rtol=0, atol=1e-8 * np.abs(direct).max())
    assert record == pytest.approx(expected)


def test_pca_whitening_from_merged_moments_equals_scikit_learn():
    fit, other = wells(), wells(50, seed=1)
    whitening, record = pca_whitening(axes_of_moments(moments(fit)), 12)
    pca = PCA(12, whiten=True, svd_solver="full").fit(fit)
    theirs = pca.transform(other)
    np.testing.assert_allclose(np.abs(whitening(other)), np.abs(theirs), rtol=0, atol=1e-8 * np.abs(theirs).max())
    assert record["explained_variance"] == pytest.approx(pca.explained_variance_ratio_.sum())


def test_moments_of_fewer_wells_than_features_have_the_rank_of_the_wells():
    fit, other = wells(25), wells(50, seed=1)
    axes = axes_of_moments(moments(fit))
    assert len(axes.variance) == 24
    streamed, direct = (pca_whitening(made, 256)[0](other) for made in (axes, principal_axes(fit)))
    np.testing.assert_allclose(streamed, direct, rtol=0, atol=1e-8 * np.abs(direct).max())


def test_a_feature_constant_over_the_fit_is_dropped_by_both_fits():
    fit = wells()
    fit[:, 7] = 0.1
    for axes in (principal_axes(fit, True), axes_of_moments(moments(fit), correlation=True)):
        whitening, record = sphering(axes, "ZCA-cor", 0)
        assert record["dropped"] == 1
        out = whitening(fit[:, axes.keep])
        assert out.shape == (300, 39)
        np.testing.assert_allclose(np.cov(out.T), np.eye(39), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((1, np.zeros(3), np.eye(3)), "at least 2 profiles"),
        ((9, np.full(3, np.nan), np.eye(3)), "finite moments"),
        ((9, np.zeros(3), np.zeros((3, 3))), "the 9 wells of the fit have identical profiles"),
    ],
)
def test_moments_that_cannot_be_used_are_refused(given, said):
    with pytest.raises(DataError, match=said):
        axes_of_moments(Moments(*given))


def test_a_power_of_a_singular_covariance_is_that_of_its_own_directions():
    covariance = np.diag([4.0, 9.0, 0.0])
    np.testing.assert_allclose(ridge_power(covariance, 0, -0.5), np.diag([1 / 2, 1 / 3, 0]), atol=1e-15)
    np.testing.assert_allclose(ridge_power(covariance, 7, 0.5), np.diag([11, 16, 7]) ** 0.5, atol=1e-12)


def plates(controls=60, count=3, features=10):
    """Plates of 2 * controls wells with their own means, scales and mixings; the first wells of each are controls."""
    random = np.random.default_rng(5)
    common = random.normal(size=(features, features))
    x = [
        random.normal(size=(2 * controls, features)) @ (common + 0.3 * random.normal(size=(features, features)))
        + random.normal(size=features)
        for _ in range(count)
    ]
    plate = np.repeat([f"P{i}" for i in range(count)], 2 * controls)
    return np.concatenate(x), np.tile(np.arange(2 * controls) < controls, count), plate


def test_tvn_gives_every_batch_the_mean_and_covariance_of_all_controls():
    x, is_control, plate = plates()
    out = normalise(x, is_control, plate, [{"tvn": {"regularisation": 0}}])
    for name in np.unique(plate):
        controls = out.features[is_control & (plate == name)]
        np.testing.assert_allclose(controls.mean(axis=0), 0, atol=1e-8)
        np.testing.assert_allclose(np.cov(controls.T), np.eye(10), atol=1e-8)
    assert out.record[0]["batches"] == 3
    assert (out.record[0]["components"], out.record[0]["asked"]) == (10, 256)


def test_tvn_is_the_formula_written_out():
    x, is_control, plate = plates()
    z = (x - x[is_control].mean(axis=0)) / x[is_control].std(axis=0)
    z = PCA(6, whiten=True, svd_solver="full").fit(z[is_control]).transform(z)
    expected = np.empty_like(z)
    for name in np.unique(plate):
        on = plate == name
        own = np.cov(z[on & is_control].T) + 0.5 * np.eye(6)
        target = np.cov(z[is_control].T) + 0.5 * np.eye(6)
        move = fractional_matrix_power(own, -0.5) @ fractional_matrix_power(target, 0.5)
        expected[on] = (z[on] - z[on & is_control].mean(axis=0)) @ move
    out = normalise(x, is_control, plate, [{"tvn": {"components": 6, "regularisation": 0.5}}]).features
    np.testing.assert_allclose(np.abs(out), np.abs(expected), rtol=0, atol=1e-8)


def test_tvn_aligns_the_batches_that_the_caller_gives():
    x, is_control, plate = plates()
    batch = np.where(plate == "P2", "late", "early")
    out = normalise(x, is_control, plate, [{"tvn": {"regularisation": 0}}], batch=batch)
    assert out.record[0]["batches"] == 2
    early = out.features[is_control & (batch == "early")]
    np.testing.assert_allclose(np.cov(early.T), np.eye(10), atol=1e-8)
    alone = out.features[is_control & (plate == "P0")]
    assert np.abs(np.cov(alone.T) - np.eye(10)).max() > 0.05


def test_tvn_names_a_batch_without_controls():
    x, is_control, plate = plates()
    with pytest.raises(DataError, match="batch P1: 0 control wells; tvn needs at least 2 on each batch"):
        normalise(x, is_control & (plate != "P1"), plate, ["tvn"])


def test_sphering_per_plate_whitens_each_plate_and_lists_what_it_chose():
    x, is_control, plate = plates()
    x[is_control & (plate == "P1"), 4] = 2.5
    step = {"sphere": {"method": "ZCA-cor", "epsilon": 0, "per": "plate"}}
    out = normalise(x, is_control, plate, [step])
    for name in np.unique(plate):
        np.testing.assert_allclose(np.cov(out.features[is_control & (plate == name)].T), np.eye(9), atol=1e-6)
    made = out.record[0]
    assert (made["dropped"], made["plates"], made["rank"]) == (1, 3, [9, 9, 9])
    with pytest.raises(DataError, match="plate P2: 0 control wells; sphere needs at least 2 on each plate"):
        normalise(x, is_control & (plate != "P2"), plate, [step])


def test_axes_per_plate_are_refused():
    with pytest.raises(ConfigError, match="use ZCA or ZCA-cor"):
        resolve_steps([{"sphere": {"method": "PCA", "per": "plate"}}])


@pytest.mark.skipif(importlib.util.find_spec("harmonypy") is not None, reason="harmonypy is installed")
def test_harmony_without_its_package_is_refused_before_the_run():
    with pytest.raises(ConfigError, match="the package harmonypy is not installed"):
        resolve_steps(["harmony"])


def test_harmony_moves_batches_together():
    pytest.importorskip("harmonypy", minversion="2.0")
    x, is_control, plate = plates()
    before = normalise(x, is_control, plate, ["standardise"]).features
    out = normalise(x, is_control, plate, ["standardise", "harmony"])
    again = normalise(x, is_control, plate, ["standardise", "harmony"])

    def apart(values):
        return np.std([values[plate == name].mean(axis=0) for name in np.unique(plate)], axis=0).mean()

    assert out.features.shape == x.shape
    assert apart(out.features) < 0.5 * apart(before)
    np.testing.assert_array_equal(out.features, again.features)
    assert out.record[1]["fit_wells"] == len(x)
    alone = normalise(x, is_control, np.full(len(x), "P0"), ["harmony"])
    np.testing.assert_array_equal(alone.features, x)
