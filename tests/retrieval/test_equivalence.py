"""Verdicts: their words, their errors on simulated compounds and plates, Holm's correction, and compounds that fall."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from sdvae_ray.retrieval.significance.bootstrap import hierarchical
from sdvae_ray.retrieval.significance.equivalence import equivalence, holm
from sdvae_ray.retrieval.significance.falls import falls

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import verdicts as simulated

MARGIN = 0.1


def wells(mean, sd=0.01, compounds=20, plates=2, seed=0):
    """Differences whose mean is `mean` to the last digit."""
    values = np.random.default_rng(seed).normal(0, sd, (compounds, plates))
    return simulated.table(values - values.mean() + mean)


@pytest.mark.parametrize(
    ("mean", "sd", "verdict"),
    [
        (0.0, 0.01, "equivalent"),
        (0.07, 0.01, "equivalent"),
        (-0.3, 0.01, "inferior"),
        (0.3, 0.01, "superior"),
        (-0.1, 0.01, "undecided"),  # the difference is there, and whether it exceeds the margin is open
        (0.0, 0.5, "undecided"),
    ],
)
def test_a_verdict_says_where_the_whole_interval_lies(mean, sd, verdict):
    difference = equivalence(wells(mean, sd), MARGIN)
    assert difference.verdict == verdict
    assert difference.estimate == pytest.approx(mean, abs=1e-12)
    assert difference.low < difference.estimate < difference.high
    assert (difference.needed is None) == (verdict != "undecided" or mean == -MARGIN)


def test_no_difference_at_all_is_equivalent_at_any_margin():
    nothing = equivalence(wells(0.0, sd=0.0), 1e-6)
    assert (nothing.verdict, nothing.low, nothing.high, nothing.p_equivalent) == ("equivalent", 0.0, 0.0, 0.0)


def test_without_a_margin_or_with_one_compound_nothing_is_decided():
    assert equivalence(wells(0.0), None).verdict == "undecided"
    alone = equivalence(wells(0.0, compounds=1), MARGIN)
    assert (alone.verdict, alone.estimate, alone.low) == ("undecided", None, None)


def test_on_one_plate_the_interval_is_students_or_the_bootstraps_where_that_is_wider():
    table = wells(0.02, sd=0.1, compounds=12, plates=1)
    ours, values = equivalence(table, MARGIN), table["value"].to_numpy()
    low, high = stats.t.interval(0.9, 11, values.mean(), stats.sem(values))
    bootstrap, _ = hierarchical(table, 2000, 0.9, 0)
    assert ours.low == pytest.approx(min(low, bootstrap.low), abs=1e-12)
    assert ours.high == pytest.approx(max(high, bootstrap.high), abs=1e-12)


@pytest.mark.parametrize("mean", [-0.25, -0.09, 0.0, 0.06, 0.2])
def test_a_p_value_is_the_level_at_which_the_verdict_begins(mean):
    table = wells(mean, sd=0.08)
    measured = equivalence(table, MARGIN)
    for word in ("equivalent", "inferior", "superior"):
        p = getattr(measured, f"p_{word}")
        if 0.001 < p < 0.45:
            # the bootstrap's quantile lies between two draws: a little room on both sides
            assert equivalence(table, MARGIN, level=p * 1.05 + 0.002).verdict == word
            assert equivalence(table, MARGIN, level=p * 0.95 - 0.0009).verdict != word


def test_the_order_of_rows_changes_nothing():
    table = wells(0.03, sd=0.1)
    assert equivalence(table, MARGIN) == equivalence(table.sample(fraction=1, shuffle=True, seed=1), MARGIN)


def test_as_many_compounds_as_are_needed_do_decide():
    table = wells(0.0, sd=0.4, compounds=10, plates=1)
    needed = equivalence(table, MARGIN).needed
    assert needed.for_verdict == "equivalent"
    more = needed.compounds
    spread = table["value"].std()

    def half(n):
        return stats.t.ppf(0.95, n - 1) * spread / np.sqrt(n)

    assert half(more) < MARGIN <= half(more - 1)


@pytest.mark.parametrize("layout", [(10, 1, 0.05, 0.0, 0.05), (21, 2, 0.02, 0.05, 0.02)])
def test_a_difference_at_the_margin_is_rarely_called_equivalent_and_noise_never_inferior(layout):
    random, repeats = np.random.default_rng(5), 150
    at, noise = (simulated.verdicts(random, layout, difference, repeats) for difference in (-MARGIN, 0.0))
    # 5 % may be called; the binomial's 99.9 % quantile of 150 at 5 % is 17
    assert max(at["equivalent"], at["inferior"]) <= 17 / repeats
    assert noise["inferior"] + noise["superior"] <= 17 / repeats


def test_with_two_plates_that_differ_the_bootstrap_alone_calls_too_much_equivalent():
    shares = simulated.verdicts(np.random.default_rng(6), (21, 2, 0.02, 0.05, 0.02), -MARGIN, 120)
    assert shares["percentile"] > 0.12 > 2 * shares["equivalent"]


def test_holms_correction_is_the_textbooks():
    # Holm (1979): sorted p times 3, 2, 1, never falling, at most 1
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_a_compound_that_is_lost_is_found_and_one_that_wavers_is_not():
    image = {"lost": [0.9, 0.8, 0.9, 1.0], "wavers": [0.9, 0.2, 0.6, 1.0], "kept": [1.0] * 4}
    side = {"lost": [0.1, 0.0, 0.2, 0.1], "wavers": [0.3, 0.6, 0.9, 0.6], "kept": [1.0] * 4}
    table = falls(
        pl.DataFrame(
            [
                {"compound": name, "image": before, "side": after}
                for name in image
                for before, after in zip(image[name], side[name], strict=True)
            ]
        )
    )
    p = dict(table.select("compound", "p").iter_rows())
    assert p["lost"] < 0.01 < 0.2 < p["wavers"]
    assert p["kept"] == 1.0
    assert table.filter(compound="lost")["fall"].item() == pytest.approx(0.8)


def test_a_compound_of_one_well_has_no_p():
    table = falls(pl.DataFrame({"compound": ["a", "b", "b"], "image": [1.0, 0.9, 0.8], "side": [0.0, 0.1, 0.0]}))
    assert table["p"].is_null().to_list() == [True, False]


def test_compounds_without_a_change_are_rarely_called_fallen():
    # one or more of eight at 5 %: 99.9 % quantile of 120 is 15
    assert simulated.called_fallen(np.random.default_rng(7), (4, 2, 16, 30, 0.7), 120) <= 15 / 120
