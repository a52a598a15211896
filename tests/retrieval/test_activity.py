"""Phenotypic activity end to end: numbers equal to the rooms below, and a reason for everything without a number."""

import itertools

import numpy as np
import polars as pl
import pytest
from activity_lists import chance_and_rest, ranked_by_codes
from polars.testing import assert_frame_equal

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.significance.p_values import benjamini_hochberg
from sdvae_ray.retrieval.tasks.activity import phenotypic_activity


def plates(seed=0, groups=("A549", "U2OS"), per_group=2, compounds=6, controls=12, features=16, active=3):
    """Compounds 0..active-1 have an effect; one well each on every plate; one excluded well per plate."""
    random = np.random.default_rng(seed)
    effect = random.normal(size=(compounds, features)) * 4
    rows, x = [], []
    for group in groups:
        for number in range(per_group):
            plate = f"{group}-{number}"
            for well in range(compounds + controls + 1):
                treated, control = well < compounds, compounds <= well < compounds + controls
                rows.append(
                    {
                        "plate": plate,
                        "well": f"W{well:02d}",
                        "group": group,
                        "compound": f"C{well}" if treated else "DMSO" if control else "POSCON",
                        "is_control": control,
                        "is_treated": treated,
                    }
                )
                x.append(random.normal(size=features) + (effect[well] if treated and well < active else 0))
    return np.array(x), pl.DataFrame(rows)


def score(x, wells, **options):
    chance, rest = chance_and_rest(**{"null_size": 1000, **options})
    return phenotypic_activity(x, wells, chance, key=("plate", "well"), **rest)


def compound(activity, group, name):
    return activity.compounds.row(by_predicate=(pl.col("group") == group) & (pl.col("compound") == name), named=True)


def test_wells_compounds_and_groups_carry_their_keys_and_counts():
    x, wells = plates()
    out = score(x, wells)
    assert out.wells.columns == [
        "plate", "well", "compound", "group", "ap", "normalised_ap", "n_positives", "n_negatives", "status",
    ]  # fmt: skip
    assert out.wells.shape[0] == 24
    assert out.wells.select("plate", "well").is_unique().all()
    assert set(out.wells["status"]) == {"ok"}
    assert out.compounds.select("group", "compound").rows() == [
        (g, f"C{i}") for g in ("A549", "U2OS") for i in range(6)
    ]
    assert out.compounds["replicates"].to_list() == out.compounds["plates"].to_list() == [2] * 12
    groups = out.groups.select("group", "wells", "controls", "excluded", "plates", "compounds", "compounds_scored")
    assert groups.rows() == [("A549", 12, 24, 2, 2, 6, 6), ("U2OS", 12, 24, 2, 2, 6, 6)]


def test_the_tables_hold_the_numbers_of_the_rooms_below():
    x, wells = plates()
    out = score(x, wells, negatives="group")
    one = (wells["group"] == "A549").to_numpy()
    mine = wells.filter(pl.Series(one))
    codes = np.where(mine["is_treated"], mine["compound"].rank("dense").to_numpy().astype(int), -1)
    ap = ranked_by_codes(x[one], codes, mine["is_control"].to_numpy(), np.zeros(len(mine))).ap
    expected = mine.with_columns(expected=ap).filter("is_treated")
    joined = out.wells.join(expected, on=["plate", "well"])
    np.testing.assert_allclose(joined["ap"], joined["expected"], atol=1e-14)
    means = (
        expected.group_by("compound")
        .agg(pl.col("expected").mean())
        .join(out.compounds.filter(group="A549"), on="compound")
    )
    np.testing.assert_allclose(means["map"], means["expected"], atol=1e-14)
    for group in ("A549", "U2OS"):
        tested = out.compounds.filter(group=group)
        np.testing.assert_allclose(tested["p_corrected"], benjamini_hochberg(tested["p"].to_numpy()), atol=1e-15)
        row = out.groups.row(by_predicate=pl.col("group") == group, named=True)
        assert row["fraction_retrieved"] == np.mean(tested["p_corrected"].to_numpy() <= 0.05)
        assert row["mean_map"] == pytest.approx(tested["map"].mean())


def test_active_compounds_are_retrieved_and_inactive_ones_are_not():
    x, wells = plates(per_group=4)
    for null in ("exchange", "copairs"):
        out = score(x, wells, null=null)
        found = out.compounds.filter("retrieved").select("group", "compound").rows()
        assert found == [(g, c) for g in ("A549", "U2OS") for c in ("C0", "C1", "C2")]
        assert out.groups["retrieved"].to_list() == [3, 3]
        assert out.groups["fraction_retrieved"].to_list() == [0.5, 0.5]


def test_copairs_null_is_counted_where_the_queries_of_a_compound_have_one_list():
    """3 positives among 51 wells: all 20,825 arrangements, written out."""
    x, wells = plates(per_group=4)
    ranks = np.array(list(itertools.combinations(range(1, 52), 3)))
    every = (np.arange(1, 4) / ranks).mean(axis=1)
    for strict in (False, True):
        found = score(x, wells, null="copairs_exact", negatives="group", strict=strict).compounds
        reach = [np.mean(every > m + 1e-10 if strict else every >= m - 1e-10) for m in found["map"]]
        np.testing.assert_allclose(found["p"], reach, rtol=1e-12)
        assert found["draws"].to_list() == [0] * 12
    drawn = score(x, wells, null="copairs", negatives="group", null_size=100_000).compounds
    np.testing.assert_allclose(found["p"], drawn["p"], atol=0.01)
    assert drawn["draws"].to_list() == [100_000] * 12


def test_negatives_are_those_of_the_plate_or_of_the_group():
    x, wells = plates()
    assert set(score(x, wells, negatives="plate").wells["n_negatives"]) == {12}
    assert set(score(x, wells, negatives="group").wells["n_negatives"]) == {24}


def test_the_order_of_rows_changes_nothing():
    x, wells = plates()
    order = np.random.default_rng(1).permutation(len(x))
    first, again = score(x, wells), score(x[order], wells[order])
    assert_frame_equal(first.compounds, again.compounds)
    assert_frame_equal(first.wells, again.wells.sort("plate", "well"), check_exact=True)
    assert first.compounds["p"].to_list() == again.compounds["p"].to_list()


def test_the_type_and_layout_of_the_profiles_change_nothing():
    x, wells = plates()
    x = np.rint(x * 8)
    first = score(x, wells)
    for same in (x.astype(np.float32), x.astype(np.int64), np.asfortranarray(x)):
        again = score(same, wells)
        for name in ("wells", "compounds", "groups"):
            assert_frame_equal(getattr(first, name), getattr(again, name), check_exact=True)


def test_without_is_treated_every_well_that_is_no_control_is_treated():
    x, wells = plates()
    out = score(x, wells.drop("is_treated"))
    assert out.groups["excluded"].to_list() == [0, 0]
    assert compound(out, "A549", "POSCON")["replicates"] == 2


def test_a_single_replicate_has_a_status_and_no_numbers():
    x, wells = plates()
    drop = ((wells["plate"] == "A549-1") & (wells["well"] == "W00")).to_numpy()
    out = score(x[~drop], wells.filter(~pl.Series(drop)))
    row = compound(out, "A549", "C0")
    assert row["status"] == "single_replicate"
    assert [row[c] for c in ("map", "normalised_map", "p", "p_corrected", "retrieved")] == [None] * 5
    assert (row["draws"], row["replicates"], row["scored"]) == (0, 1, 0)
    assert out.wells.filter(group="A549", compound="C0")["status"].to_list() == ["single_replicate"]
    groups = out.groups.row(by_predicate=pl.col("group") == "A549", named=True)
    assert (groups["compounds"], groups["compounds_scored"]) == (6, 5)
    assert compound(out, "U2OS", "C0")["status"] == "ok"


def test_a_plate_without_controls_is_named_where_negatives_are_of_the_plate():
    x, wells = plates(per_group=3)
    bare = wells.with_columns(is_control=pl.col("is_control") & (pl.col("plate") != "A549-2"))
    out = score(x, bare, negatives="plate")
    lost = out.wells.filter(plate="A549-2")
    assert set(lost["status"]) == {"no_controls"}
    assert lost["ap"].null_count() == 6
    row = compound(out, "A549", "C0")
    assert (row["status"], row["replicates"], row["scored"]) == ("ok", 3, 2)


@pytest.mark.parametrize("null", ["exchange", "copairs"])
def test_a_group_without_controls_has_a_row_and_no_score(null):
    x, wells = plates()
    bare = wells.with_columns(is_control=pl.col("is_control") & (pl.col("group") != "U2OS"))
    out = score(x, bare, negatives="group", null=null)
    row = out.groups.row(by_predicate=pl.col("group") == "U2OS", named=True)
    assert (row["compounds"], row["compounds_scored"], row["retrieved"]) == (6, 0, 0)
    assert row["fraction_retrieved"] is row["mean_map"] is None
    assert set(out.compounds.filter(group="U2OS")["status"]) == {"no_controls"}
    assert set(out.compounds.filter(group="A549")["status"]) == {"ok"}


def test_without_controls_on_its_own_plates_a_compound_has_an_map_but_no_p_by_exchange():
    x, wells = plates(per_group=3)
    keep = ~((pl.col("plate") != "A549-2") & (pl.col("group") == "A549") & pl.col("is_control"))
    keep &= ~((pl.col("plate") == "A549-2") & pl.col("is_treated"))
    mask = wells.select(keep).to_series()
    row = compound(score(x[mask.to_numpy()], wells.filter(mask), negatives="group"), "A549", "C0")
    assert row["status"] == "no_exchange"
    assert row["map"] is not None
    assert row["p"] is None
    assert row["retrieved"] is None


def test_all_zero_profiles_are_left_out_named_and_counted():
    x, wells = plates(per_group=3)
    is_c0 = ((wells["compound"] == "C0") & (wells["group"] == "A549")).to_numpy()
    x[np.flatnonzero(is_c0)[:2]] = 0
    x[np.flatnonzero((wells["compound"] == "C1").to_numpy())[0]] = 0
    x[np.flatnonzero(wells["is_control"].to_numpy())[0]] = 0
    out = score(x, wells)
    assert compound(out, "A549", "C0")["status"] == "zero_norm"
    assert compound(out, "A549", "C0")["map"] is None
    row = compound(out, "A549", "C1")
    assert (row["status"], row["replicates"], row["scored"]) == ("ok", 3, 2)
    assert out.wells.filter(group="A549", compound="C0")["status"].to_list() == [
        "zero_norm", "zero_norm", "single_replicate",
    ]  # fmt: skip
    assert out.groups["zero_norm"].to_list() == [4, 0]
    assert sorted(out.wells.filter(group="A549")["n_negatives"].unique().to_list()) == [0, 11, 12]


def test_a_compound_is_retrieved_when_its_corrected_p_equals_the_threshold():
    x, wells = plates(groups=("A549",), per_group=4, compounds=1, active=1)
    out = score(x, wells, null_size=19, threshold=0.05)
    assert out.compounds["p_corrected"].to_list() == [0.05]
    assert out.compounds["retrieved"].to_list() == [True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, w: (x[1:], w), r"profiles of shape \(75, 16\) came with 76 wells"),
        (lambda x, w: (x, w.with_columns(is_treated=True)), "is both a control and treated"),
        (lambda x, w: (x, w.with_columns(compound=pl.lit(None, pl.String))), "is treated but has no compound"),
        (lambda x, w: (x, w.with_columns(well=pl.lit("W00"))), "A549-0/W00 appears more than once"),
        (lambda x, w: (x, w.with_columns(plate=pl.lit(None, pl.String))), "has no key, plate, group"),
    ],
)
def test_a_table_that_cannot_be_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        score(*change(*plates()))


def test_profiles_that_are_not_finite_are_the_users_and_named_in_one_line():
    x, wells = plates()
    x[5] = np.nan
    with pytest.raises(DataError, match="A549-0/W05: its features are not finite") as error:
        score(x, wells)
    assert "\n" not in str(error.value)


def test_only_cosines_are_scored():
    with pytest.raises(ValueError, match="of cosines, not of 'euclidean'"):
        score(*plates(), distance="euclidean")
