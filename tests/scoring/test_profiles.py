"""The profile of a well: the mean or median of its fields of view, in float64 or, as published, in float16."""

import numpy as np
import pytest

from sdvae_ray.scoring.profiles import well_profile
from sdvae_ray.settings.score import ScoreConfig

EMBEDDINGS = np.random.default_rng(0).normal(3, 1, (9, 2, 500)).astype(np.float16)


@pytest.mark.parametrize("aggregate", ["mean", "median"])
def test_a_profile_is_taken_in_float64_unless_the_run_says_half_mean(aggregate):
    profile = well_profile(EMBEDDINGS, ScoreConfig(aggregate=aggregate))
    expected = getattr(np, aggregate)(EMBEDDINGS.astype(np.float64), axis=0)
    assert profile.dtype == np.float64
    np.testing.assert_array_equal(profile, expected)


@pytest.mark.parametrize("aggregate", ["mean", "median"])
def test_the_published_profile_is_the_rounded_one(aggregate):
    half = well_profile(EMBEDDINGS, ScoreConfig(aggregate=aggregate, half_mean=True))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, getattr(np, aggregate)(EMBEDDINGS, axis=0))
    whole = well_profile(EMBEDDINGS, ScoreConfig(aggregate=aggregate))
    np.testing.assert_allclose(half, whole, rtol=2**-11)
    if aggregate == "mean":
        assert (half != whole).any()
