"""Controls that pose as compounds stand as the compounds do, and FR over that floor is the share of compounds with an effect."""

import numpy as np
import polars as pl
import pytest
from scipy.ndimage import gaussian_filter

from sdvae_ray.retrieval.floors.control_floors import floors_in
from sdvae_ray.retrieval.floors.floor_group import NO_GEOMETRY
from sdvae_ray.retrieval.floors.geometry import place_poses, shuffled_labels
from sdvae_ray.retrieval.floors.over_floor import over_floor
from sdvae_ray.retrieval.normalisation.normalise import normalise
from sdvae_ray.retrieval.positions import coordinates
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.splits import Space, control_splits
from sdvae_ray.retrieval.tasks.activity import activity_in
from sdvae_ray.retrieval.tasks.well_table import checked_wells, in_play

ROWS, COLUMNS = "ABCDEFGHIJKLMNOP", 24


def side_by_side(plates=1, wide=4, control_columns=8):
    """Compounds of `wide` wells next to each other in a row; the first columns are controls."""
    wells = []
    for plate in range(plates):
        for row in ROWS:
            for column in range(COLUMNS):
                control = column < control_columns
                number = (column - control_columns) // wide
                compound = "" if control else f"P{plate} {row}{number}"
                wells.append(
                    {
                        "plate": f"P{plate}",
                        "well": f"{row}{column + 1:02d}",
                        "compound": compound,
                        "is_control": control,
                    }
                )
    table = pl.DataFrame(wells).with_columns(group=pl.lit("g"))
    return in_play(checked_wells(table, ("plate", "well"), "well")).drop("_row")


def one_position(plates=4, controls=16, compounds=8):
    wells = [
        {
            "plate": f"P{plate}",
            "well": f"{ROWS[at % 16]}{at // 16 + 1:02d}",
            "compound": f"C{at}",
            "is_control": at < controls,
        }
        for plate in range(plates)
        for at in range(controls + compounds)
    ]
    return in_play(checked_wells(pl.DataFrame(wells).with_columns(group=pl.lit("g")), ("plate", "well"), "well")).drop(
        "_row"
    )


def poses_of(table, repeat=0):
    return [pose for unit in place_poses(table, 0, "g", repeat) for pose in unit.poses]


def test_names_of_wells_are_places_and_other_names_are_far_apart():
    places = coordinates(np.array(["A01", "P24", "AF48", "b2", "left", "right", "left"]))
    assert places[:4].tolist() == [[0, 0], [15, 23], [31, 47], [1, 1]]
    assert (places[4] == places[6]).all()
    assert abs(places[4] - places[5]).max() >= 10_000


def test_compounds_side_by_side_have_poses_side_by_side():
    table = side_by_side(plates=2)
    units = place_poses(table, 0, "g", 0)
    well, plate = table["well"].to_numpy().astype(str), table["plate"].to_numpy().astype(str)
    poses = [pose for unit in units for pose in unit.poses]
    assert len(poses) >= 50  # of 64 for which there is room
    rows = np.concatenate([pose.rows for pose in poses])
    assert len(set(rows.tolist())) == len(rows)
    assert table["is_control"].to_numpy()[rows].all()
    for pose in poses:
        assert len(set(plate[pose.rows])) == 1
    spans = [sorted(np.ptp(coordinates(well[pose.rows]), axis=0).tolist()) for pose in poses]
    assert (
        max(max(span) for span in spans) <= 4
    )  # a bent pose, where nothing else is left: each well off by one at most
    assert spans.count([0, 3]) >= 0.7 * len(spans)  # in a row or in a column
    positions = [position for unit in units for position in unit.positions]
    assert len(set(positions)) == len(positions)
    assert max(len(unit.poses) for unit in units) == 2  # the same places of both plates


def test_compounds_at_one_position_have_poses_at_one_position():
    table = one_position()
    well, plate = table["well"].to_numpy().astype(str), table["plate"].to_numpy().astype(str)
    poses = poses_of(table)
    assert len(poses) == 16
    for pose in poses:
        assert len(set(well[pose.rows])) == 1
        assert sorted(plate[pose.rows]) == ["P0", "P1", "P2", "P3"]
    labels = shuffled_labels(poses, plate, 0, "g", 0)
    for label in set(labels.values()):
        rows = [row for row, own in labels.items() if own == label]
        assert sorted(plate[rows]) == ["P0", "P1", "P2", "P3"]
        assert len(set(well[rows])) == 4


def test_poses_do_not_depend_on_the_order_of_rows_and_another_repeat_draws_others():
    table = side_by_side()
    assert [pose.label for pose in poses_of(table)] == [pose.label for pose in poses_of(table)]
    assert {pose.label for pose in poses_of(table)} != {pose.label for pose in poses_of(table, 1)}


def test_without_room_for_a_compound_among_the_controls_there_is_no_pose():
    """One control column of every second row: nowhere do four controls stand side by side."""
    table = side_by_side(control_columns=1).filter(
        ~pl.col("is_control") | pl.col("well").str.contains("A|C|E|G|I|K|M|O")
    )
    assert place_poses(table, 0, "g", 0) == []


def scored(truth, position, seed, **layout):
    """The score of compounds side by side, a share `truth` of them with an effect; neighbouring wells are alike."""
    table = side_by_side(**layout)
    random = np.random.default_rng(seed)
    x = random.normal(size=(table.height, 20))
    places = coordinates(table["well"].to_numpy().astype(str))
    grid = gaussian_filter(random.normal(size=(len(ROWS), COLUMNS, 20)), (1.5, 1.5, 0))  # alike in neighbouring wells
    x += position * (grid / grid.std())[places[:, 0], places[:, 1]]
    compounds = sorted(set(table.filter("is_treated")["compound"]))
    active = compounds[: round(truth * len(compounds))]
    for name in active:
        x[(table["compound"] == name).to_numpy()] += 4 * random.normal(size=20)
    control, plate, well = (table[name].to_numpy() for name in ("is_control", "plate", "well"))
    chance = Chance(null_size=1000)
    splits = control_splits(well.astype(str), plate.astype(str), control, 4, 0, "g")
    spaces = [Space(normalise(x, part.fit, plate, "plate_standardise").features, part.negatives) for part in splits]
    key = ("plate", "well")
    activity = activity_in(spaces, table, chance, key=key)
    floors = floors_in(
        lambda fit, _: normalise(x, fit, plate, "plate_standardise").features,
        table, chance, position="well", key=key, repeats=2, splits=4, cut=activity.cut(0.05),
    )  # fmt: skip
    return activity, floors, len(active) / len(compounds)


def test_fr_over_its_floor_recovers_the_true_share_where_position_is_mistaken_for_an_effect():
    activity, floors, truth = scored(truth=0.5, position=0.5, seed=0)
    fraction = activity.groups["fraction_retrieved"].item()
    assert fraction > truth + 0.1  # many compounds without an effect are retrieved for their place
    ratio = over_floor(activity.compounds["retrieved"].cast(pl.Float64), floors.poses["retrieved"])
    assert ratio.floor > 0.1
    assert ratio.low <= truth <= ratio.high
    assert abs(ratio.over_floor - truth) < abs(fraction - truth)
    rows = {row["quantity"]: row["fraction_retrieved"] for row in floors.table.rows(named=True)}
    assert rows["posing_shuffled"] < rows["posing"] / 2


def test_where_no_controls_stand_as_compounds_do_the_floor_has_a_reason():
    _, floors, _ = scored(truth=0.5, position=0.0, seed=0, control_columns=3, wide=7)
    posing = floors.table.filter(pl.col("quantity") == "posing").row(0, named=True)
    assert posing["status"] == "ok"  # seven in a column
    table = side_by_side(control_columns=1, wide=4).filter(
        ~pl.col("is_control") | pl.col("well").str.contains("A|C|E|G|I|K|M|O")
    )
    x = np.random.default_rng(0).normal(size=(table.height, 5))
    found = floors_in(lambda fit, _: x, table, Chance(null_size=100), position="well", key=("plate", "well"), repeats=1)
    statuses = dict(found.table.select("quantity", "status").iter_rows())
    assert statuses["posing"] == statuses["posing_shuffled"] == NO_GEOMETRY
    assert found.poses.is_empty()


def test_fr_over_floor_is_the_formula_and_its_interval_holds_it():
    ratio = over_floor([True] * 30 + [False] * 10, [1.0] * 5 + [0.0] * 15)
    assert (ratio.fraction, ratio.floor) == (0.75, 0.25)
    assert ratio.over_floor == pytest.approx((0.75 - 0.25) / (1 - 0.25))
    assert ratio.low < ratio.over_floor < ratio.high
    assert over_floor([False, True] * 20, [0.0] * 20).low < over_floor([False, True] * 20, [0.0] * 20).over_floor == 0.5
    assert np.isnan(over_floor([True], []).over_floor)
    assert over_floor([True, None, False], [0.0, None]).compounds == 2  # type: ignore[list-item]


@pytest.mark.slow
def test_the_interval_of_fr_over_floor_covers_the_truth():
    covered = 0
    for seed in range(20):
        activity, floors, truth = scored(truth=0.5, position=0.5, seed=seed)
        ratio = over_floor(activity.compounds["retrieved"].cast(pl.Float64), floors.poses["retrieved"])
        covered += ratio.low <= truth <= ratio.high
    assert covered >= 15
