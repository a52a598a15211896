"""Floors: the leak of the fit, the position effect and permuted labels are told apart; what has no number says why."""

import numpy as np
import polars as pl
import pytest
from activity_lists import chance_and_rest
from polars.testing import assert_frame_equal
from sklearn.decomposition import PCA
from sklearn.feature_selection import VarianceThreshold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sdvae_ray.errors import ConfigError
from sdvae_ray.retrieval.floors.control_floors import QUANTITIES, floors
from sdvae_ray.retrieval.floors.floor_group import NO_GEOMETRY, NOT_NORMALISED, ONE_LAYOUT, TOO_FEW_CONTROLS
from sdvae_ray.retrieval.normalisation.normalise import normalise
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.permutations import (
    halves,
    permuted_rows,
)
from sdvae_ray.retrieval.tasks.activity import phenotypic_activity
from sdvae_ray.retrieval.tasks.activity_tables import CANNOT_REJECT

KEY = ("plate", "well")
PUBLISHED = {"negatives": "group", "ties": "copairs", "null": "copairs", "strict": True}
FLOORS = ("posing", "posing_shuffled", "labels_within_treated", "labels_within_all")
AT_CUT = 0.15  # poses are held to the p of the score, and at most 5 % of them reach it by chance: 48 poses, three sd
DEFAULTS = {"null_size": 1000, "repeats": 2}


def wells_of(plates=4, controls=24, compounds=12, group="A549"):
    """Compound i is at position T<i> and the controls at D<i> of every plate."""
    places = [f"T{i:02d}" for i in range(compounds)] + [f"D{i:02d}" for i in range(controls)]
    return pl.DataFrame(
        [
            {"plate": f"{group}-{p}", "well": place, "group": group, "compound": place, "is_control": place[0] == "D"}
            for p in range(plates)
            for place in places
        ]
    )


def data(seed=0, features=20, effect=0.0, position=0.0, **layout):
    """Noise of sd 1; `effect`: sd of what a compound adds to its wells; `position`: sd of what a position adds."""
    random = np.random.default_rng(seed)
    wells = wells_of(**layout)
    x = random.normal(size=(len(wells), features))
    names, place = np.unique(wells["well"].to_numpy().astype(str), return_inverse=True)
    x += position * random.normal(size=(len(names), features))[place]
    x += effect * random.normal(size=(len(names), features))[place] * ~wells["is_control"].to_numpy()[:, None]
    return x, wells


def run(x, wells, steps="published", **options):
    chance, rest = chance_and_rest(**{**DEFAULTS, **options})
    return floors(x, wells, steps, chance, **{"position": "well", "key": KEY, **rest})


def row(table, quantity, group="A549"):
    return table.row(by_predicate=(pl.col("group") == group) & (pl.col("quantity") == quantity), named=True)


def of_rank(rank, seed=0, features=400):
    """4 plates x 64 controls as in CPJUMP1 and 60 compounds: noise of `rank` equal directions, the rest 1,000 times less."""
    random = np.random.default_rng([seed, rank])
    wells = wells_of(controls=64, compounds=60)
    axes = np.linalg.qr(random.normal(size=(features, features)))[0]
    return random.normal(size=(len(wells), features)) * np.where(np.arange(features) < rank, 1, 1e-3) @ axes, wells


def test_on_noise_the_published_score_finds_most_compounds_and_the_other_half_finds_none():
    found = run(*of_rank(250), **PUBLISHED)
    assert row(found, "full")["fraction_retrieved"] > 0.6
    assert (
        row(found, "labels_within_all")["fraction_retrieved"] > 0.6
    )  # no label is true any more: all of it is the leak
    for quantity in ("half_other", "posing", "posing_shuffled"):
        assert row(found, quantity)["fraction_retrieved"] <= (0.05 if quantity == "half_other" else AT_CUT)
        assert abs(row(found, quantity)["mean_normalised_map"]) < 0.05


def test_the_halves_differ_by_the_leak_alone():
    found = run(*of_rank(127), **PUBLISHED)  # 128 wells in a half: the rank at which half a fit leaks
    same, other = row(found, "half_same"), row(found, "half_other")
    assert same["fraction_retrieved"] > 0.6
    assert other["fraction_retrieved"] <= 0.05
    assert same["negatives"] == other["negatives"] == 128
    assert same["queries"] == other["queries"] == 240
    unfitted = run(*data(effect=1.0), steps="none")
    same, other = row(unfitted, "half_same"), row(unfitted, "half_other")
    assert {**same, "quantity": ""} == {**other, "quantity": ""}  # without a fit there is nothing to leak


@pytest.mark.parametrize("steps", ["published", "none"])
def test_on_noise_that_the_fit_resolves_every_floor_is_nominal_under_the_default_null(steps):
    found = pl.concat([run(*data(seed=seed, compounds=30), steps=steps, seed=seed, repeats=1) for seed in range(6)])
    means = found.group_by("quantity").agg(pl.col("fraction_retrieved", "mean_normalised_map").mean())
    for quantity in set(QUANTITIES) - {"position_matched"}:
        one = means.row(by_predicate=pl.col("quantity") == quantity, named=True)
        assert one["fraction_retrieved"] <= 0.05, quantity
        if steps == "none":  # the sd over data sets is 0.04 at most: three of that of the mean of 6
            assert abs(one["mean_normalised_map"]) < 0.05, quantity


def test_wells_outside_the_fit_share_their_plates_offset_so_half_other_is_low_on_noise():
    x, wells = data(compounds=30)
    assert row(run(x, wells, negatives="plate"), "half_other")["mean_normalised_map"] < -0.02
    assert abs(row(run(x, wells, steps=["standardise"]), "half_other")["mean_normalised_map"]) < 0.05


def test_with_an_effect_the_score_and_the_other_half_are_high_and_the_floors_are_low():
    found = run(*data(effect=2.0))
    assert row(found, "full")["fraction_retrieved"] == 1.0
    assert row(found, "half_other")["fraction_retrieved"] > 0.9
    for quantity in FLOORS:
        assert row(found, quantity)["fraction_retrieved"] <= AT_CUT, quantity


def test_a_position_effect_shows_in_wells_posing_by_position_and_not_when_shuffled():
    found = run(*data(position=1.5))
    assert row(found, "posing")["fraction_retrieved"] > 0.8
    assert row(found, "posing_shuffled")["fraction_retrieved"] <= AT_CUT
    assert row(found, "full")["fraction_retrieved"] > 0.8  # no compound does anything: position alone


def test_the_full_row_is_the_score_itself():
    x, wells = data(effect=1.0)
    space = normalise(x, wells["is_control"].to_numpy(), wells["plate"].to_numpy()).features
    score = phenotypic_activity(space, wells, Chance(null_size=1000), key=KEY).groups.row(0, named=True)
    full = row(run(x, wells), "full")
    for name in ("fraction_retrieved", "mean_map", "mean_normalised_map", "compounds_scored", "retrieved"):
        assert full[name] == pytest.approx(score[name], abs=1e-9), name
    assert full["lowest"] == full["highest"] == full["fraction_retrieved"]
    assert (full["repeats"], full["queries"], full["negatives"]) == (1, 48, 24)


def naive_mean_map(x, wells, is_negative):
    """The mean over compounds of mAP by sorting, negatives of the query's plate."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    compound, plate = wells["compound"].to_numpy(), wells["plate"].to_numpy()
    treated, scores = ~wells["is_control"].to_numpy(), {}
    for q in np.flatnonzero(treated):
        mate = treated & (compound == compound[q]) & (np.arange(len(x)) != q)
        listed = np.flatnonzero(mate | (is_negative & (plate == plate[q])))
        hits = mate[listed[np.argsort(-(unit[listed] @ unit[q]))]]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        scores.setdefault(compound[q], []).append(precision[hits].mean())
    return np.mean([np.mean(values) for values in scores.values()])


@pytest.mark.parametrize("quantity", ["half_same", "half_other"])
def test_the_halves_equal_scikit_learn_and_sorting(quantity):
    x, wells = data(effect=0.7)
    control, plate = wells["is_control"].to_numpy(), wells["plate"].to_numpy()
    place = wells["well"].to_numpy().astype(str)
    expected = []
    for repeat in range(2):
        sides = halves(np.unique(place[control]), 0, "A549", repeat)
        for mine, other in (sides, sides[::-1]):
            fit, rest = np.isin(place, mine), np.isin(place, other)
            made = make_pipeline(StandardScaler(), PCA(20, whiten=True, svd_solver="full"), VarianceThreshold(1e-6))
            space = made.fit(x[fit]).transform(x)
            for name in np.unique(plate):
                on = plate == name
                space[on] = StandardScaler().fit(space[on & fit]).transform(space[on])
            expected.append(naive_mean_map(space, wells, fit if quantity == "half_same" else rest))
    assert row(run(x, wells), quantity)["mean_map"] == pytest.approx(np.mean(expected), abs=1e-9)


def test_position_matched_negatives_are_the_controls_at_the_position_on_other_plates():
    x, wells = data(plates=24, controls=12, compounds=12)
    plate = wells["plate"].str.split("-").list.last().cast(pl.Int64)
    swapped = (plate % 2 == 1).to_numpy()  # on odd plates controls stand where compounds are on even ones
    mirrored = wells["well"].to_numpy().astype(str).copy()
    mirrored[swapped] = [{"T": "D", "D": "T"}[name[0]] + name[1:] for name in mirrored[swapped]]
    wells = wells.with_columns(well=pl.Series(mirrored))
    found = row(run(x, wells, steps="none", null_size=200), "position_matched")
    by_place = wells.with_columns(plate=pl.col("well"))
    assert found["mean_map"] == pytest.approx(naive_mean_map(x, by_place, wells["is_control"].to_numpy()), abs=1e-9)
    assert (found["status"], found["negatives"], found["compounds_scored"]) == ("ok", 12, 12)
    assert found["fraction_retrieved"] <= 0.05


def test_the_order_of_rows_and_the_other_groups_change_nothing():
    x, wells = data(effect=0.7)
    more_x, more = data(seed=1, group="U2OS")
    both_x, both = np.concatenate([x, more_x]), pl.concat([wells, more])
    order = np.random.default_rng(3).permutation(len(both))
    whole = run(both_x, both)
    assert_frame_equal(whole, run(both_x[order], both[order]), check_exact=True)
    assert_frame_equal(whole.filter(pl.col("group") == "A549"), run(x, wells), check_exact=True)
    assert whole["group"].to_list() == ["A549"] * 8 + ["U2OS"] * 8
    assert whole["quantity"].to_list() == [*QUANTITIES, *QUANTITIES]


def test_another_seed_draws_other_halves_and_more_repeats_keep_the_first():
    x, wells = data(effect=0.7)
    assert row(run(x, wells, seed=1), "half_other")["mean_map"] != row(run(x, wells), "half_other")["mean_map"]
    one, two = (row(run(x, wells, repeats=n), "half_other") for n in (1, 2))
    assert (one["repeats"], two["repeats"]) == (1, 2)
    assert two["lowest"] <= one["fraction_retrieved"] <= two["highest"]


def statuses(table):
    return dict(table.select("quantity", "status").iter_rows())


def nameless(table):
    """Rows where a null number has no reason, or a number has one."""
    return table.filter((pl.col("status") == "ok") == pl.col("fraction_retrieved").is_null())


def test_too_few_controls_are_named_and_leave_no_number():
    few = run(*data(controls=3))  # a half is one position: nothing to scale a plate by
    assert nameless(few).is_empty()
    said = statuses(few)
    assert said["full"] == said["labels_within_all"] == "ok"
    assert {said[q] for q in ("half_same", "half_other", "posing", "posing_shuffled")} == {TOO_FEW_CONTROLS}
    one = statuses(run(*data(controls=1), steps="none"))
    assert one["half_other"] == one["posing"] == TOO_FEW_CONTROLS
    two = run(*data(controls=2), steps="none")  # where one poses, one is left, and it cannot be split
    assert nameless(two).is_empty()
    assert row(two, "posing_shuffled")["status"] == TOO_FEW_CONTROLS
    assert row(two, "half_other")["status"] == CANNOT_REJECT  # 2^4 arrangements
    four = run(*data(controls=4, plates=2), steps="none")  # one posing position against one or two: p is 1/9 at best
    assert row(four, "posing")["status"] == TOO_FEW_CONTROLS
    assert row(four, "half_other")["status"] == CANNOT_REJECT


def test_no_control_one_replicate_one_layout_and_a_plate_without_controls_are_named():
    x, wells = data()
    none = run(x, wells.with_columns(is_control=False))
    assert set(none["status"]) == {"no_controls"}
    assert none.select("fraction_retrieved", "mean_map", "negatives", "lowest").null_count().row(0) == (8, 8, 8, 8)
    once = run(x, wells.with_columns(compound=pl.concat_str("plate", "well")))
    assert nameless(once).is_empty()
    assert statuses(once)["full"] == statuses(once)["half_other"] == "single_replicate"
    assert statuses(once)["posing"] == statuses(run(*data(plates=1)))["posing"] == NO_GEOMETRY
    assert statuses(run(x, wells))["position_matched"] == ONE_LAYOUT
    bare = wells.filter(~(pl.col("is_control") & (pl.col("plate") == "A549-0")))
    bare_x = x[~(wells["is_control"] & (wells["plate"] == "A549-0")).to_numpy()]
    fitted, unfitted = run(bare_x, bare), run(bare_x, bare, steps="none")
    assert nameless(fitted).is_empty()
    assert set(fitted.filter(pl.col("quantity") != "labels_within_all")["status"]) == {
        TOO_FEW_CONTROLS,
        NO_GEOMETRY,  # no position is a control on all of a compound's plates
    }
    assert row(unfitted, "full")["queries"] == 36
    assert statuses(run(np.ones_like(x), wells))["full"] == NOT_NORMALISED
    alone = run(x[wells["is_control"].to_numpy()], wells.filter("is_control"))
    assert nameless(alone).is_empty()
    assert statuses(alone)["full"] == "no_treated"
    assert statuses(alone)["posing"] == "no_treated"


def test_wells_without_a_role_are_left_out():
    x, wells = data()
    wells = wells.with_columns(is_treated=~pl.col("is_control") & (pl.col("compound") != "T00"))
    x[wells["compound"].to_numpy() == "T00"] = 1e6
    kept = (wells["compound"] != "T00").to_numpy()
    assert_frame_equal(run(x, wells), run(x[kept], wells.filter(pl.Series(kept))), check_exact=True)


def test_what_cannot_be_is_refused():
    x, wells = data()
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match="wel"):
        run(x, wells, position="wel")
    with pytest.raises(ValueError, match="one row per well"):
        run(x[1:], wells)
    with pytest.raises(ValueError, match="has no key, plate, group or position"):
        run(x, wells.with_columns(place=pl.lit(None, pl.String)), position="place")
    with pytest.raises(ValueError, match="at least 1 repeat"):
        run(x, wells, repeats=0)
    with pytest.raises(ConfigError, match="did you mean 'published'"):
        run(x, wells, steps="publishd")


def test_halves_are_disjoint_and_equal_and_follow_the_names():
    names = np.array([f"D{i:02d}" for i in range(15)])
    first, second = halves(names, 0, "g", 0)
    assert len(first) == len(second) == len(set(first)) == 7
    assert not set(first) & set(second)
    assert np.array_equal(first, halves(names[::-1], 0, "g", 0)[0])
    assert not np.array_equal(first, halves(names, 0, "g", 1)[0])


def test_labels_move_within_their_plate_only():
    wells = wells_of()
    plate, treated = wells["plate"].to_numpy().astype(str), ~wells["is_control"].to_numpy()
    rows = permuted_rows(plate, treated, "labels", 0, "g", 0)
    assert np.array_equal(plate[rows], plate)
    assert np.array_equal(rows[~treated], np.flatnonzero(~treated))
    assert sorted(rows) == list(range(len(rows)))
    assert (rows[treated] != np.flatnonzero(treated)).mean() > 0.5
