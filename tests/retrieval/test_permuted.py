"""The floor of permuted profiles: what it permutes, in whose order, and what it says when it cannot."""

import numpy as np
import pytest

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.floors.permuted import NUMBERS, permuted_floor

PLATE = np.repeat(["P1", "P2", "P3"], 8)
EVERYONE = np.ones(24, bool)
DRAW = {"what": "test", "seed": 0, "repeats": 4}


def seen(score=None, **changes):
    """(what the floor gives, the rows it asked for)."""
    asked = []

    def record(rows):
        asked.append(rows.copy())
        return dict.fromkeys(NUMBERS, float(rows[0])) if score is None else score(rows)

    given = {"plate": PLATE, "movable": EVERYONE, **DRAW, **changes}
    return permuted_floor(record, **given), asked


def test_profiles_change_places_within_their_plate_alone():
    found, asked = seen()
    assert len(asked) == 4
    for rows in asked:
        assert sorted(rows) == list(range(24))
        assert (PLATE[rows] == PLATE).all()
        assert (rows != np.arange(24)).any()
    assert found["status"] == "ok"
    assert found["mean_map"] == pytest.approx(np.mean([rows[0] for rows in asked]))


def test_wells_that_are_not_movable_stay():
    movable = np.arange(24) % 3 > 0
    _, asked = seen(movable=movable)
    for rows in asked:
        assert (rows[~movable] == np.flatnonzero(~movable)).all()


def test_nothing_depends_on_the_order_of_rows():
    names = np.array([f"W{i:02d}" for i in range(24)])
    shuffled = np.random.default_rng(1).permutation(24)
    _, asked = seen(names=names)
    _, other = seen(names=names[shuffled], plate=PLATE[shuffled])
    for rows, moved in zip(asked, other, strict=True):
        np.testing.assert_array_equal(names[shuffled][moved], names[rows][shuffled])


def test_draws_are_those_of_seed_and_task():
    _, asked = seen()
    for change in ({"seed": 1}, {"what": "other"}):
        assert any((a != b).any() for a, b in zip(asked, seen(**change)[1], strict=True))
    np.testing.assert_array_equal(asked, seen()[1])


def test_what_cannot_be_permuted_or_scored_has_its_reason():
    assert seen(movable=np.isin(np.arange(24), [0, 8, 16]))[0] == {"status": "one_well_per_plate"}
    assert seen(movable=~EVERYONE)[0] == {"status": "one_well_per_plate"}

    def fails(rows):
        raise DataError("no query")

    assert seen(fails)[0] == {"status": "not scored: no query"}


@pytest.mark.parametrize("missing", NUMBERS)
def test_a_number_that_is_null_stays_null(missing):
    found, _ = seen(lambda rows: {**dict.fromkeys(NUMBERS, 1.0), missing: None})
    assert found == {**dict.fromkeys(NUMBERS, 1.0), missing: None, "status": "ok"}
