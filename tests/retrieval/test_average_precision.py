"""Average precision by counting against slow obvious loops, scikit-learn and copairs."""

import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from activity_lists import ranked_by_codes
from sklearn.metrics import average_precision_score

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.arrays import unit_rows
from sdvae_ray.retrieval.ranking.formula import expected_average_precision, normalised_average_precision

PROFILES = Path(__file__).parents[2].parent / "shared" / "data" / "profiles"


def layout(seed=0, plates=3, compounds=5, controls=6, features=7, levels=None):
    """Random wells: one of each compound on each plate (compound 0 twice on the first), and controls."""
    random = np.random.default_rng(seed)
    compound = np.concatenate([np.tile(np.arange(compounds), plates), [0], np.full(controls * plates, -1)])
    plate = np.concatenate([np.repeat(np.arange(plates), compounds), [0], np.repeat(np.arange(plates), controls)])
    x = random.normal(size=(len(compound), features)) + random.normal(size=(compounds + 1, features))[compound]
    if levels is not None:
        x = random.integers(1, levels + 1, size=x.shape).astype(float)
    return x, compound, compound < 0, plate


def lists(x, compound, is_control, scope):
    """Yield (well, similarities of its positives, of its negatives)."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for q in np.flatnonzero(compound >= 0):
        positives = np.flatnonzero((compound == compound[q]) & (np.arange(len(x)) != q))
        negatives = np.flatnonzero(is_control & (scope == scope[q]))
        yield q, unit[positives] @ unit[q], unit[negatives] @ unit[q]


def naive(positives, negatives):
    ranked = sorted([(s, 1) for s in positives] + [(s, 0) for s in negatives], reverse=True)
    hits = [rank for rank, (_, positive) in enumerate(ranked, start=1) if positive]
    return sum((i + 1) / rank for i, rank in enumerate(hits)) / len(hits)


def arranged(labels):
    hits = np.flatnonzero(labels) + 1
    return (np.arange(1, len(hits) + 1) / hits).mean()


@pytest.mark.parametrize("by_plate", [True, False])
def test_ap_equals_a_loop_over_sorted_lists(by_plate):
    x, compound, is_control, plate = layout()
    scope = plate if by_plate else np.zeros_like(plate)
    out = ranked_by_codes(x, compound, is_control, scope)
    for q, positives, negatives in lists(x, compound, is_control, scope):
        assert out.ap[q] == pytest.approx(naive(positives, negatives), abs=1e-12)
        assert (out.positives[q], out.negatives[q]) == (len(positives), len(negatives))
    assert np.isnan(out.ap[is_control]).all()


def test_ap_equals_sklearn_without_ties():
    x, compound, is_control, plate = layout(seed=1)
    out = ranked_by_codes(x, compound, is_control, plate)
    for q, positives, negatives in lists(x, compound, is_control, plate):
        truth = np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
        assert out.ap[q] == pytest.approx(average_precision_score(truth, np.r_[positives, negatives]), abs=1e-12)


def test_ties_give_the_mean_over_all_orders_of_the_level_wells():
    x, compound, is_control, plate = layout(seed=2, plates=2, controls=3, features=2, levels=2)
    out = ranked_by_codes(x, compound, is_control, plate)
    tied = 0
    for q, positives, negatives in lists(x, compound, is_control, plate):
        scores = np.round(np.r_[positives, negatives], 9)
        labels = np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
        orders = [
            arranged(labels[list(order)])
            for order in itertools.permutations(range(len(scores)))
            if (np.diff(scores[list(order)]) <= 0).all()
        ]
        tied += len(orders) > 1
        assert out.ap[q] == pytest.approx(np.mean(orders), abs=1e-12)
    assert tied > 3


def test_profiles_that_point_the_same_way_are_level_whatever_the_rounding():
    random = np.random.default_rng(0)
    query, direction = random.normal(size=(2, 37))
    x = np.stack([query, *(direction * scale for scale in random.uniform(0.1, 10, size=9))])
    out = ranked_by_codes(x, [0, 0, *[-1] * 8], np.arange(10) > 1, np.zeros(10))
    assert out.ap[0] == pytest.approx(np.mean(1 / np.arange(1, 10)), abs=1e-12)


def test_the_copairs_tie_rule_puts_positives_first():
    x = np.ones((5, 3))
    out = ranked_by_codes(x, [0, 0, -1, -1, -1], [False, False, True, True, True], np.zeros(5), ties="copairs")
    assert out.ap[0] == 1.0
    even = ranked_by_codes(x, [0, 0, -1, -1, -1], [False, False, True, True, True], np.zeros(5))
    assert even.ap[0] == pytest.approx(np.mean([1, 1 / 2, 1 / 3, 1 / 4]))


@pytest.mark.parametrize("by_plate", [True, False])
def test_ap_equals_copairs_for_every_well_of_real_plates(by_plate):
    if not PROFILES.exists():
        pytest.skip(f"real CPJUMP1 profiles are not at {PROFILES}")
    copairs = pytest.importorskip("copairs.map", reason="copairs is a test dependency")
    pandas = pytest.importorskip("pandas")
    table = pl.concat(
        [pl.read_csv(f, infer_schema_length=None) for f in sorted(PROFILES.glob("*.csv.gz"))[:2]],
        how="diagonal_relaxed",
    )
    names = [c for c in table.columns if not c.startswith("Metadata_") and "Brightfield" not in c and "ZBF" not in c]
    x = table.select(pl.col(names).cast(pl.Float64)).to_numpy()
    is_control = (table["Metadata_control_type"] == "negcon").fill_null(False).to_numpy()
    compound = table["Metadata_broad_sample"].rank("dense").fill_null(0).to_numpy().astype(int) - 1
    plate = table["Metadata_Plate"].rank("dense").to_numpy().astype(int)
    meta = pandas.DataFrame({"compound": compound, "plate": plate, "is_control": is_control})
    theirs = copairs.average_precision(
        meta, x, ["compound"], [], ["plate"] if by_plate else [], ["is_control"], progress_bar=False
    )["average_precision"].to_numpy()
    ours = ranked_by_codes(x, compound, is_control, plate if by_plate else np.zeros_like(plate), ties="copairs")
    assert (~is_control).sum() == 640
    np.testing.assert_allclose(ours.ap[~is_control], theirs[~is_control], rtol=0, atol=1e-6)


def test_block_size_changes_nothing():
    x, compound, is_control, plate = layout(seed=3, levels=3)
    whole = ranked_by_codes(x, compound, is_control, plate * 0)
    for block in (1, 3, 7):
        np.testing.assert_array_equal(ranked_by_codes(x, compound, is_control, plate * 0, block=block).ap, whole.ap)


def test_row_order_and_scale_change_nothing():
    x, compound, is_control, plate = layout(seed=4)
    ap = ranked_by_codes(x, compound, is_control, plate).ap
    random = np.random.default_rng(0)
    order = random.permutation(len(x))
    scaled = x * random.uniform(1e-3, 1e3, size=(len(x), 1))
    again = ranked_by_codes(scaled[order], compound[order], is_control[order], plate[order]).ap
    np.testing.assert_array_equal(again, ap[order])


def test_an_all_zero_profile_is_flagged_and_as_good_as_random():
    x, compound, is_control, plate = layout()
    x[4] = 0
    out = ranked_by_codes(x, compound, is_control, plate)
    assert np.flatnonzero(out.zero_norm).tolist() == [4]
    chance = expected_average_precision(out.positives[4], out.positives[4] + out.negatives[4])
    assert out.ap[4] == pytest.approx(float(chance), abs=1e-12)


def test_a_well_without_positives_or_negatives_has_no_ap():
    x = np.eye(4)
    single = ranked_by_codes(x, [0, 1, 1, -1], [False, False, False, True], np.zeros(4))
    assert np.isnan(single.ap[0])
    assert (single.positives[0], single.negatives[0]) == (0, 1)
    uncontrolled = ranked_by_codes(x, [0, 0, 1, -1], [False, False, False, True], [0, 1, 1, 1])
    assert np.isnan(uncontrolled.ap[0])
    assert not np.isnan(uncontrolled.ap[1])


def test_expected_ap_is_the_mean_over_all_arrangements():
    for total in range(1, 8):
        for m in range(1, total + 1):
            every = [
                arranged([i in chosen for i in range(total)]) for chosen in itertools.combinations(range(total), m)
            ]
            assert expected_average_precision(m, total) == pytest.approx(np.mean(every), abs=1e-12)
    assert np.isnan(expected_average_precision([0, 4], [3, 3])).all()


def test_normalised_ap_is_0_at_random_and_1_when_perfect():
    mu0 = expected_average_precision(3, 20)
    np.testing.assert_allclose(normalised_average_precision([mu0, 1.0], 3, 20), [0.0, 1.0], atol=1e-12)
    assert np.isnan(normalised_average_precision(1.0, 3, 3))


def test_tiny_profiles_keep_their_direction():
    np.testing.assert_allclose(unit_rows([[3e-200, 4e-200], [0.0, 0.0]]), [[0.6, 0.8], [0.0, 0.0]], atol=1e-15)


def test_profiles_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="1 profiles"):
        ranked_by_codes([[1.0, np.inf], [1.0, 2.0]], [0, 0], [False, False], [0, 0])
