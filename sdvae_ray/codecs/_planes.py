"""Shared by the codecs: the loop over planes, the change of bit depth, the checks of their options."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdvae_ray.errors import ConfigError, did_you_mean

DEPTHS = {np.dtype(np.uint8): 8, np.dtype(np.uint16): 16}


@dataclass(frozen=True)
class PlaneCodec:
    """A codec that compresses every plane by itself.

    encode  (S, S) uint8 or uint16 -> the bytes of the whole file
    decode  the bytes, and the dtype that was encoded -> (S, S) of that dtype
    """

    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes, np.dtype], np.ndarray]

    def roundtrip(self, stains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (decoded planes, sizes in bytes as (N, C) int64) of stains (N, C, S, S), uint8 or uint16; decoded planes alike.

        Raises TypeError for another dtype, ValueError for another shape.
        """
        depth(stains.dtype)
        if stains.ndim != 4:
            raise ValueError(f"a codec takes (N, C, S, S), not {stains.shape}")
        recon, sizes = np.empty(stains.shape, stains.dtype), np.empty(stains.shape[:2], np.int64)
        for index in np.ndindex(*sizes.shape):
            data = self.encode(np.ascontiguousarray(stains[index]))
            recon[index], sizes[index] = self.decode(data, stains.dtype), len(data)
        return recon, sizes


def depth(dtype: np.dtype) -> int:
    """Return the bits of uint8 or uint16. Raises TypeError for any other dtype."""
    if dtype not in DEPTHS:
        raise TypeError(f"a codec takes uint8 or uint16, not {dtype}")
    return DEPTHS[dtype]


def rescale(plane: np.ndarray, bits_in: int, bits_out: int) -> np.ndarray:
    """Return integers of `bits_in` bits as integers of `bits_out` bits, rounded to nearest, half up; 0 and full scale stay.

    From fewer bits to more and back is the identity. The dtype is uint8 for up to 8 bits, else uint16.
    """
    top_in, top_out = 2**bits_in - 1, 2**bits_out - 1
    values = (plane.astype(np.uint32) * top_out + top_in // 2) // top_in  # 65535 squared fits
    return values.astype(np.uint8 if bits_out <= 8 else np.uint16)


def run(function: str, data: Any, **options: Any) -> Any:
    """Return the result of a function of imagecodecs, which is imported at the first call."""
    import imagecodecs

    return getattr(imagecodecs, function)(data, **options)


def require(codec: str, library: str) -> None:
    """Raise ConfigError if imagecodecs was built without the library."""
    import imagecodecs

    if not getattr(imagecodecs, library).available:
        raise ConfigError(f"{codec}: the installed imagecodecs was built without {library}")


def whole(codec: str, option: str, value: Any, low: int, high: int) -> int:
    """Return `value` if it is an integer from `low` to `high`. Raises ConfigError for any other value."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{codec}: {option} is {value!r} (allowed: whole numbers from {low} to {high})")
    return value


def number(codec: str, option: str, value: Any, above: float, high: float) -> float:
    """Return `value` if it is a number over `above` and up to `high`. Raises ConfigError for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= high:
        raise ConfigError(f"{codec}: {option} is {value!r} (allowed: numbers over {above:g}, up to {high:g})")
    return float(value)


def choice(codec: str, option: str, value: Any, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`. Raises ConfigError for any other value."""
    names = list(allowed)
    if value not in names:
        raise ConfigError(f"{codec}: no {option} {value!r}{did_you_mean(str(value), names)}")
    return str(value)
