"""Splits of the control positions, scores that are means over splits, and the least p that a test can give."""

import itertools

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.normalisation.normalise import normalise
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.splits import Space, blocks_of, control_splits, pool_of
from sdvae_ray.retrieval.tasks.activity import activity_in, phenotypic_activity
from sdvae_ray.retrieval.tasks.activity_tables import CANNOT_REJECT

KEY = ("plate", "well")


def layout(plates=2, controls=12, compounds=4, per_plate=1, features=6, seed=0, effect=0.0):
    """Noise of sd 1 and plate offsets of sd 2; `effect`: sd of what a compound adds to its wells."""
    random = np.random.default_rng(seed)
    wells = pl.DataFrame(
        [
            {"plate": f"P{plate}", "well": well, "group": "g", "compound": well[:3], "is_control": well[0] == "D"}
            for plate in range(plates)
            for well in [f"D{i:02d}" for i in range(controls)]
            + [f"T{i:02d}-{j}" for i in range(compounds) for j in range(per_plate)]
        ]
    )
    x = random.normal(size=(len(wells), features))
    for column, sd, own in (("plate", 2.0, True), ("compound", effect, ~wells["is_control"].to_numpy())):
        names, number = np.unique(wells[column].to_numpy().astype(str), return_inverse=True)
        x += sd * random.normal(size=(len(names), features))[number] * np.broadcast_to(own, len(x))[:, None]
    return x, wells


def split(wells, splits, seed=0):
    where = (wells[name].to_numpy().astype(str) for name in ("well", "plate"))
    return control_splits(*where, wells["is_control"].to_numpy(), splits, seed, "g")


def spaces_of(x, wells, splits, steps="plate_standardise"):
    return [
        Space(normalise(x, part.fit, wells["plate"], steps).features, part.negatives) for part in split(wells, splits)
    ]


@pytest.mark.parametrize(("splits", "blocks", "pool"), [(1, 2, 1 / 2), (3, 4, 1 / 4), (4, 6, 1 / 3), (5, 8, 3 / 8)])
def test_every_fit_has_half_of_the_positions_and_the_pool_is_in_none(splits, blocks, pool):
    _, wells = layout(controls=24)
    parts, control = split(wells, splits), wells["is_control"].to_numpy()
    assert blocks_of(splits) == blocks
    for part in parts:
        assert part.fit.sum() == part.negatives.sum() == 24
        assert ((part.fit ^ part.negatives) == control).all()
        assert not set(wells["well"].to_numpy()[part.fit]) & set(wells["well"].to_numpy()[part.negatives])
    outside = pool_of(parts)
    assert outside.sum() == pool * control.sum()
    assert not any((outside & part.fit).any() for part in parts)


def test_plates_of_their_own_layouts_have_controls_in_every_fit():
    """Controls at other positions on every plate: dealt at random a plate could miss a fit; dealt plate by plate none does."""
    wells = pl.DataFrame(
        [{"plate": f"P{plate}", "well": f"D{plate}{i}", "is_control": True} for plate in range(5) for i in range(6)]
    )
    for part in split(wells, 4):
        counts = wells.filter(pl.Series(part.fit)).group_by("plate").len()
        assert counts["len"].to_list() == [3] * 5


def test_too_few_positions_are_refused_and_so_are_two_splits():
    _, wells = layout(controls=5)
    with pytest.raises(DataError, match="4 splits of the controls need 6 well positions at least, and they are at 5"):
        split(wells, 4)
    with pytest.raises(ValueError, match="not 2 times"):
        split(wells, 2)


def test_scores_over_splits_are_the_means_of_the_splits_and_of_each_other():
    x, wells = layout(effect=1.0)
    spaces = spaces_of(x, wells, 3)
    several = activity_in(spaces, wells, Chance(null_size=100), key=KEY)
    apart = [
        phenotypic_activity(
            space.features,
            wells.with_columns(is_control=pl.Series(space.is_negative), is_treated=~pl.col("is_control")),
            Chance(null_size=100),
            key=KEY,
        )
        for space in spaces
    ]
    for name in ("ap", "normalised_ap"):
        expected = np.mean([scores.wells[name].to_numpy() for scores in apart], axis=0)
        np.testing.assert_allclose(several.wells[name].to_numpy(), expected, rtol=1e-12)
    expected = np.mean([scores.compounds["map"].to_numpy() for scores in apart], axis=0)
    np.testing.assert_allclose(several.compounds["map"].to_numpy(), expected, rtol=1e-12)


def test_p_over_splits_equals_the_enumeration_of_all_exchanges_with_the_pool():
    """One compound on two plates; every pseudo-compound of it and of the pool, its mean mAP over the splits by sorting."""
    x, wells = layout(controls=8, compounds=1, seed=3, effect=0.5)
    spaces = spaces_of(x, wells, 3)
    pool = pool_of(spaces)
    plate, own = wells["plate"].to_numpy(), np.flatnonzero(~wells["is_control"].to_numpy())

    def statistic(chosen):
        maps = []
        for space in spaces:
            unit = space.features / np.linalg.norm(space.features, axis=1, keepdims=True)
            negative = space.is_negative.copy()
            negative[own] = True
            negative[list(chosen)] = False
            scores = []
            for query, mate in (chosen, chosen[::-1]):
                against = np.flatnonzero(negative & (plate == plate[query]))
                above = (unit[against] @ unit[query] > unit[mate] @ unit[query]).sum()
                scores.append(1 / (1 + above))
            maps.append(np.mean(scores))
        return np.mean(maps)

    places = [np.flatnonzero((pool | np.isin(np.arange(len(x)), own)) & (plate == name)) for name in ("P0", "P1")]
    every = np.array([statistic(pair) for pair in itertools.product(*places)])
    exact = (every >= statistic(tuple(own)) - 1e-10).mean()
    found = activity_in(spaces, wells, Chance(null_size=20_000), key=KEY, stop_early=False).compounds
    assert found["map"].item() == pytest.approx(statistic(tuple(own)), abs=1e-12)
    assert found["p"].item() == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-3)
    assert found["least_p"].item() == pytest.approx(1 / len(every))


def test_the_order_of_rows_changes_no_bit():
    x, wells = layout(effect=0.7, controls=16)
    order = np.random.default_rng(1).permutation(len(wells))
    straight = activity_in(spaces_of(x, wells, 4, "none"), wells, Chance(null_size=300), key=KEY)
    shuffled = wells[order]
    turned = activity_in(spaces_of(x[order], shuffled, 4, "none"), shuffled, Chance(null_size=300), key=KEY)
    assert_frame_equal(straight.compounds, turned.compounds, check_exact=True)


def test_a_test_that_cannot_reject_says_so_and_gives_no_fraction():
    """Ten compounds of 50 sd on 2 plates of 4 controls: the least p is 1/25. Two plates of 2 controls: 1/9, which is too large."""
    x, wells = layout(controls=4, compounds=10, effect=50.0)
    scores = phenotypic_activity(x, wells, Chance(), key=KEY)
    assert scores.groups["least_p_corrected"].item() == pytest.approx(1 / 25)
    assert scores.groups["fraction_retrieved"].item() == 1
    x, wells = layout(controls=2, compounds=10, effect=50.0)
    scores = phenotypic_activity(x, wells, Chance(), key=KEY)
    assert set(scores.compounds["status"]) == {CANNOT_REJECT}
    assert scores.compounds["least_p"].to_list() == pytest.approx([1 / 9] * 10)
    assert scores.compounds["retrieved"].null_count() == 10
    assert scores.compounds["p"].null_count() == 0
    assert scores.groups.select("fraction_retrieved", "status").row(0) == (None, CANNOT_REJECT)


@pytest.mark.parametrize(("controls", "strict", "least"), [(8, False, 1 / 9), (8, True, 1 / 1001), (40, False, 1 / 41)])
def test_the_least_p_of_copairs_null_is_one_of_all_orders_of_a_list(controls, strict, least):
    x, wells = layout(controls=controls, effect=50.0)
    found = phenotypic_activity(x, wells, Chance("copairs", null_size=1000, strict=strict), key=KEY).compounds
    assert found["least_p"].to_list() == pytest.approx([least] * 4)
