"""Statistics of latents against numpy and scipy.stats on all of them at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kurtosis, skew

from sdvae_ray.distributions import latent
from sdvae_ray.distributions.latent import active_units, describe, effective_rank, latent_moments, merge
from sdvae_ray.errors import DataError


def latents(n=12, seed=0, offset=0.0, z=3, s=4):
    """(n, z, s, s): correlated channels of different scales, skewed and heavy-tailed."""
    random = np.random.default_rng(seed)
    base = random.gamma(2, size=(n, z, s, s)) * np.array([1, 5, 0.2])[:z, None, None]
    return np.einsum("nzij,yz->nyij", base, np.eye(z) + 0.3) + random.normal(size=(z, s, s)) + offset


def of_channels(values):
    return values.transpose(1, 0, 2, 3).reshape(values.shape[1], -1)


def check(found, values, tolerance):
    """`tolerance` relative to each number's own scale: the sd of its channel to its power."""
    channels = of_channels(values)
    assert found.n == len(values)
    assert found.count == channels.shape[1]
    sd = channels.std(axis=1)
    described = describe(found)
    np.testing.assert_allclose(described["mean"], channels.mean(axis=1), rtol=1e-14, atol=tolerance)
    np.testing.assert_allclose(described["sd"], sd, rtol=tolerance)
    np.testing.assert_allclose(described["skewness"], skew(channels, axis=1), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(described["kurtosis"], kurtosis(channels, axis=1), rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(described["min"], channels.min(axis=1))
    np.testing.assert_array_equal(described["max"], channels.max(axis=1))
    scale = np.outer(sd, sd)
    covariance = np.cov(channels, ddof=0)
    np.testing.assert_allclose(found.comoment / found.count / scale, covariance / scale, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.unit_squares, ((values - values.mean(0)) ** 2).sum(0), rtol=tolerance)
    np.testing.assert_allclose(found.unit_mean, values.mean(0), rtol=1e-14, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_moments_give_numpys_and_scipys_statistics(dtype):
    values = latents().astype(dtype)
    check(latent_moments(values), values.astype(np.float64), 1e-12)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=20),
    offset=st.sampled_from([0.0, -30.0, 1e5]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_merging_in_any_order_gives_the_moments_of_the_whole(labels, offset, seed, data):
    values = latents(len(labels), seed, offset)
    values[0] += 40  # parts with different means
    groups = [values[np.array(labels) == label] for label in sorted(set(labels))]
    parts = [latent_moments(group) for group in groups]
    while len(parts) > 1:  # any binary tree
        first = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        second = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts.append(merge(first, second))
    # a mean is known to 1e-16 of itself; against the smallest sd here, 0.1, that is 1e-10 at a mean of 1e5
    check(parts[0], values, 1e-11 if offset < 1e3 else 1e-9)


def test_a_large_mean_costs_no_variance():
    values = latents(20) + 1e6
    check(latent_moments(values), values, 1e-8)


def test_images_taken_a_few_at_a_time_give_the_same(monkeypatch):
    values = latents(11)
    monkeypatch.setattr(latent, "_CHUNK", 4 * values[0].size)
    check(latent_moments(values), values, 1e-12)


def test_a_constant_channel_has_no_shape():
    values = latents(7)
    values[:, 1] = 0.1  # sums of it round
    found = describe(merge(latent_moments(values[:3]), latent_moments(values[3:])))
    assert found["sd"][1] == 0
    assert np.isnan(found["skewness"][1])
    assert np.isnan(found["kurtosis"][1])
    assert np.isfinite(found["skewness"][[0, 2]]).all()
    units = active_units(latent_moments(np.full((7, 2, 3, 3), 0.1)))
    assert (units.active, units.relative, units.scale) == (0, 0, 1)
    assert np.isnan(effective_rank(latent_moments(np.full((7, 2, 3, 3), 0.1))))


def test_active_units_are_counted_as_by_numpy():
    values = latents(30) * np.geomspace(1e-3, 1, 16).reshape(4, 4)
    found = active_units(latent_moments(values), scale=0.5, threshold=0.02)
    variance = values.var(axis=0, ddof=1)
    active = variance * 0.25 > 0.02
    assert 0 < active.sum() < active.size
    assert (found.units, found.active, found.share) == (48, active.sum(), active.mean())
    np.testing.assert_array_equal(found.channels, active.mean(axis=(1, 2)))
    relative = variance > 0.02 * of_channels(values).var(axis=1)[:, None, None]
    assert 0 < relative.sum() < relative.size
    assert found.relative == relative.mean()


def test_the_variance_of_a_unit_divides_by_n_minus_one():
    pair = np.array([0, 0.15]).reshape(2, 1, 1, 1)  # variance 0.01125, or 0.005625 by n
    assert active_units(latent_moments(pair), scale=1).active == 1


def test_units_that_hardly_vary_pass_only_where_the_latent_is_unscaled():
    random = np.random.default_rng(1)
    spread = np.where(
        np.arange(64).reshape(8, 8) % 2, 7.0, 0.2
    )  # sd over images; overall near 5, as Stable Diffusion's
    moments = latent_moments(spread * random.normal(size=(400, 4, 8, 8)))
    assert active_units(moments, scale=1).share == 1
    for scale in (0.18215, None):
        found = active_units(moments, scale)
        assert (found.share, found.relative) == (0.5, 0.5)
    assert active_units(moments).scale == pytest.approx(1 / np.sqrt((49 + 0.04) / 2), rel=0.02)


def test_the_scale_of_none_is_one_over_the_sd_of_all_numbers():
    values = latents(9, offset=3)
    assert active_units(latent_moments(values)).scale == pytest.approx(1 / values.std(), rel=1e-12)


def test_effective_rank_has_its_closed_forms():
    signs = (
        np.array(np.meshgrid(*[[-1.0, 1.0]] * 4, indexing="ij")).reshape(4, 16).T
    )  # 4 channels, exactly uncorrelated
    values = signs[:, :, None, None]
    assert effective_rank(latent_moments(values)) == pytest.approx(4, rel=1e-12)
    assert effective_rank(latent_moments(values * 1e-3 + 7)) == pytest.approx(4, rel=1e-9)
    assert effective_rank(latent_moments(np.repeat(values[:, :1], 4, axis=1))) == pytest.approx(1, rel=1e-12)
    p = 0.9  # eigenvalues 9 and 1
    two = values[:, :2] * np.array([3.0, 1.0])[:, None, None]
    assert effective_rank(latent_moments(two)) == pytest.approx(p**-p * (1 - p) ** -(1 - p), rel=1e-12)


def test_effective_rank_equals_the_entropy_of_singular_values():
    values = latents(40)
    share = np.linalg.svd(np.cov(of_channels(values)), compute_uv=False)
    share = share / share.sum()
    expected = np.exp(-(share * np.log(share)).sum())
    assert effective_rank(latent_moments(values)) == pytest.approx(expected, rel=1e-12)
    assert 1 < expected < 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: latent_moments(np.zeros((3, 4, 4))), "images x channels"),
        (lambda: latent_moments(np.zeros((0, 4, 2, 2))), "images x channels"),
        (lambda: latent_moments(np.full((2, 1, 1, 1), np.inf)), "2 latents have numbers that are not finite"),
        (lambda: active_units(latent_moments(latents(1))), "at least 2 latents"),
    ],
)
def test_what_has_no_statistics_is_refused(wrong, said):
    with pytest.raises(DataError, match=said):
        wrong()


def test_moments_of_latents_of_different_shapes_are_not_merged():
    with pytest.raises(ValueError, match="cannot be merged"):
        merge(latent_moments(latents(2)), latent_moments(latents(2, s=2)))
