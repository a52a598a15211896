"""On noise the default null's p-values are uniform and its type-I error is the level; copairs' null is shown beside it."""

import sys
from pathlib import Path

import pytest
from scipy.stats import binom

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import type_one

# A right null fails one of these bounds once in a thousand data sets.
COVERAGE = 0.999


def assert_exact(compounds, replicates, controls, draws):
    """Return copairs' p-values of the same noise; those of the default null are held to what an exact test gives."""
    x, wells = type_one.noise(compounds, replicates, controls)
    p, strict, copairs = (type_one.p_values(x, wells, null, draws) for null in type_one.NULLS)
    assert len(p) == compounds
    assert type_one.uniformity(type_one.broken_ties(p, strict, draws)) > 1 - COVERAGE
    if replicates > 2:  # mAP of two takes few values, and p with it
        assert type_one.uniformity(p) > 1 - COVERAGE
    for level in type_one.LEVELS:
        low, high = type_one.interval(compounds, level, COVERAGE)
        rejected, theirs = ((each <= level).sum() for each in (p, copairs))
        print(f"{replicates} replicates at {level:.0%}: {rejected} of {compounds}, copairs' null {theirs}")
        assert low <= rejected <= high
    return copairs


@pytest.mark.parametrize("replicates", [2, 4, 8])
def test_p_values_on_noise_are_uniform(replicates):
    assert_exact(300, replicates, controls=16, draws=999)


@pytest.mark.slow
@pytest.mark.parametrize("replicates", [2, 4, 8])
def test_p_values_of_2000_compounds_on_noise_are_uniform_and_those_of_the_shared_draw_are_not(replicates):
    copairs = assert_exact(2000, replicates, controls=64, draws=1999)
    assert type_one.uniformity(copairs) < 1 - COVERAGE


def test_an_exact_test_leaves_the_interval_at_most_once_in_40_on_either_side():
    for count in (300, 2000):
        for level in type_one.LEVELS:
            low, high = type_one.interval(count, level, 0.95)
            assert binom.cdf(low - 1, count, level) <= 0.025 < binom.cdf(low, count, level)
            assert binom.sf(high, count, level) <= 0.025 < binom.sf(high - 1, count, level)
