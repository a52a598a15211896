"""The file of a latent: what a side of an autoencoder would take on a disk, counted in bytes and read back to the last bit.

One file holds the latents of one RGB pass of a field of view, as a codec writes one file per stain. Level numbers of a quantised
latent are one grey image, channel below channel and patches at their places in the field, in lossless JPEG XL, whose predictor sees
what neighbours have in common: on full fields the file is smaller than the entropy of order zero. Values that are not quantised are
coded by pcodec (quantile compression), channel by channel.

    bytes    content
    1        bits of a level number; 0: values as they are
    1        bytes of a value
    6        patches, channels, size: uint16 each
    4 Z      least and largest value of every channel in the field, float16, where levels were counted
    rest     one JPEG XL codestream; or for every channel the length of its stream, uint32, and the stream
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from sdvae_ray.engine import rate
from sdvae_ray.images.prepare import tile, untile

_HEAD = struct.Struct("<BBHHH")
_LENGTH = struct.Struct("<I")
_EFFORT = 5  # of JPEG XL: 7 gains 1 % and takes twice the time
_LEVEL = 8  # of pcodec, its default


def encode(latent: np.ndarray, bits: int | None) -> list[bytes]:
    """Return one file per pass of the latents of a field, (P, T, Z, s, s) float16 or float32, P patches of a square field.

    bits: `latent` has 2^bits levels, as `rate.quantise` gives them; None: it is not quantised. Levels that do not give back every
    value, such as 2^12 of them in a narrow range, are not counted.
    """
    patches, passes, channels, size, _ = latent.shape
    if bits is not None:
        flat = latent.reshape(-1, channels, size, size).astype(np.float32)
        low, high = (reduce(flat, (0, 2, 3)).astype(np.float16) for reduce in (np.min, np.max))
        _, levels = rate.quantise(torch.from_numpy(np.nan_to_num(flat)), bits)
        symbols = levels.numpy().reshape(latent.shape)
        if np.array_equal(_values(symbols, low, high, bits, latent.dtype), latent):
            head = _HEAD.pack(bits, latent.itemsize, patches, channels, size) + low.tobytes() + high.tobytes()
            return [head + _image_file(untile(symbols[:, number]), bits) for number in range(passes)]
    head = _HEAD.pack(0, latent.itemsize, patches, channels, size)
    return [head + b"".join(map(_stream, untile(latent[:, number]))) for number in range(passes)]


def decode(data: bytes) -> np.ndarray:
    """Return the latents of a file, those of one pass, (P, Z, s, s) float16 or float32."""
    bits, itemsize, patches, channels, size = _HEAD.unpack_from(data)
    rest, dtype = data[_HEAD.size :], np.dtype(f"f{itemsize}")
    side = round(patches**0.5) * size
    if not bits:
        planes = [_codecs().pcodec_decode(stream, (side, side), dtype) for stream in _streams(rest)]
        return tile(np.stack(planes), size)
    low, high = np.frombuffer(rest[: 4 * channels], np.float16).reshape(2, channels)
    image = _codecs().jpegxl_decode(rest[4 * channels :], numthreads=1)
    symbols = tile(image.reshape(channels, side, side), size)
    return _values(symbols.astype(np.int64), low, high, bits, dtype)


def _values(symbols: np.ndarray, low: np.ndarray, high: np.ndarray, bits: int, dtype: np.dtype) -> np.ndarray:
    """Return the values of level numbers (..., Z, s, s)."""
    least, largest = (torch.from_numpy(end.astype(np.float32)).view(-1, 1, 1) for end in (low, high))
    return rate.level_values(torch.from_numpy(symbols), least, largest, bits).numpy().astype(dtype)


def _image_file(planes: np.ndarray, bits: int) -> bytes:
    image = planes.reshape(-1, planes.shape[-1]).astype(np.uint8 if bits <= 8 else np.uint16)
    container = None if bits > 8 else False  # libjxl must declare a level for 16 bits
    return bytes(_codecs().jpegxl_encode(image, effort=_EFFORT, lossless=True, usecontainer=container, numthreads=1))


def _stream(plane: np.ndarray) -> bytes:
    stream = bytes(_codecs().pcodec_encode(np.ascontiguousarray(plane), _LEVEL))
    return _LENGTH.pack(len(stream)) + stream


def _streams(data: bytes) -> Iterator[bytes]:
    while data:
        (length,) = _LENGTH.unpack_from(data)
        yield data[_LENGTH.size : _LENGTH.size + length]
        data = data[_LENGTH.size + length :]


def _codecs() -> Any:
    import imagecodecs  # late: it takes a moment, and the driver needs none of it

    return imagecodecs
