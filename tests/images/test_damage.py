"""Damaged files of every kind: a decoder gives pixels or one DecodeError, and asks for no more memory than such a file can need."""

import io
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tifffile
from damage import damaged
from PIL import Image

from sdvae_ray.images.decode import DecodeError, decode_colours, decode_illumination, decode_planes

MOST = 2 * 2**28  # bytes: what the planes of a small file may take, and one strip or tile beside them
TIFFS: tuple[dict[str, object], ...] = (
    {},
    {"compression": "lzw"},
    {"compression": "lzw", "predictor": 2},
    {"compression": "zlib", "tile": (16, 16)},
    {"compression": "zstd"},
    {"compression": "packbits", "rowsperstrip": 7},
    {"compression": "lzw", "bigtiff": True, "ome": True},
    {"compression": "jpeg", "planarconfig": None},
)
Decode = Callable[[bytes], object]


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(40, (48, 40)).astype(np.uint16)


def a_tiff(kind: int) -> bytes:
    options = dict(TIFFS[kind % len(TIFFS)])
    image = pixels(kind)
    if options.pop("planarconfig", 0) is None:
        image = image.astype(np.uint8)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, photometric="minisblack", **options)
    return buffer.getvalue()


def a_npy(kind: int) -> bytes:
    buffer = io.BytesIO()
    function = pixels(kind).astype((np.float64, np.float32, np.uint16)[kind % 3])
    np.lib.format.write_array(buffer, np.asfortranarray(function) if kind % 2 else function, version=(1 + kind % 2, 0))
    return buffer.getvalue()


def a_photograph(kind: int) -> bytes:
    buffer = io.BytesIO()
    name = ("PNG", "PNG", "PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")[kind % 8]
    Image.fromarray(np.stack([pixels(kind).astype(np.uint8)] * 3, -1)).save(buffer, name)
    return buffer.getvalue()


def survey(make: Callable[[int], bytes], decode: Decode, count: int, seed: int) -> dict[str, int]:
    """Decode `count` damaged files; return how many were decoded and refused. Any other error is raised."""
    random, refusals = np.random.default_rng(seed), []
    whole = [make(kind) for kind in range(24)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            try:
                decode(damaged(whole[number % len(whole)], random))
            except DecodeError as error:
                # the error itself holds the frames that it came through, and their arrays
                refusals.append((str(error), type(error.__cause__)))
    assert not [refusal for refusal in refusals if refusal[1] is MemoryError or "\n" in refusal[0]]
    return {"decoded": count - len(refusals), "refused": len(refusals)}


@pytest.fixture
def bounded() -> Iterator[None]:
    """Memory that the test asks for, as numpy and Python count it, stays under MOST."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MOST


def plane(data: bytes) -> object:
    return decode_planes(data, [0], "x")


def colours(data: bytes) -> object:
    return decode_colours(data, [0, 1, 2], "x")


def function(data: bytes) -> object:
    return decode_illumination(data, "x")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize(
    ("make", "decode", "count"),
    [(a_tiff, plane, 400), (a_npy, function, 400), (a_photograph, colours, 200)],
    ids=["TIFF", "npy", "photographs"],
)
def test_a_damaged_file_is_decoded_or_refused_and_asks_for_little(make, decode, count, seed, bounded):
    for kind in range(24):
        decode(make(kind))
    outcomes = survey(make, decode, count if seed == 0 else 6 * count, seed)
    assert min(outcomes.values()) > count / 20, outcomes


def header(text: str) -> bytes:
    """The start of a .npy file of version 1.0 with this header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    "data",
    [
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 100000), }\n") + bytes(80),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }\n") + bytes(80),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 8), }\n") + bytes(640),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2\n") + bytes(80),
        header("'''\n"),
        header("(" * 9000),
        b"PK\x03\x04" + bytes(80),
        b"",
    ],
    ids=["80 GB", "objects", "negative", "open bracket", "open text", "brackets", "zip", "empty"],
)
def test_a_npy_that_is_no_function_is_refused_before_memory_is_asked_for(data, bounded):
    with pytest.raises(DecodeError, match="truncated or corrupt: x"):
        decode_illumination(data, "x")


@pytest.mark.parametrize("kept", [0, 1])
def test_a_small_tiff_that_claims_hundreds_of_gigabytes_is_refused(kept, bounded):
    data = bytearray(a_tiff(kept))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for name, value in (("ImageWidth", 400_000), ("ImageLength", 400_000), ("RowsPerStrip", 400_000)):
            tag = file.pages[0].tags[name]
            struct.pack_into(
                "<I" if tag.dtype.name == "LONG" else "<H",
                data,
                tag.valueoffset,
                value if tag.dtype.name == "LONG" else 65535,
            )
    with pytest.raises(DecodeError, match="its header claims a plane of"):
        decode_planes(bytes(data), [0], "x")


@pytest.mark.filterwarnings("ignore")  # Pillow's own bound warns, and refuses at twice its number
@pytest.mark.parametrize("side", [9_000, 12_000, 100_000])
def test_a_small_png_that_claims_a_hundred_million_pixels_is_refused(side, bounded):
    data = bytearray(a_photograph(0))
    struct.pack_into(">II", data, 16, side, side)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    with pytest.raises(DecodeError, match="truncated or corrupt: x"):
        decode_colours(bytes(data), [0], "x")


def test_an_empty_plane_of_a_large_camera_is_decoded(bounded):
    for options in ({"compression": "zstd"}, {"compression": "lzw"}):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.zeros((4096, 4096), np.uint16), photometric="minisblack", **options)
        assert decode_planes(buffer.getvalue(), [0], "x")[0].shape == (4096, 4096)
