"""p-values: correction against scipy, both nulls against enumeration, and what makes a p a pure function."""

import itertools
import tracemalloc

import numpy as np
import pytest
from activity_lists import ranked_by_codes
from scipy.stats import binom, false_discovery_control

from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import unit_rows
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.exchange import exchange_p_values
from sdvae_ray.retrieval.significance.exchange_draws import Scorer, draw
from sdvae_ray.retrieval.significance.exchange_ranks import Controls
from sdvae_ray.retrieval.significance.p_values import (
    arrangement_null,
    arrangement_p_values,
    benjamini_hochberg,
    exceedances,
    p_value,
)
from sdvae_ray.retrieval.significance.splits import Space


def small(seed, tied):
    """One compound (two wells on plate 0, one on plate 1) among controls on three plates."""
    random = np.random.default_rng(seed)
    plate = np.array([0, 0, 1, *[0] * 5, *[1] * 4, *[2] * 3])
    compound = np.array([0, 0, 0, *[-1] * 12])
    x = random.integers(1, 4, size=(15, 2)).astype(float) if tied else random.normal(size=(15, 4))
    return x, compound, compound < 0, plate


def mean_ap(x, wells, controls, scope, ties):
    compound = np.full(len(x), -1)
    compound[list(wells)] = 0
    negative = np.zeros(len(x), dtype=bool)
    negative[[c for c in controls if c not in wells]] = True
    return np.nanmean(ranked_by_codes(x, compound, negative, scope, ties=ties).ap)


def exchange(x, compound, is_control, scope, plate, names=None, wells=None, stop_above=0.1, **chance):
    names = [f"compound {i}" for i in range(compound.max() + 1)] if names is None else names
    wells = [f"well {i:04d}" for i in range(len(x))] if wells is None else wells
    spaces = [Space(x, is_control)]
    return exchange_p_values(spaces, compound, scope, plate, names, wells, Chance(**chance), stop_above)


@pytest.mark.parametrize("ties", ["average", "copairs"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("by_plate", [True, False])
def test_exchange_p_equals_enumeration_of_all_pseudo_compounds(by_plate, tied, ties):
    x, compound, is_control, plate = small(5, tied)
    scope = plate if by_plate else np.zeros_like(plate)
    pools = [np.flatnonzero((plate == p) & ((compound == 0) | is_control)) for p in (0, 1)]
    every = np.array(
        [
            mean_ap(x, (*pair, one), range(len(x)), scope, ties)
            for pair in itertools.combinations(pools[0], 2)
            for one in pools[1]
        ]
    )
    assert len(every) == 105
    observed = mean_ap(x, (0, 1, 2), range(len(x)), scope, ties)
    options = {"null_size": 20_000, "stop_above": None, "ties": ties}
    for strict, exact in ((True, np.mean(every > observed + 1e-9)), (False, np.mean(every >= observed - 1e-9))):
        out = exchange(x, compound, is_control, scope, plate, strict=strict, **options)
        assert out.mean_ap[0] == pytest.approx(observed, abs=1e-12)
        assert out.p[0] == pytest.approx(exact, abs=4.5 * np.sqrt(max(exact * (1 - exact), 1e-4) / 20_000) + 1e-4)
        assert out.draws[0] == 20_000


def noise(seed, compounds=100, plates=4, controls=16, features=20):
    """No compound effect: plate effects, an offset shared by all wells, correlated features."""
    random = np.random.default_rng(seed)
    plate = np.repeat(np.arange(plates), compounds + controls)
    compound = np.tile(np.r_[np.arange(compounds), np.full(controls, -1)], plates)
    x = random.normal(size=(len(plate), features)) * np.linspace(2, 0.2, features)
    x += random.normal(size=(plates, features))[plate] * 0.5 + random.normal(size=features) * 0.5
    return x, compound, compound < 0, plate


def test_the_exchange_null_keeps_its_type_one_error_on_noise():
    p = np.concatenate(
        [
            exchange(x, compound, is_control, plate, plate, null_size=400, seed=0, stop_above=None).p
            for x, compound, is_control, plate in (noise(seed, compounds=10) for seed in range(60))
        ]
    )
    assert len(p) == 600
    for level in (0.05, 0.1, 0.5):
        low, high = binom.interval(0.999, len(p), level)
        assert low <= (p <= level).sum() <= high


def test_p_depends_on_data_and_seed_and_not_on_the_order_of_rows():
    x, compound, is_control, plate = noise(1, compounds=6)
    names, wells = list("abcdef"), np.array([f"w{i:03d}" for i in range(len(x))])
    order = np.random.default_rng(3).permutation(len(x))
    first = exchange(x, compound, is_control, plate, plate, names, wells, null_size=1500)
    again = exchange(
        x[order], compound[order], is_control[order], plate[order], plate[order], names, wells[order], null_size=1500
    )
    other = exchange(x, compound, is_control, plate, plate, names, wells, null_size=1500, seed=1)
    np.testing.assert_array_equal(first.p, again.p)
    np.testing.assert_array_equal(first.draws, again.draws)
    assert (first.p != other.p).any()


def test_p_does_not_depend_on_which_other_compounds_are_there():
    x, compound, is_control, plate = noise(1, compounds=6)
    names, wells = list("abcdef"), np.array([f"w{i:03d}" for i in range(len(x))])
    every = exchange(x, compound, is_control, plate, plate, names, wells, null_size=1500)
    keep = (compound == 4) | is_control
    alone = exchange(
        x[keep], np.where(compound == 4, 0, -1)[keep], is_control[keep], plate[keep], plate[keep], ["e"], wells[keep],
        null_size=1500,
    )  # fmt: skip
    assert alone.p[0] == every.p[4]


def test_a_clearly_large_p_stops_early_and_says_so():
    x, compound, is_control, plate = noise(2, compounds=20)
    full = exchange(x, compound, is_control, plate, plate, null_size=5000, stop_above=None)
    short = exchange(x, compound, is_control, plate, plate, null_size=1000, stop_above=None)
    early = exchange(x, compound, is_control, plate, plate, null_size=5000, stop_above=0.1)
    stopped = early.draws == 1000
    assert stopped.any()
    assert (full.p[stopped] > 0.1).all()
    np.testing.assert_array_equal(early.p[stopped], short.p[stopped])
    assert (full.draws == 5000).all()
    np.testing.assert_array_equal(early.p[early.draws == 5000], full.p[early.draws == 5000])


def test_a_strong_compound_gets_the_smallest_p():
    x, compound, is_control, plate = noise(3, compounds=3, controls=30)
    x[compound == 0] += 100.0
    out = exchange(x, compound, is_control, plate, plate, null_size=999)
    assert out.mean_ap[0] == 1.0
    assert out.p[0] == 1 / 1000


def test_a_well_whose_plate_has_no_negatives_is_a_positive_but_no_query():
    x, compound, is_control, plate = small(2, tied=False)
    elsewhere = np.where(is_control & (plate == 1), 2, plate)
    out = exchange(x, compound, is_control, elsewhere, elsewhere, null_size=20_000, stop_above=None)
    ap = ranked_by_codes(x, compound, is_control, elsewhere).ap
    assert np.flatnonzero(~np.isnan(ap)).tolist() == [0, 1]
    assert out.mean_ap[0] == pytest.approx(np.nanmean(ap), abs=1e-12)
    every = [
        mean_ap(x, (*pair, 2), range(len(x)), elsewhere, "average")
        for pair in itertools.combinations(np.flatnonzero(elsewhere == 0), 2)
    ]
    assert out.p[0] == pytest.approx(np.mean(np.array(every) >= np.nanmean(ap) - 1e-9), abs=0.02)


def test_each_compound_has_draws_of_its_own():
    x, compound, is_control, plate = noise(1, compounds=1)
    wells = [f"w{i:03d}" for i in range(len(x))]
    p = [exchange(x, compound, is_control, plate, plate, [n], wells, null_size=999).p[0] for n in "abcd"]
    assert len(set(p)) > 1


def test_without_a_control_to_exchange_with_there_is_no_p():
    x, compound, is_control, plate = small(0, tied=False)
    elsewhere = np.where(is_control, 2, plate)
    out = exchange(x, compound, is_control, np.zeros_like(plate), elsewhere)
    assert not np.isnan(out.mean_ap[0])
    assert np.isnan(out.p[0])
    assert out.draws[0] == 0


def test_a_negative_key_finer_than_the_plate_is_refused():
    x, compound, is_control, plate = small(0, tied=False)
    with pytest.raises(ValueError, match="plate or coarser"):
        exchange(x, compound, is_control, np.arange(len(x)), plate)


def test_benjamini_hochberg_equals_scipy():
    p = np.random.default_rng(0).uniform(size=200) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p), atol=1e-15)


def test_benjamini_hochberg_does_not_count_missing_tests():
    p = np.array([0.01, np.nan, 0.04, 0.03, np.nan])
    out = benjamini_hochberg(p)
    assert np.isnan(out[[1, 4]]).all()
    np.testing.assert_allclose(out[[0, 2, 3]], false_discovery_control(p[[0, 2, 3]]))
    assert benjamini_hochberg([]).shape == (0,)


def test_p_counts_equal_draws_unless_strict():
    null = np.array([0.1, 0.5, 0.5, 1.0])
    assert exceedances(null, 0.5) == 3
    assert exceedances(null, 0.5, strict=True) == 1
    assert p_value(0, 9999) == 1e-4


def test_the_arrangement_null_follows_the_enumerated_distribution():
    every = [
        np.mean([(i + 1) / (rank + 1) for i, rank in enumerate(chosen)])
        for chosen in itertools.combinations(range(9), 3)
    ]
    null = arrangement_null(3, 9, 20_000, seed=0)
    for value in np.quantile(every, [0.1, 0.5, 0.9, 0.99]):
        exact = np.mean(np.array(every) >= value - 1e-9)
        assert np.mean(null >= value - 1e-9) == pytest.approx(exact, abs=4.5 * np.sqrt(exact * (1 - exact) / 20_000))
    np.testing.assert_array_equal(null, arrangement_null(3, 9, 20_000, seed=0))
    assert (null != arrangement_null(3, 9, 20_000, seed=1)).any()


def test_the_arrangement_p_values_equal_copairs_within_monte_carlo_error(tmp_path):
    copairs = pytest.importorskip("copairs.map", reason="copairs is a test dependency")
    pandas = pytest.importorskip("pandas")
    random = np.random.default_rng(0)
    compound = np.repeat(np.arange(40), 3)
    ap = random.beta(1, 4, size=120)
    positives, negatives = np.full(120, 2), np.where(np.arange(120) % 3 == 0, 20, 30)
    scores = pandas.DataFrame(
        {
            "compound": compound,
            "average_precision": ap,
            "normalized_average_precision": ap,
            "n_pos_pairs": positives,
            "n_total_pairs": positives + negatives,
        }
    )
    theirs = copairs.mean_average_precision(
        scores, ["compound"], 10_000, 0.05, 0, progress_bar=False, cache_dir=tmp_path
    )["p_value"].to_numpy()
    ours = arrangement_p_values(compound, ap, positives, negatives, Chance("copairs", strict=True)).p
    assert (np.abs(ours - theirs) <= 5 * np.sqrt(2 * theirs * (1 - theirs) / 10_000) + 1e-3).all()
    assert np.ptp(theirs) > 0.5


def shuffled(uniform, size):
    """A partial Fisher-Yates shuffle of one deck per draw."""
    decks = np.tile(np.arange(size), (len(uniform), 1))
    for i in range(uniform.shape[1]):
        for deck, j in zip(decks, i + (uniform[:, i] * (size - i)).astype(int), strict=True):
            deck[i], deck[j] = deck[j], deck[i]
    return decks[:, : uniform.shape[1]]


@pytest.mark.parametrize(("count", "size"), [(1, 7), (2, 2), (3, 5), (8, 8), (8, 66)])
def test_a_draw_equals_a_shuffle_of_every_pool(count, size):
    uniform = block_generator(0, "test").random((500, count + 2))
    pools = [np.arange(10, 10 + size), np.array([3, 5, 4])]
    expected = np.hstack([pools[0][shuffled(uniform[:, :count], size)], pools[1][shuffled(uniform[:, count:], 3)]])
    np.testing.assert_array_equal(draw(uniform, pools, [count, 2]), expected.T)


def test_every_subset_is_drawn_equally_often():
    picked = np.sort(draw(block_generator(0, "test").random((30_000, 3)), [np.arange(5)], [3]), axis=0)
    subsets, counts = np.unique(picked, axis=1, return_counts=True)
    assert subsets.shape == (3, 10)
    assert (np.abs(counts - 3000) < 4.5 * np.sqrt(3000)).all()


@pytest.mark.parametrize("ties", ["average", "copairs"])
@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("replicates", [2, 3, 9, 20])
@pytest.mark.parametrize("scopes", [1, 2, 20])
def test_drawn_wells_score_as_average_precision_has_it(scopes, replicates, levels, ties):
    """One well on each plate; the wells of a plate have its scope, whose controls, also of other plates, are negatives."""
    random = np.random.default_rng([scopes, replicates])
    plate = np.concatenate([np.repeat(np.arange(20), 6), np.arange(replicates)])
    scope = plate % scopes
    x = random.normal(size=(len(plate), 5)) if levels is None else random.integers(1, levels + 1, (len(plate), 5))
    own = np.arange(120, len(plate))
    against = np.flatnonzero(np.isin(scope[:120], scope[own]))
    drawable = np.flatnonzero(plate[against] < replicates)
    unit = unit_rows(x)
    controls = Controls(unit[against], scope[against], drawable, ties)
    ranks = controls.with_wells(unit[own], controls.keys(unit[own]), scope[own])
    wells = np.concatenate([against[drawable], own])
    places = np.arange(len(drawable), len(wells))
    pools = [np.flatnonzero(plate[wells] == p) for p in range(replicates)]
    drawn = draw(random.random((6, replicates)), pools, [1] * replicates)
    found = Scorer(ranks, places, np.arange(replicates), ties).mean_ap(drawn)
    kept = np.concatenate([against, own])
    for value, chosen in zip(found, drawn.T, strict=True):
        group = set(np.flatnonzero(np.isin(kept, wells[chosen])).tolist())
        assert value == pytest.approx(mean_ap(x[kept], group, range(len(kept)), scope[kept], ties), abs=1e-12)


def test_the_null_does_not_copy_the_profiles_whole():
    sets = [noise(seed, compounds=5, features=1000) for seed in range(40)]
    x = np.concatenate([each[0] for each in sets]).astype(np.float32)
    is_control = np.concatenate([each[2] for each in sets])
    plate = np.concatenate([each[3] + 4 * number for number, each in enumerate(sets)])
    compound = np.concatenate([np.where(each[2], -1, each[1] + 5 * number) for number, each in enumerate(sets)])
    tracemalloc.start()
    try:
        exchange(x, compound, is_control, plate, plate, null_size=5)
        assert tracemalloc.get_traced_memory()[1] < x.nbytes / 2
    finally:
        tracemalloc.stop()


def test_a_stream_is_a_function_of_seed_key_and_block():
    first = block_generator(7, "a", 1, block=2).random(4)
    np.testing.assert_array_equal(first, block_generator(7, "a", 1, block=2).random(4))
    for other in (
        block_generator(8, "a", 1, block=2),
        block_generator(7, "b", 1, block=2),
        block_generator(7, "a", 1, block=3),
    ):
        assert (first != other.random(4)).all()
