"""Fast scaling gives, bit for bit, the integers of the formula in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdvae_ray.images.scaling import scale_plane, table

EVERY_VALUE = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def formula(plane: np.ndarray, function: np.ndarray | None, offset: float, divisor: float, bits: int) -> np.ndarray:
    """clip((pixel / illumination - offset) / divisor, 0, 2^bits - 1), truncated, in float64."""
    corrected = plane.astype(np.float64) if function is None else plane.astype(np.float64) / function
    return np.clip((corrected - offset) / divisor, 0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)


def fast(plane: np.ndarray, function: np.ndarray | None, offset: float, divisor: float, bits: int) -> np.ndarray:
    out = np.full(plane.shape, 77, np.uint8 if bits == 8 else np.uint16)
    scale_plane(plane, function, offset, divisor, bits, out)
    return out


CONSTANTS = [
    (0, 256),
    (0, 1),
    (0, 257),
    (0, 255),
    (0, 3),
    (0, 65535),
    (0, 0.1),
    (0, 1e6),
    (113.7, 3.9),
    (500, 42.123456789),
    (70000, 2),
    (-50, 99.5),
]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("offset", "divisor"), CONSTANTS)
def test_the_table_holds_the_formula_for_every_value_of_sixteen_bits(offset, divisor, bits):
    expected = formula(EVERY_VALUE, None, offset, divisor, bits)
    np.testing.assert_array_equal(table(offset, divisor, bits).to_numpy(), expected.ravel())
    np.testing.assert_array_equal(fast(EVERY_VALUE, None, offset, divisor, bits), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2", np.uint32, np.float32, ">f4"])
@pytest.mark.parametrize("lit", [False, True])
def test_a_plane_of_any_type_is_scaled_by_the_formula(dtype, lit):
    plane = (EVERY_VALUE if np.dtype(dtype).itemsize > 1 else EVERY_VALUE % 256).astype(dtype)
    function = np.random.default_rng(0).uniform(0.3, 3, plane.shape) if lit else None
    np.testing.assert_array_equal(fast(plane, function, 20.5, 33.3, 8), formula(plane, function, 20.5, 33.3, 8))


def test_a_part_of_a_larger_plane_is_scaled_by_the_formula():
    plane, function = EVERY_VALUE[3:203, 50:250], np.random.default_rng(0).uniform(0.3, 3, (210, 211))[5:205, 5:205]
    np.testing.assert_array_equal(fast(plane, None, 0, 256, 8), formula(plane, None, 0, 256, 8))
    expected = formula(plane, function, 0, 256, 8)
    np.testing.assert_array_equal(fast(plane, function, 0, 256, 8), expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("offset", "divisor"), [*CONSTANTS, (1e8, 3), (5, 1e-30), (0, 1e30)])
@pytest.mark.parametrize("kind", ["smooth", "ones", "quarters", "tiny", "huge"])
def test_with_illumination_every_pixel_is_that_of_float64(kind, offset, divisor, bits):
    plane = np.random.default_rng(0).permutation(EVERY_VALUE.ravel()).reshape(256, 256)
    function = {
        "smooth": 1 + np.hypot(*np.mgrid[-1:1:256j, -1:1:256j]) / 3,
        "ones": np.ones((256, 256)),  # most quotients lie on a step of the result
        "quarters": np.random.default_rng(1).integers(1, 9, (256, 256)) / 4,
        "tiny": np.where(EVERY_VALUE % 3, 1e-6, 1e-45),
        "huge": np.where(EVERY_VALUE % 3, 1e40, 3e4),
    }[kind]
    expected = formula(plane, function, offset, divisor, bits)
    np.testing.assert_array_equal(fast(plane, function, offset, divisor, bits), expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.floats(-1e4, 1e5), st.floats(1e-3, 1e4), st.floats(1e-6, 10), st.sampled_from([8, 16])
)
def test_with_any_illumination_and_constants_every_pixel_is_that_of_float64(seed, offset, divisor, least, bits):
    random = np.random.default_rng(seed)
    plane = random.integers(0, 65536, (70, 70), dtype=np.uint16)
    function = random.uniform(least, least + 2, plane.shape)
    expected = formula(plane, function, offset, divisor, bits)
    np.testing.assert_array_equal(fast(plane, function, offset, divisor, bits), expected)
