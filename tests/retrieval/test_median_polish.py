"""The step median_polish: against loops over one plate, and on effects of rows and columns that are drawn and known."""

import numpy as np
import pytest

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.normalisation.contract import apply
from sdvae_ray.retrieval.normalisation.normalise import normalise
from sdvae_ray.retrieval.normalisation.wells import Wells

ROWS, COLUMNS, FEATURES = "ABCDEF", 8, 3
PLACES = np.array([f"{row}{column:02d}" for row in ROWS for column in range(1, COLUMNS + 1)])


def drawn(plates: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(noise of a screen (W, 3), effect of every place, plate, position): one effect of every row and column on all plates."""
    random = np.random.default_rng(seed)
    rows, columns = random.normal(0, 3, (len(ROWS), 1, FEATURES)), random.normal(0, 3, (1, COLUMNS, FEATURES))
    effect = np.tile((rows + columns).reshape(-1, FEATURES), (plates, 1))
    level = np.repeat(random.normal(0, 10, (plates, FEATURES)), len(PLACES), axis=0)
    noise = level + random.normal(0, 0.1, effect.shape)
    return noise, effect, np.repeat([f"P{at}" for at in range(plates)], len(PLACES)), np.tile(PLACES, plates)


def polished_slowly(table: np.ndarray, sweeps: int) -> np.ndarray:
    """Tukey's sweeps over one table (rows, columns): rows and columns less their effects, the level kept."""
    rest, rows, columns, level = table.astype(float).copy(), [0.0] * len(table), [0.0] * len(table[0]), 0.0
    for _ in range(sweeps):
        whole = float(np.median(rest))
        level, rest = level + whole, rest - whole
        for at in range(len(rows)):
            middle = float(np.median(rest[at]))
            rows[at] += middle
            rest[at] -= middle
        for at in range(len(columns)):
            middle = float(np.median(rest[:, at]))
            columns[at] += middle
            rest[:, at] -= middle
    row_effects = np.array(rows) - np.median(rows)
    column_effects = np.array(columns) - np.median(columns)
    return table - row_effects[:, None] - column_effects[None, :]


@pytest.mark.parametrize("per", ["group", "plate"])
def test_one_plate_is_polished_as_by_loops_over_its_table(per):
    noise, effect, plate, position = drawn(plates=1)
    x = noise + effect
    out = normalise(
        x, np.ones(len(x), bool), plate, [{"median_polish": {"iterations": 4, "per": per}}], position=position
    )
    for feature in range(FEATURES):
        table = x[:, feature].reshape(len(ROWS), COLUMNS)
        np.testing.assert_allclose(out.features[:, feature].reshape(table.shape), polished_slowly(table, 4), atol=1e-12)
    assert out.record[0] | {"rows": 6, "columns": 8} == out.record[0]


@pytest.mark.parametrize("per", ["group", "plate"])
def test_effects_fitted_on_controls_leave_the_treated_wells_too(per):
    """Two thirds of the places hold controls, in every row and column; the level of a plate stays."""
    noise, effect, plate, position = drawn(plates=3)
    control = np.tile((np.add.outer(np.arange(len(ROWS)), np.arange(COLUMNS)) % 3 > 0).ravel(), 3)
    out = normalise(noise + effect, control, plate, [{"median_polish": {"per": per}}], position=position)
    left = out.features - noise
    for name in np.unique(plate):
        treated = left[(plate == name) & ~control]
        assert treated.std(axis=0).max() < 0.15 < 1 < effect[(plate == name) & ~control].std(axis=0).min()
    shrunk = normalise(
        noise + effect, control, plate, [{"median_polish": {"per": per, "prior": 1e9}}], position=position
    )
    np.testing.assert_allclose(shrunk.features, noise + effect, atol=1e-6)


def test_a_well_whose_row_and_column_have_no_control_is_not_moved():
    noise, effect, plate, position = drawn(plates=2)
    inside = ~np.char.startswith(position, "F") & ~np.char.endswith(position, "08")
    out = normalise(noise + effect, inside, plate, ["median_polish"], position=position)
    corner = position == "F08"
    np.testing.assert_array_equal(out.features[corner], (noise + effect)[corner])
    one = np.zeros(1, bool)
    for place, moved in (("A01", True), ("", False)):
        well = Wells(one, one, np.array(["P0"]), np.array(["P0"]), np.zeros(1, np.int64), np.array([place]))
        assert (apply(out.chain, np.zeros((1, FEATURES)), well) != 0).all() == moved


def test_positions_that_say_no_row_are_refused():
    noise, effect, plate, _ = drawn(plates=2)
    with pytest.raises(DataError, match="no well of the fit has a position"):
        normalise(noise + effect, np.ones(len(plate), bool), plate, ["median_polish"])
