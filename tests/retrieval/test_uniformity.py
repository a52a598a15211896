"""On noise the default null's p-values are uniform and its type-I error is the level; those of copairs' null are not."""

import sys
from pathlib import Path

import pytest
from scipy.stats import binom

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import uniformity

# A right null fails one of these bounds once in a thousand data sets.
COVERAGE = 0.999


def assert_exact(x, wells, compounds, replicates, draws):
    """The p-values of the default null on noise are held to the interval and the uniformity of an exact test."""
    p, strict = (uniformity.p_values(x, wells, null, draws) for null in ("exchange", "exchange-strict"))
    assert len(p) == compounds
    assert uniformity.uniformity(uniformity.broken_ties(p, strict, draws)) > 1 - COVERAGE
    if replicates > 2:  # mAP of two takes few values, and p with it
        assert uniformity.uniformity(p) > 1 - COVERAGE
    for level in uniformity.LEVELS:
        low, high = uniformity.interval(compounds, level, COVERAGE)
        assert low <= (p <= level).sum() <= high


@pytest.mark.parametrize("replicates", [2, 4, 8])
def test_p_values_on_noise_are_uniform(replicates):
    assert_exact(*uniformity.noise(200, replicates, controls=16), 200, replicates, draws=999)


@pytest.mark.slow
@pytest.mark.parametrize("replicates", [2, 4, 8])
def test_p_values_of_2000_compounds_on_noise_are_uniform_and_those_of_the_shared_draw_are_not(replicates):
    x, wells = uniformity.noise(2000, replicates, controls=64)
    assert_exact(x, wells, 2000, replicates, draws=1999)
    copairs = uniformity.p_values(x, wells, "copairs, shared draw", 1999)
    assert uniformity.uniformity(copairs) < 1 - COVERAGE


def test_an_exact_test_leaves_the_interval_at_most_once_in_40_on_either_side():
    for count in (200, 2000):
        for level in uniformity.LEVELS:
            low, high = uniformity.interval(count, level, 0.95)
            assert binom.cdf(low - 1, count, level) <= 0.025 < binom.cdf(low, count, level)
            assert binom.sf(high, count, level) <= 0.025 < binom.sf(high - 1, count, level)
