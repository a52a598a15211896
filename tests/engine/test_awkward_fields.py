"""Kind: a file is not what it is called. A field of view gives its own pixels, or a row with the reason."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tifffile
from damage import refusal
from PIL import Image

from sdvae_ray.config import StorageConfig
from sdvae_ray.engine.files.load import Loader
from sdvae_ray.images.decode import decode_planes
from sdvae_ray.run.quality import batch_quality, findings, in_lines, scaling_notes
from sdvae_ray.schema import ERROR, channel_column, uri_column
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.sources.manifest.manifest import build_manifest
from sdvae_ray.storage import Storage

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")
IMAGES = ImageConfig(crop=128, patch=64)


def noise(*shape: int, top: int = 60_000, dtype: Any = np.uint16) -> np.ndarray:
    return np.random.default_rng(3).integers(0, top, shape).astype(dtype)


def tiff(*parts: tuple[np.ndarray, dict[str, Any]]) -> bytes:
    """A TIFF of parts that are written one after the other, each with its options."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, **parts[0][1].pop("file", {})) as writer:
        for pixels, options in parts:
            writer.write(pixels, **{"photometric": "minisblack", "metadata": None, **options})
    return buffer.getvalue()


def load(rows: pl.DataFrame, **image: Any) -> dict[str, np.ndarray]:
    batch = {name: np.array(rows[name].to_list(), object) for name in rows.columns}
    return Loader(ImageConfig(**{"crop": 128, "patch": 64, **image}), StorageConfig())(batch)


# The cases of public reports


@pytest.fixture
def case(shared) -> Callable[[str], pl.DataFrame]:
    """case(number) -> the manifest's rows of that case."""
    folder = shared / "data/cases"
    if not folder.is_dir():
        pytest.skip(f"the cases are not at {folder}")

    def rows(number: str) -> pl.DataFrame:
        defaults = {"Metadata_Source": "s1", "Metadata_Batch": "b1"}
        rewrites = [("cases/images", str(folder / "images"))]
        place = str(folder / f"load_data_{number}.csv")
        return build_manifest([place], rewrites=rewrites, defaults=defaults, storage=Storage()).table

    return rows


@pytest.mark.parametrize("number", ["03", "04", "05"])
def test_file_kind_a_set_of_files_a_stack_and_appended_pages_give_the_pixels_of_their_own_pages(case, number):
    rows = case(number)
    loaded = load(rows)
    assert loaded[ERROR].tolist() == [""]
    for place, stain in enumerate(STAINS):
        with tifffile.TiffFile(rows[uri_column(stain)][0]) as file:
            page = file.pages[rows[channel_column(stain)][0]].asarray()
        assert loaded["qc_raw_max"][0, place] == page[64:192, 64:192].max() > 0
    assert len(set(loaded["qc_raw_crc32"][0])) == 5
    assert rows[channel_column("DNA")][0] == (0 if number == "03" else 4)


def test_file_kind_planes_of_two_sizes_are_an_error_row_that_says_both(case):
    (error,) = load(case("07"))[ERROR]
    assert "differ in size: Mito is 256 x 256, ER is 200 x 180" in error


def test_file_kind_eight_bits_under_the_division_by_256_are_said(case):
    quality = batch_quality(load(case("09")), STAINS)
    (note,) = scaling_notes(quality, IMAGES)
    assert "Mito, AGP, RNA, ER, DNA: the largest pixel is 255, 8 bits; divided by 256 every pixel becomes 0" in note
    assert "divisor 1 keeps" in note
    (line,) = in_lines(findings(quality, STAINS))
    assert "1 of 1 FOVs all zero after scaling" in line


# Others of the same kind


@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {"compression": "zlib", "tile": (16, 16)}])
@pytest.mark.parametrize("marked", [True, False])
def test_file_kind_a_thumbnail_before_the_plane_is_no_plane(options, marked):
    plane = noise(64, 48)
    mark = {"subfiletype": 1} if marked else {}
    data = tiff(
        (plane[::4, ::4], {**options, **mark}), (plane, options), (plane // 2, options), (plane[::2, ::2], mark)
    )
    np.testing.assert_array_equal(decode_planes(data, [1, 0], "x"), [plane // 2, plane])
    assert "has 2 planes, plane 2 is wanted" in refusal(data, 2)


def test_file_kind_a_pyramid_of_an_ome_tiff_is_its_full_size():
    plane = noise(128, 128)
    data = tiff(
        (plane, {"subifds": 1, "file": {"ome": True}, "metadata": {"axes": "YX"}}),
        (plane[::2, ::2], {"subfiletype": 1}),
    )
    np.testing.assert_array_equal(decode_planes(data, [0], "x")[0], plane)
    assert "has 1 planes" in refusal(data, 1)


def test_file_kind_pages_that_differ_in_size_are_refused_with_both_sizes():
    data = tiff((noise(64, 48), {}), (noise(60, 48), {}))
    assert "64 x 48 and 60 x 48" in refusal(data)


@pytest.mark.parametrize("truncate", [False, True])
def test_file_kind_the_planes_of_an_imagej_stack_are_found(truncate):
    stack = noise(3, 40, 30)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stack, imagej=True, truncate=truncate, metadata={"axes": "CYX"})
    with tifffile.TiffFile(io.BytesIO(buffer.getvalue())) as file:
        assert len(file.pages) == (1 if truncate else 3)
    np.testing.assert_array_equal(decode_planes(buffer.getvalue(), [2, 0], "x"), stack[[2, 0]])
    assert "has 3 planes, plane 3 is wanted" in refusal(buffer.getvalue(), 3)


def test_file_kind_a_set_of_ome_files_is_read_by_the_page_that_each_holds(tmp_path):
    """As case 03, where the other files of the set lie beside it: their pixels must not come in."""
    planes = noise(2, 32, 32)
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{0}"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" '
        'DimensionOrder="XYCZT" Type="uint16" SizeX="32" SizeY="32" SizeC="2" SizeZ="1" SizeT="1"><TiffData IFD="0" FirstC="0" '
        'PlaneCount="1"><UUID FileName="a.ome.tif">urn:uuid:0</UUID></TiffData><TiffData IFD="0" FirstC="1" PlaneCount="1"><UUID '
        'FileName="b.ome.tif">urn:uuid:1</UUID></TiffData></Pixels></Image></OME>'
    )
    for number, name in enumerate("ab"):
        (tmp_path / f"{name}.ome.tif").write_bytes(tiff((planes[number], {"description": xml.format(number)})))
    for number, name in enumerate("ab"):
        data = (tmp_path / f"{name}.ome.tif").read_bytes()
        np.testing.assert_array_equal(decode_planes(data, [0], "x")[0], planes[number])
        assert "has 1 planes, plane 1 is wanted" in refusal(data, 1)


def test_file_kind_values_that_are_no_intensities_are_refused():
    plane = noise(32, 32, top=255, dtype=np.uint8)
    assert "MinIsWhite" in refusal(tiff((plane, {"photometric": "miniswhite"})))
    assert "MinIsWhite" in refusal(tiff((plane.astype(np.uint16), {"photometric": "miniswhite", "compression": "lzw"})))
    ramp = np.repeat(np.arange(256, dtype=np.uint16)[None] * 257, 3, 0)
    green = ramp * np.array([[0], [1], [0]], np.uint16)
    np.testing.assert_array_equal(
        decode_planes(tiff((plane, {"photometric": "palette", "colormap": green})), [0], "x")[0], plane
    )
    assert "palette" in refusal(tiff((plane, {"photometric": "palette", "colormap": ramp[:, ::-1]})))
    assert "colour image (32 x 32 x 3)" in refusal(tiff((noise(32, 32, 3), {"photometric": "rgb"})))
    assert "colour image (3 x 32 x 32)" in refusal(
        tiff((noise(3, 32, 32), {"photometric": "rgb", "planarconfig": "separate"}))
    )
    assert "bool" in refusal(tiff((plane > 9, {})))


def test_file_kind_twelve_packed_bits_are_read():
    plane = noise(16, 16, top=4096)
    bits = np.unpackbits(plane.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 4:]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.packbits(bits).reshape(16, 24), photometric="minisblack", metadata=None, byteorder="<")
    data = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(buffer.getvalue())) as file:
        tags = file.pages[0].tags
        for name, value in (("ImageWidth", 16), ("BitsPerSample", 12)):
            data[tags[name].valueoffset] = value
    np.testing.assert_array_equal(decode_planes(bytes(data), [0], "x")[0], plane)


def png(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_file_kind_a_grey_png_is_a_plane(dtype):
    plane = noise(40, 30, top=255, dtype=dtype) * np.array(1 if dtype == np.uint8 else 257, dtype)
    data = png(plane)
    (decoded,) = decode_planes(data, [0], "x")
    np.testing.assert_array_equal(decoded, plane)
    assert decoded.dtype == dtype
    assert "has 1 planes" in refusal(data, 1)
    assert "truncated or corrupt" in refusal(data[: len(data) // 2])


def test_file_kind_a_png_of_another_kind_is_refused():
    plane = noise(40, 30, top=255, dtype=np.uint8)
    assert "red, green and blue" in refusal(png(np.stack([plane] * 3, -1)))
    assert "a palette" in refusal(_with_mode(plane, "P"))
    assert "grey and alpha" in refusal(_with_mode(plane, "LA"))
    assert "1 bits" in refusal(png(plane > 100))
    assert "transparent" in refusal(png(plane, transparency=3))


def _with_mode(plane: np.ndarray, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(plane).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def changed(
    write_fields: Callable[..., Any], stain: str, change: Callable[[np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
    """A field of which one stain's pixels are changed."""
    batch = write_fields(1)
    path = Path(batch[uri_column(stain)][0])
    tifffile.imwrite(path, change(tifffile.imread(path)), photometric="minisblack", metadata=None)
    return batch


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plane: (plane // 256).astype(np.uint8), "differ in type: Mito is uint16, ER is uint8"),
        (lambda plane: plane.astype(np.float32), "differ in type: Mito is uint16, ER is float32"),
        (lambda plane: np.pad(plane, 4), "differ in size: Mito is 136 x 136, ER is 144 x 144"),
    ],
    ids=["8 bits", "float", "larger"],
)
def test_file_kind_planes_of_another_kind_are_an_error_row_that_says_both(write_fields, change, words):
    loaded = Loader(IMAGES, StorageConfig())(changed(write_fields, "ER", change))
    assert words in loaded[ERROR][0]
    assert np.isnan(loaded["qc_mean"]).all()


def test_file_kind_signed_fields_are_the_unsigned_ones(write_fields):
    batch = write_fields(1)
    expected = Loader(IMAGES, StorageConfig())(batch)
    for stain in STAINS:
        path = Path(batch[uri_column(stain)][0])
        tifffile.imwrite(path, (tifffile.imread(path) // 2).astype(np.int16), photometric="minisblack", metadata=None)
    loaded = Loader(ImageConfig(crop=128, patch=64, scaling={"divisor": 128}), StorageConfig())(batch)
    assert loaded[ERROR].tolist() == [""]
    np.testing.assert_array_equal(loaded["image"], expected["image"])


@pytest.mark.parametrize(
    ("largest", "dtype", "words"),
    [
        (
            4095,
            np.uint16,
            "the largest pixel is 4095, 12 bits; divided by 256 no more than 16 grey levels are left (image.scaling.divisor 16 ",
        ),
        (900, np.uint16, "10 bits; divided by 256 no more than 16 grey levels are left (image.scaling.divisor 4 "),
        (
            1.0,
            np.float32,
            "the largest pixel is 1; divided by 256 every pixel becomes 0 (image.scaling.divisor 0.003906 ",
        ),
        (65535, np.uint16, None),
        (10_000_000, np.uint32, None),
    ],
)
def test_file_kind_the_bits_that_a_division_leaves_are_said(tmp_path, write_fields, largest, dtype, words):
    batch = write_fields(1)
    for stain in STAINS:
        path = Path(batch[uri_column(stain)][0])
        pixels = noise(136, 136, top=1000) / 999 * largest
        tifffile.imwrite(path, pixels.astype(dtype), photometric="minisblack", metadata=None)
    quality = batch_quality(Loader(IMAGES, StorageConfig())(batch), STAINS)
    notes = scaling_notes(quality, IMAGES)
    assert (words is None and not notes) or words in notes[0]
    saturated = [line for line in in_lines(findings(quality, STAINS)) if "saturated" in line]
    assert bool(saturated) == (dtype == np.uint32)
