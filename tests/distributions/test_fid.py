"""The Frechet distance against the textbook formula, closed forms, and the same without a covariance."""

import functools
import itertools

import numpy as np
import pytest
from scipy.linalg import sqrtm, svdvals
from test_samples import field_features

from sdvae_ray.distributions.fid import frechet_distance, mean_and_covariance, merge, moments
from sdvae_ray.errors import DataError


def samples(n, d, seed=0, offset=0.0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) @ (np.eye(d) + 0.3 * random.normal(size=(d, d)) / np.sqrt(d)) + 3 + offset


def textbook(x, y):
    a, b = np.cov(x.T), np.cov(y.T)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(a @ b)).real


def from_samples(x, y):
    """Without a covariance, for fewer vectors than features: the centred samples are factors of their covariances."""
    a, b = ((side - side.mean(0)) / np.sqrt(len(side) - 1) for side in (x, y))
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * svdvals(a @ b.T).sum()


@pytest.mark.parametrize("d", [2, 16, 40])
def test_the_distance_equals_the_formula_with_a_matrix_square_root(d):
    x, y = samples(300, d, 0), samples(200, d, 1, offset=0.2)
    expected = textbook(x, y)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-6)
    assert from_samples(x, y) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["random", "field"])
def test_the_distance_equals_torchmetrics_and_scipy(kind, request):
    reference = pytest.importorskip("torchmetrics.image.fid")
    import torch

    if kind == "random":
        x, y = samples(500, 24, 0), samples(400, 24, 1, offset=0.2)
    else:
        x, y = field_features(request.getfixturevalue("real_field"), 500, 400, 24)
    assert max(np.linalg.cond(np.cov(side.T)) for side in (x, y)) < 1e5  # their roots lose half the digits otherwise
    statistics = [torch.from_numpy(part) for side in (x, y) for part in (side.mean(0), np.cov(side.T))]
    theirs = float(reference._compute_fid(*statistics))
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(theirs, rel=1e-6)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(textbook(x, y), rel=1e-6)


def test_a_field_with_fewer_patches_than_features_has_a_finite_distance(real_field):
    x, y = field_features(real_field, 20, 15, 64)
    found = frechet_distance(moments(x), moments(y))
    assert found > 0
    assert found == pytest.approx(from_samples(x, y), rel=1e-6)


def test_one_feature_gives_the_closed_form():
    x, y = samples(50, 1, 0), samples(70, 1, 1) * 2
    expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(20, 15, 64), (20, 200, 64), (200, 20, 64), (64, 65, 64), (2, 2, 30)])
def test_fewer_vectors_than_features_have_a_finite_distance(n, m, d):
    x, y = samples(n, d, 0), samples(m, d, 1)
    expected = from_samples(x, y)
    assert np.isfinite(expected)
    assert expected > 0
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-6)


def test_a_mean_far_from_zero_does_not_add_directions_to_a_small_set():
    x, y = samples(20, 64, 0, offset=300), samples(200, 64, 1, offset=300)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(from_samples(x, y), rel=1e-6)


@pytest.mark.parametrize("offset", [0, 30])
def test_features_that_depend_on_each_other_do_not_add_directions(offset):
    x, y = samples(400, 4, offset=-3) @ samples(4, 200, 2, offset=-3) + offset, samples(400, 200, 1, offset=offset)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(from_samples(x, y), rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(200, 16), (10, 64)])
def test_identical_sets_are_at_distance_zero(n, d):
    x = samples(n, d)
    spread = np.trace(np.cov(x.T))
    assert 0 <= frechet_distance(moments(x), moments(x)) <= 1e-6 * spread
    assert 0 <= frechet_distance(moments(x), moments(x[::-1])) <= 1e-6 * spread


def test_a_shift_of_one_set_adds_its_squared_length():
    x = samples(30, 50)
    moved = x + np.linspace(0, 1, 50)
    expected = (np.linspace(0, 1, 50) ** 2).sum()
    assert frechet_distance(moments(x), moments(moved)) == pytest.approx(expected, rel=1e-6)


def test_the_distance_is_symmetric():
    x, y = samples(20, 30), samples(60, 30, 1)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(frechet_distance(moments(y), moments(x)), rel=1e-9)


def test_merging_in_any_order_gives_the_moments_of_the_whole():
    x, y = samples(40, 8).astype(np.float16), samples(50, 8, 1)
    whole = moments(x)
    parts = [moments(part) for part in np.split(x, [3, 4, 25])]
    expected = frechet_distance(whole, moments(y))
    for order in itertools.permutations(parts):
        merged = functools.reduce(merge, order)
        assert merged.n == 40
        np.testing.assert_allclose(merged.outer, whole.outer, rtol=1e-13)
        assert frechet_distance(merged, moments(y)) == pytest.approx(expected, rel=1e-10)


def test_moments_give_numpys_mean_and_covariance():
    x = samples(40, 8)
    mean, covariance = mean_and_covariance(moments(x, shift=np.full(8, 2.5)))
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(x.T), rtol=1e-10, atol=1e-12)


def test_a_shift_near_the_mean_saves_a_covariance_far_from_zero():
    x = samples(100, 4, offset=1e7)
    y = samples(100, 4, 1, offset=1e7)
    near = np.full(4, 1e7)
    expected = from_samples(x - near, y - near)
    assert frechet_distance(moments(x, near), moments(y, near)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: frechet_distance(moments(samples(1, 3)), moments(samples(5, 3))), DataError, "at least 2 vectors"),
        (lambda: frechet_distance(moments(samples(5, 3)), moments(samples(1, 3))), DataError, "at least 2 vectors"),
        (lambda: frechet_distance(moments(samples(5, 3)), moments(samples(5, 4))), DataError, "3 and 4 features"),
        (lambda: moments([[1.0, np.inf]]), DataError, "1 vectors have features that are not finite"),
        (lambda: moments([1.0, 2.0]), DataError, "matrix"),
        (lambda: merge(moments(samples(5, 3)), moments(samples(5, 3), np.ones(3))), ValueError, "different shifts"),
        (lambda: moments(samples(5, 3), np.ones(2)), ValueError, "does not fit"),
    ],
)
def test_what_has_no_distance_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
