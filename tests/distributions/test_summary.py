"""Summaries of parts: merged, they are the summary of the whole, and a quantile is within the stated error."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdvae_ray.distributions.quantiles import nearest_quantiles
from sdvae_ray.distributions.summary import ERROR, Summary

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
RANDOM = np.random.default_rng(0)
SAMPLES = {
    "normal": RANDOM.normal(0, 1, 50_000),
    "scores near 1": 1 - RANDOM.exponential(1e-3, 50_000),
    "many decades": 10 ** RANDOM.uniform(-30, 30, 50_000) * RANDOM.choice([-1, 1], 50_000),
    "counts": RANDOM.poisson(3, 50_000).astype(float),
    "with infinity": np.concatenate([RANDOM.normal(30, 5, 1000), np.full(200, np.inf), np.full(100, -np.inf)]),
}


def merged(parts: list[np.ndarray]) -> Summary:
    total = Summary()
    for part in parts:
        total = total.merged(Summary.of(part))
    return total


@pytest.mark.parametrize("name", SAMPLES)
def test_a_quantile_is_within_the_stated_error_of_the_exact_one(name):
    values = SAMPLES[name].astype(np.float32)
    exact = np.array(nearest_quantiles(values, QUANTILES))
    sketched = np.array(merged(np.array_split(values, 7)).quantiles(QUANTILES))
    np.testing.assert_allclose(sketched, exact, rtol=ERROR, atol=0)


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "with infinity"])
def test_number_mean_and_sd_are_those_of_all_values(name):
    values = SAMPLES[name].astype(np.float32).astype(np.float64)
    total = merged(np.array_split(values, 7))
    assert total.n == len(values)
    np.testing.assert_allclose([total.mean, total.sd], [values.mean(), values.std()], rtol=1e-9, atol=1e-9)


def test_the_counts_do_not_depend_on_the_order_of_the_parts():
    parts = np.array_split(SAMPLES["normal"].astype(np.float32), 4)
    first, *others = (merged(list(order)) for order in itertools.permutations(parts))
    for other in others:
        np.testing.assert_array_equal(first.buckets, other.buckets)
        np.testing.assert_array_equal(first.counts, other.counts)


def test_nan_is_left_out_and_nothing_has_no_quantile():
    values = np.array([np.nan, 2.0, np.nan, 4.0, 3.0], np.float32)
    assert Summary.of(values).n == 3
    assert Summary.of(values).quantiles([0.5]) == pytest.approx([3.0], rel=ERROR)
    empty = Summary.of(np.full(3, np.nan, np.float32))
    assert (empty.n, empty.sd, empty.quantiles([0.5])) == (0, None, [])
    assert empty.merged(Summary.of(values)).n == 3


def test_infinity_stays_infinity_and_has_no_sd():
    total = merged([np.array([1.0, np.inf]), np.array([np.inf, 2.0])])
    assert total.quantiles([0.0, 1.0]) == pytest.approx([1.0, np.inf], rel=ERROR)
    assert total.mean == np.inf
    assert total.sd is None


@given(st.lists(st.floats(width=32, allow_nan=False, allow_subnormal=False), min_size=1, max_size=40))
def test_every_value_is_within_the_error_of_its_bucket(values):
    array = np.array(values, np.float32)
    quantiles = np.linspace(0, 1, 9).tolist()
    exact = nearest_quantiles(array, quantiles)
    np.testing.assert_allclose(Summary.of(array).quantiles(quantiles), exact, rtol=ERROR, atol=0)
