"""Random arrangements of one list: counted against itertools, drawn against counted, and the p-values made of them."""

import contextlib
import io
import itertools
import json
import sys
from math import comb
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sdvae_ray.retrieval.ranking.formula import expected_average_precision
from sdvae_ray.retrieval.significance import arrangements
from sdvae_ray.retrieval.significance.arrangements import arrangements_reaching, draw_arrangements, is_countable
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.p_values import (
    MAP_STEP,
    arrangement_null,
    arrangement_p_values,
    exceedances,
    p_value,
)

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import nulls

SHORT = [(m, n) for n in range(1, 10) for m in range(1, n + 1)]


def p_values(compound, ap, positives, negatives, exact=False, strict=True, **chance):
    null = "copairs_exact" if exact else "copairs"
    return arrangement_p_values(compound, ap, positives, negatives, Chance(null, strict=strict, **chance))


def every_ap(positives, total):
    """AP of every arrangement, one after the other."""
    ranks = itertools.combinations(range(1, total + 1), positives)
    return np.array([np.mean([i / rank for i, rank in enumerate(chosen, 1)]) for chosen in ranks])


@pytest.mark.parametrize(("positives", "total"), [*SHORT, (3, 40), (4, 20), (16, 20)])
def test_the_count_is_that_of_itertools(positives, total):
    every = every_ap(positives, total)
    values = np.unique(every)
    for strict in (False, True):
        least = values + MAP_STEP if strict else values - MAP_STEP
        found = arrangements_reaching(positives, total, least)
        assert_array_equal(found, [exceedances(every, value, strict) for value in values])
    assert_array_equal(arrangements_reaching(positives, total, [-1, 0, 1.1]), [len(every), len(every), 0])


def test_blocks_change_no_count(monkeypatch):
    least = np.linspace(0.01, 1.01, 57)
    whole = arrangements_reaching(3, 60, least)
    monkeypatch.setattr(arrangements, "_BLOCK", 13)
    assert_array_equal(arrangements_reaching(3, 60, least), whole)


def test_the_published_list_is_counted_and_a_million_draws_agree():
    """Three other replicates among 256 controls: C(259, 3) arrangements."""
    assert arrangements_reaching(3, 259, [0])[0] == comb(259, 3) == 2_862_209
    drawn = draw_arrangements(3, 259, 1_000_000, np.random.default_rng(0))
    levels = np.quantile(drawn, [0.01, 0.3, 0.5, 0.9, 0.99, 0.999, 0.9999])
    share = arrangements_reaching(3, 259, levels) / comb(259, 3)
    found = np.array([np.mean(drawn >= level) for level in levels])
    assert (np.abs(found - share) < 4.5 * np.sqrt(share * (1 - share) / len(drawn))).all()


def test_what_can_be_counted():
    for positives, total in ((1, 10**6), (2, 4_000_000), (3, 2897), (4, 295), (5, 102), (99, 100)):
        assert is_countable(positives, total)
    for positives, total in ((0, 5), (6, 5), (3, 2898), (4, 296), (5, 103), (50, 100)):
        assert not is_countable(positives, total)
    with pytest.raises(ValueError, match="50 of 100 wells have too many arrangements"):
        arrangements_reaching(50, 100, [0.5])


@pytest.mark.parametrize(("positives", "total"), [(1, 7), (2, 10), (2, 13), (3, 15), (2, 3), (3, 7), (7, 8), (4, 4)])
def test_draws_follow_the_distribution_of_all_arrangements(positives, total):
    every = every_ap(positives, total)
    drawn = draw_arrangements(positives, total, 40_000, np.random.default_rng([positives, total]))
    for value in np.unique(every):
        share = np.mean(every >= value - 1e-9)
        assert np.mean(drawn >= value - 1e-9) == pytest.approx(share, abs=4.5 * np.sqrt(share * (1 - share) / 40_000))


@pytest.mark.parametrize(
    ("positives", "total"),
    [(3, 259), (16, 90), (17, 90), (30, 160), (50, 100), (90, 100), (40, 70_000), (1, 70_000), (300, 1000)],
)
def test_draws_have_the_expected_mean_and_are_all_made(positives, total):
    drawn = draw_arrangements(positives, total, 30_000, np.random.default_rng(1))
    assert drawn.shape == (30_000,)
    assert ((drawn > 0) & (drawn <= 1)).all()
    mean = expected_average_precision(positives, total)
    assert drawn.mean() == pytest.approx(mean, abs=4.5 * drawn.std() / np.sqrt(len(drawn)))


@pytest.mark.parametrize(("positives", "total"), [(2, 10), (5, 25), (20, 100), (40, 70_000)])
def test_ranks_are_distinct_ascending_and_uniform(positives, total):
    dtype = np.uint16 if total <= 2**16 else np.uint32
    ranks = arrangements._ranks(positives, total, 20_000, np.random.default_rng(2), dtype)
    assert ranks.shape == (positives, 20_000)
    assert (ranks[1:] > ranks[:-1]).all()
    assert ranks.max() < total
    counts = np.bincount((ranks.ravel().astype(np.int64) * 5) // total, minlength=5)
    assert (np.abs(counts / counts.mean() - 1) < 0.05).all()


def test_chunks_draw_as_many_and_the_null_is_a_function_of_its_arguments():
    for positives, total in ((3, 259), (30, 70)):
        null = arrangement_null(positives, total, 200_000, seed=3)
        assert null.shape == (200_000,)
        assert_array_equal(null, arrangement_null(positives, total, 200_000, seed=3))
        assert (null != arrangement_null(positives, total, 200_000, seed=4)).any()
    with pytest.raises(ValueError, match="not 0 of 5"):
        arrangement_null(0, 5, 10, seed=0)


def compounds(seed=0, kinds=3):
    """30 compounds of 4 queries, each query with one of `kinds` lists; rows shuffled."""
    random = np.random.default_rng(seed)
    compound = random.permutation(np.repeat(np.arange(30), 4))
    negatives = np.where(compound % 2 == 0, 20, 20 + random.integers(0, kinds, len(compound)))
    return compound, random.beta(1, 3, len(compound)), np.full(len(compound), 3), negatives


@pytest.mark.parametrize("strict", [True, False])
def test_p_of_draws_equals_a_loop_over_compounds(strict):
    compound, ap, positives, negatives = compounds()
    found = p_values(compound, ap, positives, negatives, null_size=2000, seed=5, strict=strict).p
    for code in range(30):
        mine = compound == code
        nulls = [arrangement_null(3, 3 + n, 2000, seed=5) for n in negatives[mine]]
        reached = exceedances(np.mean(nulls, axis=0), ap[mine].mean(), strict)
        assert found[code] == pytest.approx(p_value(reached, 2000), abs=1e-12)


def test_a_code_without_queries_has_no_p():
    found = p_values([0, 2], [0.5, 0.5], [1, 1], [9, 9], null_size=100).p
    assert_array_equal(np.isnan(found), [False, True, False])
    assert p_values([], [], [], []).p.shape == (0,)


@pytest.mark.parametrize("strict", [True, False])
def test_exact_p_is_the_share_of_all_arrangements_where_one_list_is_the_compounds(strict):
    compound, ap, positives, negatives = compounds()
    options = {"null_size": 500, "strict": strict}
    drawn = p_values(compound, ap, positives, negatives, **options).p
    counted = p_values(compound, ap, positives, negatives, exact=True, **options)
    exact = counted.p
    one = np.array([len(set(negatives[compound == code])) == 1 for code in range(30)])
    assert_array_equal(counted.draws, np.where(one, 0, 500))
    assert 15 <= one.sum() < 30
    assert_array_equal(exact[~one], drawn[~one])
    for code in np.flatnonzero(one):
        mine = compound == code
        every = every_ap(3, 3 + negatives[mine][0])
        assert exact[code] == pytest.approx(exceedances(every, ap[mine].mean(), strict) / len(every), abs=1e-12)
    again = p_values(compound, ap, positives, negatives, exact=True, null_size=7, seed=9, strict=strict).p
    assert_array_equal(again[one], exact[one])
    close = p_values(compound, ap, positives, negatives, null_size=200_000, strict=strict).p
    assert_allclose(close[one], exact[one], atol=4.5 * np.sqrt(0.25 / 200_000))


def test_exact_p_is_never_too_small_and_is_0_only_if_strict():
    every = every_ap(3, 12)
    lengths = np.full(len(every), 3), np.full(len(every), 9)
    p = p_values(np.arange(len(every)), every, *lengths, strict=False, exact=True).p
    for level in (0.01, 0.05, 0.1, 0.5):
        assert np.mean(p <= level + 1e-12) <= level + 1e-12
    assert p.min() == 1 / comb(12, 3)
    strict = p_values(np.arange(len(every)), every, *lengths, strict=True, exact=True).p
    assert strict.min() == 0
    assert every[strict == 0].tolist() == [1.0]


def test_lists_too_long_to_count_are_drawn_although_exact_is_asked():
    compound, ap = [0, 0], [0.2, 0.3]
    options = {"null_size": 300, "seed": 2}
    asked = p_values(compound, ap, [4, 4], [400, 400], exact=True, **options)
    assert asked.draws.tolist() == [300]
    assert_array_equal(asked.p, p_values(compound, ap, [4, 4], [400, 400], **options).p)


def test_few_nulls_are_held_at_a_time(monkeypatch):
    compound, ap, positives, negatives = compounds(kinds=9)
    whole = p_values(compound, ap, positives, negatives, null_size=400).p
    monkeypatch.setattr("sdvae_ray.retrieval.significance.p_values._HELD", 800)
    assert_array_equal(p_values(compound, ap, positives, negatives, null_size=400).p, whole)


def test_the_benchmark_finds_copairs_distribution_and_p():
    pytest.importorskip("copairs.map", reason="copairs is a test dependency")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert nulls.main(["--lists=3:67,12:40", "--draws=4000", "--repeats=1"]) == 0
    record = json.loads(out.getvalue().splitlines()[-1])
    assert [row["largest_difference_in_sd"] < 4.5 for row in record["lists"]] == [True, True]
    assert "exact_core_seconds" in record["lists"][0]
    assert [row["largest_difference_of_p"] < 5 * np.sqrt(2 * 0.25 / 4000) for row in record["campaigns"]] == [True] * 2
