"""Intervals over compounds: coverage on simulated compounds, scipy's percentile bootstrap, pairs tighter than no pairs."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from sdvae_ray.retrieval.significance.bootstrap import interval, intervals, paired_difference
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.tasks.activity import phenotypic_activity


def table(retrieved, ap, group="A549"):
    count = len(ap)
    return pl.DataFrame(
        {
            "group": [group] * count,
            "compound": [f"C{i:03d}" for i in range(count)],
            "retrieved": pl.Series(retrieved, dtype=pl.Boolean),
            "map": pl.Series(ap, dtype=pl.Float64),
            "normalised_map": pl.Series(ap, dtype=pl.Float64) - 0.1,
        }
    )


def correlated(seed=0, count=200, noise=0.05):
    """A reconstruction that agrees with its image but for a little noise and a loss of 0.03."""
    random = np.random.default_rng(seed)
    before = random.uniform(0.1, 1, count)
    after = np.clip(before - 0.03 + noise * random.normal(size=count), 0, 1)
    return table(before > 0.5, before), table(after > 0.5, after)


def row(found, quantity, group="A549"):
    return found.row(by_predicate=(pl.col("group") == group) & (pl.col("quantity") == quantity), named=True)


@pytest.mark.parametrize("kind", ["mean_map", "fraction_retrieved"])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(kind):
    random = np.random.default_rng(11)
    hits, runs, truth = 0, 600, {"mean_map": 2 / 7, "fraction_retrieved": 0.3}[kind]
    for number in range(runs):
        values = random.beta(2, 5, 150) if kind == "mean_map" else random.random(150) < 0.3
        found = interval(values, draws=400, seed=number)
        hits += found.low <= truth <= found.high
    # nominal 0.95; the percentile interval of 150 values covers 0.94, the sd of a share of 600 is 0.009: three of them
    assert 0.913 <= hits / runs <= 0.977


def test_the_interval_equals_scipys_percentile_bootstrap():
    values = np.random.default_rng(0).beta(2, 5, 100)
    ours = interval(values, draws=20_000, level=0.9)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, confidence_level=0.9, method="percentile", rng=np.random.default_rng(1)
    )
    width = ours.high - ours.low
    assert ours.estimate == pytest.approx(values.mean(), abs=1e-15)
    # the Monte Carlo sd of a 5 % quantile of 20,000 draws is 0.5 % of the width of a 90 % interval: two ends, four sd
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)


def test_the_order_of_compounds_changes_nothing_and_the_seed_does():
    values = np.random.default_rng(0).beta(2, 5, 50)
    assert interval(values, seed=3) == interval(values[::-1], seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)
    image, side = correlated()
    order = np.random.default_rng(1).permutation(len(image))
    assert paired_difference(image, side).equals(paired_difference(image[order], side))
    assert intervals(image).equals(intervals(image[order]))


def test_a_wider_level_gives_a_wider_interval_and_compounds_without_a_score_are_left_out():
    values = [*np.random.default_rng(0).beta(2, 5, 50), np.nan, np.nan]
    narrow, wide = interval(values, level=0.5), interval(values, level=0.99)
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high
    assert narrow.compounds == 50
    nothing = interval([np.nan])
    assert nothing.compounds == 0
    assert np.isnan([nothing.estimate, nothing.low, nothing.high]).all()
    assert interval(np.ones(9)).low == interval(np.ones(9)).high == 1.0


def test_a_paired_interval_is_tighter_than_two_of_their_own_for_correlated_scores():
    image, side = correlated()
    for quantity, column in (("mean_map", "map"), ("fraction_retrieved", "retrieved")):
        pair = row(paired_difference(image, side), quantity)
        apart = [interval(each[column].cast(pl.Float64).to_numpy(), seed=n) for n, each in enumerate((image, side))]
        unpaired = np.hypot(*(one.high - one.low for one in apart))  # the width of a difference of independent means
        assert pair["high"] - pair["low"] < unpaired / 2
        assert pair["low"] <= pair["difference"] <= pair["high"]
        assert pair["difference"] == pytest.approx(pair["reconstruction"] - pair["image"], abs=1e-12)


def test_the_paired_interval_covers_the_true_difference_and_excludes_zero_when_it_should():
    covered = excluded = 0
    for seed in range(200):
        one = row(paired_difference(*correlated(seed, count=100, noise=0.02), draws=400, seed=seed), "mean_map")
        covered += one["low"] <= -0.03 <= one["high"]
        excluded += one["high"] < 0
    assert covered / 200 >= 0.90  # 0.94 expected, sd 0.017
    assert excluded / 200 > 0.99  # the effect is 15 standard errors


def test_lost_and_gained_are_counted_and_unpaired_compounds_left_out():
    image = table([True, True, True, False, False, None], [0.9, 0.8, 0.7, 0.2, 0.1, None])
    side = table([True, False, False, True, None, True], [0.9, 0.3, 0.2, 0.6, None, 0.8])
    found = row(paired_difference(image, side), "fraction_retrieved")
    assert (found["lost"], found["gained"], found["compounds"], found["unpaired"]) == (2, 1, 4, 2)
    assert (found["image"], found["reconstruction"], found["difference"]) == (0.75, 0.5, -0.25)
    mean = row(paired_difference(image, side), "mean_map")
    assert mean["lost"] is mean["gained"] is None
    assert mean["difference"] == pytest.approx(0.5 - 0.65)
    absent = row(paired_difference(image, side[:4]), "mean_map")
    assert (absent["compounds"], absent["unpaired"]) == (4, 1)


def test_groups_are_apart_and_a_group_without_pairs_has_null_numbers():
    image, side = correlated()
    other = image.with_columns(group=pl.lit("U2OS"))
    found = paired_difference(pl.concat([image, other]), side)
    assert found["group"].to_list() == ["A549"] * 3 + ["U2OS"] * 3
    assert row(found, "mean_map") == row(paired_difference(image, side), "mean_map")
    lone = row(found, "mean_map", "U2OS")
    assert (lone["compounds"], lone["unpaired"], lone["difference"], lone["low"]) == (0, 200, None, None)


def test_the_tables_of_phenotypic_activity_fit():
    random = np.random.default_rng(0)
    plate, number = np.repeat(["a", "b"], 20), np.tile(np.arange(20), 2)
    wells = pl.DataFrame({"plate": plate, "number": number}).with_columns(
        well_id=pl.concat_str("plate", "number"),
        compound=pl.format("C{}", "number"),
        group=pl.lit("g"),
        is_control=pl.col("number") >= 5,
    )
    compounds = phenotypic_activity(random.normal(size=(40, 6)), wells, Chance(null_size=200)).compounds
    assert row(intervals(compounds), "mean_map", "g")["estimate"] == pytest.approx(compounds["map"].mean())
    same = paired_difference(compounds, compounds)
    assert same.select("difference", "low", "high").rows() == [(0.0, 0.0, 0.0)] * 3


def test_what_has_no_interval_is_refused():
    image, _ = correlated()
    with pytest.raises(pl.exceptions.ComputeError, match="1:1"):
        paired_difference(pl.concat([image, image]), image)
    for options in ({"draws": 0}, {"level": 1.0}):
        with pytest.raises(ValueError, match="level between 0 and 1"):
            interval([1.0, 2.0], **options)
    with pytest.raises(ValueError, match="one number per compound"):
        interval(np.ones((2, 2)))
