"""Transfer between groups: against loops over wells, with effects that carry over, that do not, and that are of position alone."""

from itertools import combinations

import numpy as np
import polars as pl
import pytest
from activity_lists import chance_and_rest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal
from scipy.stats import false_discovery_control
from sklearn.metrics import average_precision_score

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.normalisation.normalise import normalise
from sdvae_ray.retrieval.ranking.similarity import DISTANCES
from sdvae_ray.retrieval.significance.permutations import permuted_rows
from sdvae_ray.retrieval.tasks.transfer import TOO_FEW_WELLS, Posing, transfer
from sdvae_ray.retrieval.tasks.transfer_pairs import SCHEMA, TASKS, Pair, pairs_of, unscored

ACTIVITY, DISTINCT = TASKS
PAIR = Pair("Metadata_Time", "24", "48")
QUICK = {"null": "copairs", "null_size": 1000, "repeats": 2}


def wells_of(plates=3, controls=12, compounds=10, group="24"):
    """Compound i is at position T<i> and the controls at D<i> of every plate, in both groups."""
    places = [f"T{i:02d}" for i in range(compounds)] + [f"D{i:02d}" for i in range(controls)]
    return pl.DataFrame(
        [
            {"plate": f"{group}-{p}", "well": place, "group": group, "compound": place, "is_control": place[0] == "D"}
            for p in range(plates)
            for place in places
        ]
    )


def data(seed=0, features=20, compound=0.0, elsewhere=0.0, position=0.0, treated=0.0, noise=1.0, **layout):
    """Noise, and what is added to it: sd by compound in both groups alike, by compound in each group anew, by position, and one
    vector of all treated wells."""
    random = np.random.default_rng(seed)
    wells = pl.concat([wells_of(**layout, group="24"), wells_of(**layout, group="48")])
    is_treated = ~wells["is_control"].to_numpy()[:, None]

    def by(*columns):
        codes = wells.select(pl.struct(columns).rank("dense")).to_series().to_numpy() - 1
        return random.normal(size=(codes.max() + 1, features))[codes]

    x = noise * random.normal(size=(len(wells), features)) + position * by("well")
    x += is_treated * (compound * by("compound") + elsewhere * by("compound", "group"))
    x += is_treated * treated * random.normal(size=features)
    return x, wells


def run(x, wells, pair=PAIR, **options):
    chance, rest = chance_and_rest(**{**QUICK, **options})
    return transfer(x, wells, pair, chance, position="well", key=("plate", "well"), **rest)


def row(table, task, source="24"):
    return table.row(by_predicate=(pl.col("task") == task) & (pl.col("source") == source), named=True)


# Against the obvious


def similarity(a, b, distance):
    if distance == "euclidean":
        return 1 / (1 + np.linalg.norm(a - b))
    if distance == "correlation":
        a, b = a - a.mean(), b - b.mean()
    found = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return abs(found) if distance == "abs_cosine" else found


def aps(x, queries, labels, there, negative, distance="cosine"):
    """label -> AP of its queries; there: rows with labels; negative(label): rows against which."""
    found = {}
    for i in queries:
        positives = [j for j in there if labels[j] == labels[i]]
        listed = positives + negative(labels[i])
        if positives and len(listed) > len(positives):
            hits = [True] * len(positives) + [False] * (len(listed) - len(positives))
            scores = [similarity(x[i], x[j], distance) for j in listed]
            found.setdefault(labels[i], []).append((average_precision_score(hits, scores), len(positives), len(listed)))
    return found


def fraction(found, threshold=0.05):
    """The share of labels whose mAP is rare among all the orders of a list, after Benjamini-Hochberg."""
    p = []
    for each in found.values():
        _, positives, total = each[0]
        orders = np.array(list(combinations(range(1, total + 1), positives)))
        null = (np.arange(1, positives + 1) / orders).mean(axis=1)
        p.append((null >= np.mean([ap for ap, _, _ in each]) - 1e-9).mean())
    return np.mean(false_discovery_control(p) <= threshold)


def naive(x, wells, source, target, task, labels=None, distance="cosine"):
    labels = wells["compound"].to_list() if labels is None else labels
    group, control = wells["group"].to_list(), wells["is_control"].to_list()
    queries = [i for i in range(len(x)) if group[i] == source and not control[i]]
    there = [j for j in range(len(x)) if group[j] == target and not control[j]]
    controls = [j for j in range(len(x)) if group[j] == target and control[j]]

    def negative(label):
        return controls if task == ACTIVITY else [j for j in there if labels[j] != label]

    return aps(x, queries, labels, there, negative, distance)


def mean_map(found):
    return np.mean([np.mean([ap for ap, _, _ in each]) for each in found.values()])


@pytest.mark.parametrize("distance", DISTANCES)
def test_scores_equal_loops_over_wells(distance):
    x, wells = data(seed=1, compound=1.0, plates=2, controls=8, compounds=6)
    there = pl.Series(np.arange(len(wells)) % 11 != 3)  # wells are missing: compounds have 0, 1 or 2 in a group
    x, wells = x[there.to_numpy()], wells.filter(there)
    found = run(x, wells, distance=distance, null_size=50_000)
    assert found["status"].to_list() == ["ok"] * 4
    for source, target in (("24", "48"), ("48", "24")):
        for task in TASKS:
            known, got = naive(x, wells, source, target, task, distance=distance), row(found, task, source)
            assert got["target"] == target
            assert got["mean_map"] == pytest.approx(mean_map(known), abs=1e-12)
            assert got["fraction_retrieved"] == pytest.approx(fraction(known), abs=1e-12)
            assert got["groups"] == len(known)
            assert got["queries"] == sum(len(each) for each in known.values())


def test_normalised_map_has_chance_at_zero_and_perfection_at_one():
    x, wells = data(seed=2, compound=50.0)
    assert row(run(x, wells), DISTINCT)["mean_normalised_map"] == pytest.approx(1)
    assert row(run(x, wells), DISTINCT)["mean_map"] == pytest.approx(1)
    chance = [row(run(*data(seed=seed), repeats=1), DISTINCT)["mean_normalised_map"] for seed in range(8)]
    assert abs(np.mean(chance)) < 0.03


def test_floors_equal_loops_over_wells():
    x, wells = data(seed=3, compound=0.5, position=1.0, plates=3, controls=8, compounds=6)
    found = run(x, wells, repeats=3, seed=5, null_size=50_000)
    order = wells.with_row_index("row").with_columns(name=pl.concat_str("plate", "well", separator="/"))
    order = order.sort("group", "name")["row"].to_numpy()
    x, wells = x[order], wells[order]  # draws are of wells in the order of their names
    place, group, control = (wells[name].to_list() for name in ("well", "group", "is_control"))
    for source, target in (("24", "48"), ("48", "24")):
        movable = ((wells["group"] == target) & ~wells["is_control"]).to_numpy()
        plate = wells["plate"].to_numpy().astype(str)
        for task in TASKS:
            repeats = []
            for repeat in range(3):
                moved = permuted_rows(plate, movable, "transfer", 5, target, repeat)
                labels = [wells["compound"][int(i)] for i in moved]
                repeats.append(naive(x, wells, source, target, task, labels))
            got = row(found, task, source)
            assert got["floor_map"] == pytest.approx(np.mean([mean_map(each) for each in repeats]), abs=1e-12)
            assert got["floor_fraction_retrieved"] == pytest.approx(np.mean([fraction(each) for each in repeats]))
            asked = [i for i in range(len(x)) if group[i] == source and control[i]]
            there = [i for i in range(len(x)) if group[i] == target and control[i]]
            known = aps(x, asked, place, there, lambda name, there=there: [j for j in there if place[j] != name])
            assert got["position_map"] == pytest.approx(mean_map(known), abs=1e-12)
            assert got["position_fraction_retrieved"] == pytest.approx(fraction(known))
            assert got["position_groups"] == 8


def test_scores_equal_copairs():
    copairs = pytest.importorskip("copairs.map", reason="copairs is a test dependency")
    x, wells = data(seed=4, compound=0.7)
    found = run(x, wells, ties="copairs")
    treated = wells.filter(~pl.col("is_control"))
    theirs = copairs.average_precision(
        treated.to_pandas(), x[~wells["is_control"].to_numpy()],
        ["compound"], ["group"], [], ["compound", "group"], progress_bar=False,
    )  # fmt: skip
    for source in ("24", "48"):
        mine = theirs[theirs["group"] == source].groupby("compound")
        assert row(found, DISTINCT, source)["mean_map"] == pytest.approx(mine["average_precision"].mean().mean())
        normalised = mine["normalized_average_precision"].mean().mean()
        assert row(found, DISTINCT, source)["mean_normalised_map"] == pytest.approx(normalised)


# Effects


def test_an_effect_that_carries_over_is_found_and_no_floor_is():
    found = run(*data(compound=2.0))
    for task in TASKS:
        for source in ("24", "48"):
            got = row(found, task, source)
            assert got["fraction_retrieved"] == 1
            assert got["mean_normalised_map"] > 0.9
            assert got["floor_fraction_retrieved"] <= 0.3
            assert got["position_fraction_retrieved"] <= 0.1
            assert abs(got["position_normalised_map"]) < 0.1


def test_an_effect_that_is_another_in_each_group_is_not_distinct():
    """Strong in both, so that a compound is active in each; it does not find itself."""
    got = [row(run(*data(seed=seed, elsewhere=3.0)), DISTINCT) for seed in range(4)]
    assert np.mean([each["fraction_retrieved"] for each in got]) <= 0.1
    apart = [each["mean_normalised_map"] - each["floor_normalised_map"] for each in got]
    assert abs(np.mean(apart)) < 0.06


def test_an_effect_of_position_alone_is_scored_and_its_floor_says_so():
    found = run(*data(position=2.0))
    for task in TASKS:
        got = row(found, task)
        assert got["fraction_retrieved"] == 1
        assert got["position_fraction_retrieved"] == 1
        assert got["position_normalised_map"] == pytest.approx(got["mean_normalised_map"], abs=0.1)
    assert row(found, DISTINCT)["floor_fraction_retrieved"] <= 0.2


def test_what_all_treated_wells_share_is_scored_and_permuted_labels_say_so():
    found = run(*data(treated=1.5))
    got = row(found, ACTIVITY)
    assert got["fraction_retrieved"] == 1
    assert got["floor_fraction_retrieved"] == 1
    assert got["floor_map"] == pytest.approx(got["mean_map"], abs=0.05)
    assert got["position_fraction_retrieved"] <= 0.1
    assert row(found, DISTINCT)["fraction_retrieved"] <= 0.1


def test_on_noise_little_is_retrieved():
    found = pl.concat([run(*data(seed=seed, compounds=20), seed=seed) for seed in range(8)])
    for name in ("fraction_retrieved", "floor_fraction_retrieved", "position_fraction_retrieved"):
        assert found[name].mean() <= 0.05
    for name in ("mean_normalised_map", "floor_normalised_map", "position_normalised_map"):
        assert abs(found[name].mean()) < 0.03


def fitted(seed, **effects):
    """The published steps, whose fit has one component less than wells: over all controls, and over half of their positions."""
    x, wells = data(seed=seed, controls=24, features=140, compounds=20, **effects)
    control = wells["is_control"].to_numpy()
    half = wells["well"].is_in([f"D{i:02d}" for i in range(0, 24, 2)]).to_numpy()
    plate = wells["plate"].to_numpy().astype(str)
    whole, apart = (normalise(x, fit, plate, "published").features for fit in (control, half))
    return whole, wells, Posing(apart, control & ~half)


def test_controls_of_the_fit_see_no_position_and_those_outside_do():
    found = {"with": [], "without": [], "distinct": []}
    for seed in range(3):
        x, wells, posing = fitted(seed, position=0.7)
        plain, apart = row(run(x, wells), DISTINCT), row(run(x, wells, posing=posing), DISTINCT)
        assert plain["position_groups"] == 24
        assert apart["position_groups"] == 12
        assert {**apart, **{key: plain[key] for key in plain if key.startswith("position")}} == plain
        found["without"].append(plain["position_normalised_map"])
        found["with"].append(apart["position_normalised_map"])
        found["distinct"].append(plain["mean_normalised_map"])
    assert np.mean(found["distinct"]) > 0.15  # no compound does anything
    assert abs(np.mean(found["without"])) < 0.05
    assert np.mean(found["with"]) > 0.4


@pytest.mark.parametrize("effects", [{}, {"compound": 0.7}])
def test_controls_outside_the_fit_see_no_position_where_it_has_no_effect(effects):
    x, wells, posing = fitted(0, **effects)
    assert abs(row(run(x, wells, posing=posing), DISTINCT)["position_normalised_map"]) < 0.08


def test_the_leak_of_a_fit_into_the_negatives_stands_in_the_permuted_floor():
    x, wells, _ = fitted(0)
    got = row(run(x, wells), ACTIVITY)
    assert got["mean_normalised_map"] > 0.2  # noise
    assert got["floor_normalised_map"] == pytest.approx(got["mean_normalised_map"], abs=0.08)


# Invariants


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ties=st.sampled_from(["average", "copairs"]))
def test_row_order_scale_and_wells_without_a_role_change_nothing(seed, ties):
    x, wells = data(seed=seed % 7, compound=0.5, plates=2, controls=6, compounds=5)
    plain = run(x, wells, ties=ties)
    random = np.random.default_rng(seed)
    order = random.permutation(len(x))
    assert_frame_equal(run(x[order], wells[order], ties=ties), plain)
    posing = Posing(x * 2, wells["is_control"])
    assert_frame_equal(run(x, wells, ties=ties, posing=posing), plain)
    posing = Posing(x, random.random(len(x)) < 0.7)  # of these the controls
    first = run(x, wells, ties=ties, posing=posing)
    posing = Posing(x[order], posing.wells[order])
    assert_frame_equal(run(x[order], wells[order], ties=ties, posing=posing), first)
    scaled = x * random.uniform(1e-3, 1e3, size=(len(x), 1))
    again = run(scaled, wells, ties=ties)
    assert_frame_equal(again, plain, check_exact=False, abs_tol=1e-12)
    poscon = wells.head(1).with_columns(well=pl.lit("P01"), is_treated=False)
    more = pl.concat([wells.with_columns(is_treated=~pl.col("is_control")), poscon], how="diagonal")
    assert_frame_equal(run(np.concatenate([x, x[:1]]), more, ties=ties), plain)


def test_the_pair_has_no_direction_and_another_group_has_no_part():
    x, wells = data(compound=0.5)
    plain, turned = run(x, wells), run(x, wells, Pair("Metadata_Time", "48", "24"))
    assert_frame_equal(plain.sort("source", "task"), turned.sort("source", "task"))


def test_a_compound_text_that_a_control_has_too_makes_it_no_positive():
    x, wells = data(compound=1.0)
    named = wells.with_columns(compound=pl.when("is_control").then(pl.lit("T00")).otherwise("compound"))
    assert_frame_equal(run(x, named), run(x, wells))


def test_floors_are_means_over_the_repeats():
    x, wells = data(compound=0.5)
    one, two = run(x, wells, repeats=1), run(x, wells, repeats=2)
    assert_frame_equal(one.select("mean_map", "position_map"), two.select("mean_map", "position_map"))
    assert one["floor_map"].to_list() != two["floor_map"].to_list()


# What cannot be scored


def outcomes(x, wells, **options):
    found = run(x, wells, **options)
    for head, means in (("", "mean_"), ("floor_", "floor_"), ("position_", "position_")):
        for each in found.rows(named=True):
            status = each[f"{head}status"]
            assert (status == "ok") == (each[f"{head}fraction_retrieved"] is not None)
            for name in (f"{means}map", f"{means}normalised_map"):
                assert (status in ("ok", TOO_FEW_WELLS)) == (each[name] is not None)
    return {
        (each["source"], each["task"]): (each["status"], each["floor_status"], each["position_status"])
        for each in found.rows(named=True)
    }


CONTROL, HERE, THERE = pl.col("is_control"), pl.col("group") == "24", pl.col("group") == "48"


@pytest.mark.parametrize(
    ("kept", "activity", "distinct"),
    [
        (CONTROL | HERE, ("no_treated", "no_treated", "ok"), ("no_treated", "no_treated", "ok")),
        (CONTROL | THERE, ("no_treated", "no_treated", "ok"), ("no_treated", "no_treated", "ok")),
        (~CONTROL | HERE, ("no_controls", "no_controls", "no_controls"), ("ok", "ok", "no_controls")),
        (~CONTROL | THERE, ("ok", "ok", "no_controls"), ("ok", "ok", "no_controls")),
        (
            CONTROL | (HERE & (pl.col("compound") < "T05")) | (THERE & (pl.col("compound") >= "T05")),
            ("no_shared_compound", "no_shared_compound", "ok"),
            ("no_shared_compound", "no_shared_compound", "ok"),
        ),
        (
            CONTROL | HERE | (pl.col("compound") == "T03"),
            ("ok", "one_compound_per_plate", "ok"),
            ("one_compound", "one_compound", "ok"),
        ),
        (
            ~CONTROL | (HERE & (pl.col("well") < "D06")) | (THERE & (pl.col("well") >= "D06")),
            ("ok", "ok", "no_shared_position"),
            ("ok", "ok", "no_shared_position"),
        ),
        (
            ~CONTROL | HERE | (pl.col("well") == "D03"),
            ("ok", "ok", "one_position"),
            ("ok", "ok", "one_position"),
        ),
    ],
)
def test_what_cannot_be_scored_says_why(kept, activity, distinct):
    x, wells = data(plates=4)
    mask = wells.select(kept.alias("kept"))["kept"]
    found = outcomes(x[mask.to_numpy()], wells.filter(mask))
    assert found["24", ACTIVITY] == activity
    assert found["24", DISTINCT] == distinct


def test_a_test_that_cannot_reject_gives_no_fraction():
    x, wells = data(
        plates=1, controls=15, compounds=25, compound=5.0
    )  # one positive: 16 orders of a list, of 20 wanted
    found = outcomes(x, wells)
    assert found["24", ACTIVITY] == ("too_few_wells", "too_few_wells", "too_few_wells")
    assert found["24", DISTINCT] == ("ok", "ok", "too_few_wells")
    got = row(run(x, wells), ACTIVITY)
    assert got["mean_map"] > 0.9
    assert got["fraction_retrieved"] is None
    assert outcomes(x, wells, threshold=0.1)["24", ACTIVITY] == ("ok", "ok", "ok")
    assert outcomes(x, wells, threshold=0.001)["24", DISTINCT][0] == "too_few_wells"  # of 1,000 draws too


def test_each_compound_on_a_plate_of_its_own_cannot_be_permuted():
    x, wells = data(plates=10)
    number = pl.col("plate").str.split("-").list.last().cast(pl.Int64)
    mask = wells.select(kept=CONTROL | (number == pl.col("well").str.slice(1).cast(pl.Int64)))["kept"]
    found = outcomes(x[mask.to_numpy()], wells.filter(mask))
    assert found["24", DISTINCT][1] == "one_compound_per_plate"


@pytest.mark.parametrize("distance", DISTANCES)
def test_profiles_without_direction_are_left_out_and_counted(distance):
    x, wells = data(compound=1.0)
    first = np.flatnonzero((wells["well"] == "T00").to_numpy())[0]
    control = np.flatnonzero((wells["well"] == "D00").to_numpy())[-1]
    flat = 3.0 if distance == "correlation" else 0.0
    x[[first, control]] = flat
    found = run(x, wells, distance=distance)
    if distance == "euclidean":
        assert set(found["zero_norm"]) == {0}
        return
    assert set(found["zero_norm"]) == {2}
    rest = np.delete(np.arange(len(x)), [first, control])
    without = run(x[rest], wells[rest], distance=distance)
    assert_frame_equal(found.drop("zero_norm"), without.drop("zero_norm"))
    x[(wells["group"] == "24").to_numpy()] = flat
    assert outcomes(x, wells, distance=distance)["24", DISTINCT] == ("zero_norm",) * 3


def test_copairs_ties_give_nothing_to_profiles_without_direction():
    x, wells = data()
    x[:] = 0
    assert set(run(x, wells, ties="copairs")["status"]) == {"zero_norm"}


def test_what_the_caller_could_not_normalise_has_its_rows():
    found = unscored(PAIR, "not_normalised")
    assert found.schema == pl.Schema(SCHEMA)
    assert found.select("column", "source", "target", "task").rows() == [
        ("Metadata_Time", a, b, task) for a, b in (("24", "48"), ("48", "24")) for task in TASKS
    ]
    assert set(found["status"]) == set(found["floor_status"]) == set(found["position_status"]) == {"not_normalised"}
    assert found["mean_map"].null_count() == 4
    x, wells = data()
    assert (
        run(x, wells)
        .select("column", "source", "target", "task")
        .equals(found.select("column", "source", "target", "task"))
    )


def test_wells_that_cannot_be_are_refused():
    x, wells = data()
    with pytest.raises(ValueError, match="24-0/T00 is in neither group, 24 or 48"):
        run(x, wells.with_columns(group=pl.when(pl.col("plate") == "24-0").then(pl.lit("72")).otherwise("group")))
    with pytest.raises(ValueError, match="both a control and treated"):
        run(x, wells.with_columns(is_treated=pl.lit(True)))
    with pytest.raises(ValueError, match="no compound"):
        run(x, wells.with_columns(compound=pl.lit(None, pl.String)))
    with pytest.raises(ValueError, match="has no key, plate, group or position"):
        run(x, wells.with_columns(plate=pl.when(pl.col("well") == "D00").then(None).otherwise("plate")))
    with pytest.raises(ValueError, match="has no key, plate, group or position"):
        run(x, wells.with_columns(group=pl.when(pl.col("well") == "D00").then(None).otherwise("group")))
    with pytest.raises(ValueError, match="appears more than once"):
        run(np.concatenate([x, x[:1]]), pl.concat([wells, wells.head(1)]))
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match="compound"):
        run(x, wells.rename({"compound": "compund"}))
    with pytest.raises(ValueError, match="one row per well is needed"):
        run(x[1:], wells)
    with pytest.raises(ValueError, match="one row per well is needed"):
        run(x, wells, posing=Posing(x[1:], wells["is_control"]))
    with pytest.raises(ValueError, match="at least 1 repeat"):
        run(x, wells, repeats=0)
    with pytest.raises(DataError, match="not finite"):
        run(np.where(x == x.max(), np.nan, x), wells)


# Pairs


def groups(*rows):
    table = pl.DataFrame(rows, schema=["cell", "time"], orient="row", schema_overrides={"time": pl.String})
    return table.with_columns(group=pl.concat_str(pl.all().fill_null("-"), separator=" / "))


FOUR = groups(("U2OS", "48"), ("A549", "24"), ("U2OS", "24"), ("A549", "48"), ("A549", "24"))


def test_pairs_differ_in_one_column_and_agree_in_the_others():
    assert pairs_of(FOUR, ["cell", "time"], ["cell", "time"]) == [
        Pair("cell", "A549 / 24", "U2OS / 24"),
        Pair("cell", "A549 / 48", "U2OS / 48"),
        Pair("time", "A549 / 24", "A549 / 48"),
        Pair("time", "U2OS / 24", "U2OS / 48"),
    ]
    assert {pair.column for pair in pairs_of(FOUR, ("cell", "time"), ("time",))} == {"time"}
    assert len(pairs_of(FOUR, ("cell", "time", "cell"), ("time", "time"))) == 2
    assert pairs_of(FOUR, ["cell", "time"], []) == []
    assert pairs_of(FOUR.head(1), ["cell", "time"], ["cell"]) == []


def test_one_column_makes_every_pair_of_its_values():
    times = pl.DataFrame({"time": [6, 24, 48], "group": ["6", "24", "48"]})
    assert [(pair.first, pair.second) for pair in pairs_of(times, ["time"], ["time"])] == [
        ("24", "48"),
        ("24", "6"),
        ("48", "6"),
    ]


def test_a_group_without_a_value_is_one_of_its_own():
    found = pairs_of(groups(("A549", None), ("A549", "24"), ("U2OS", None)), ["cell", "time"], ["cell", "time"])
    assert found == [Pair("cell", "A549 / -", "U2OS / -"), Pair("time", "A549 / -", "A549 / 24")]


def test_pairs_along_what_is_not_there_are_refused():
    with pytest.raises(ValueError, match="no column 'tme' .* only cell, time"):
        pairs_of(FOUR, ["cell", "time"], ["tme"])
    with pytest.raises(ValueError, match="no column 'dose'"):
        pairs_of(FOUR, ["cell", "dose"], ["cell"])
    with pytest.raises(DataError, match="group 'a / b / c' stands for several"):
        pairs_of(groups(("a / b", "c"), ("a", "b / c")), ["cell", "time"], ["time"])


def test_the_numbers_of_a_row_are_its_schema():
    found = run(*data())
    assert found.schema == pl.Schema(SCHEMA)
    assert found["zero_norm"].to_list() == [0] * 4
    assert_allclose(found["queries"], 30)
