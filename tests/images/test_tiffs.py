"""Whichever library unpacks a TIFF, its planes are those of tifffile, and so is the refusal of a damaged file."""

import io
import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from sdvae_ray.images import tiff_pages
from sdvae_ray.images.decode import DecodeError, decode_planes

HEADER = 300  # bytes of a small file before its pixels


def noise(*shape: int, dtype: Any = np.uint16) -> np.ndarray:
    """Noise around a slope: what LZW and predictors find in an image."""
    values = np.random.default_rng(0).poisson(40, shape) + np.arange(shape[-1])
    return values.astype(dtype)


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **{"photometric": "minisblack", **options})
    return buffer.getvalue()


def by_tifffile(data: bytes) -> np.ndarray:
    """(n, height, width): every page of the size of the first."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return np.stack([page.asarray() for page in file.pages if page.shape == file.pages.first.shape])


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who gave the pixels of each decoded file that did not lie in one piece: libtiff, or tifffile."""
    seen: list[str] = []
    decode, asarray = imagecodecs.tiff_decode, tifffile.TiffPage.asarray

    def libtiff(*arguments: Any, **options: Any) -> np.ndarray:
        pixels = decode(*arguments, **options)
        seen.append("libtiff")
        return pixels

    def tifffiles(self: tifffile.TiffPage, **options: Any) -> np.ndarray:
        seen.append("tifffile")
        return asarray(self, **options)

    monkeypatch.setattr(imagecodecs, "tiff_decode", libtiff)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", tifffiles)
    return seen


def decoded(data: bytes) -> np.ndarray:
    expected = by_tifffile(data)
    planes = decode_planes(data, range(len(expected)), "x")
    np.testing.assert_array_equal(planes, expected)
    return planes[0]


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"predictor": 2},
        {"tile": (32, 16)},
        {"tile": (32, 16), "predictor": 2},
        {"rowsperstrip": 7},
        {"bigtiff": True},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_a_grey_plane_in_lzw_is_unpacked_by_libtiff(options, dtype, byteorder, unpacked):
    data = tiff(noise(75, 61, dtype=dtype), compression="lzw", byteorder=byteorder, **options)
    plane = decode_planes(data, [0], "x")[0]
    assert unpacked == ["libtiff"]
    np.testing.assert_array_equal(plane, by_tifffile(data)[0])
    np.testing.assert_array_equal(plane, noise(75, 61, dtype=dtype))


@pytest.mark.parametrize("options", [{}, {"predictor": 2}, {"metadata": None}, {"tile": (16, 16)}, {"ome": True}])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_the_pages_of_a_file_keep_their_order(options, byteorder, unpacked):
    stack = noise(5, 40, 30) * np.arange(1, 6, dtype=np.uint16)[:, None, None]
    data = tiff(stack, compression="lzw", byteorder=byteorder, **options)
    np.testing.assert_array_equal(decode_planes(data, [4, 0, 2], "x"), stack[[4, 0, 2]])
    assert unpacked == ["libtiff"] * 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("options", [{}, {"imagej": True}, {"metadata": None}, {"rowsperstrip": 7}, {"bigtiff": True}])
@pytest.mark.parametrize("shape", [(40, 30), (3, 40, 30)])
def test_planes_that_lie_in_one_piece_are_not_copied(shape, options, byteorder, dtype, unpacked):
    if "imagej" in options and (byteorder == "<" or dtype == np.uint32):
        pytest.skip("ImageJ writes big-endian files, of fewer types")
    data = tiff(noise(*shape, dtype=dtype), byteorder=byteorder, **options)
    planes = decode_planes(data, range(len(by_tifffile(data))), "x")
    unpacked.clear()
    planes = decode_planes(data, range(len(planes)), "x")
    assert unpacked == []
    np.testing.assert_array_equal(planes, noise(*shape, dtype=dtype).reshape(-1, 40, 30))
    assert np.shares_memory(planes[0], np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    "data",
    [
        tiff(noise(40, 30, dtype=np.float32), compression="zlib", predictor=3),
        tiff(noise(40, 30, dtype=np.uint32), compression="lzw"),
        tiff(noise(64, 48), tile=(16, 16)),
        tiff(noise(64, 48), compression="zlib"),
        tiff(noise(64, 48), compression="zstd", predictor=2),
        tiff(noise(64, 48), compression="packbits"),
        tiff(noise(64, 48), compression="lzma"),
    ],
    ids=["float", "32 bits", "tiles", "deflate", "zstd", "packbits", "lzma"],
)
def test_a_file_of_another_kind_is_left_to_tifffile(data, unpacked):
    decode_planes(data, [0], "x")
    assert "tifffile" in unpacked
    decoded(data)


@pytest.mark.parametrize("entry", ["TileOffsets", "TileByteCounts"])
def test_a_tile_that_a_file_leaves_out_is_zeros(entry, unpacked):
    data = bytearray(tiff(noise(64, 48), tile=(16, 16), compression="lzw", byteorder="<"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages[0].tags[entry]
    struct.pack_into("<" + tag.dtype.name[0].replace("S", "H").replace("L", "I"), data, tag.valueoffset, 0)
    expected = noise(64, 48)
    expected[:16, :16] = 0
    np.testing.assert_array_equal(decode_planes(bytes(data), [0], "x")[0], expected)
    assert unpacked == ["tifffile"]


def test_real_files_are_those_of_tifffile(real_field, shared):
    files = [*real_field.values(), *sorted((shared / "data/cases/images").glob("*.tif"))]
    for file in [*files, *sorted((shared / "data/images").glob("*.tif"))]:
        decoded(file.read_bytes())


@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {"compression": "lzw", "predictor": 2}])
@pytest.mark.parametrize("damage", ["bytes", "zeros", "cut"])
def test_a_damaged_file_gives_the_pixels_of_tifffile_or_its_refusal(options, damage, monkeypatch):
    data = tiff(noise(75, 61), rowsperstrip=16, **options)
    random = np.random.default_rng(0)
    outcomes: dict[str, int] = {"decoded": 0, "refused": 0}
    for _ in range(100):
        damaged, start = bytearray(data), int(random.integers(HEADER, len(data)))
        if damage == "bytes":
            for place in random.integers(HEADER, len(data), random.integers(1, 4)):
                damaged[place] = random.integers(256)
        else:
            damaged[start:] = bytes(len(data) - start) if damage == "zeros" else b""
        ours = outcome(bytes(damaged))
        with monkeypatch.context() as patch:
            patch.setattr(tiff_pages, "_stored", lambda *arguments: None)
            patch.setattr(tiff_pages, "_unpacked", lambda *arguments: None)
            assert outcome(bytes(damaged)) == ours
        outcomes["refused" if isinstance(ours, str) else "decoded"] += 1
    assert outcomes["refused" if damage == "cut" or (damage == "zeros" and options) else "decoded"]


@pytest.mark.parametrize(("tag", "value"), [("TileWidth", 0), ("ImageLength", 2**31)])
def test_a_header_that_no_image_can_have_is_refused(tag, value):
    data = bytearray(tiff(noise(64, 48), tile=(16, 16), byteorder="<", bigtiff=True))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        struct.pack_into("<I", data, file.pages[0].tags[tag].valueoffset, value)
    with pytest.raises(DecodeError, match="truncated or corrupt: x"):
        decode_planes(bytes(data), [0], "x")


def outcome(data: bytes) -> tuple[str, tuple[int, ...], bytes] | str:
    """The type, shape and bytes of the first plane, or the line of its refusal."""
    try:
        (plane,) = decode_planes(data, [0], "x")
    except DecodeError as error:
        return str(error)
    return str(plane.dtype), plane.shape, plane.tobytes()
