"""Bytes to planes, planes to patches, stains to RGB passes: round trips, and a sentence for whatever is no image."""

import io
import itertools
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from damage import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdvae_ray.images import decode
from sdvae_ray.images.decode import DecodeError, decode_colours, decode_illumination, decode_planes
from sdvae_ray.images.packing import Packing
from sdvae_ray.images.prepare import CropError, centre_crop, check_same_size, correct, resize, scale, tile, untile

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")
PUBLISHED = (("Mito", "AGP", "RNA"), ("RNA", "ER", "DNA"))


def tiff(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **{"compression": "lzw", "photometric": "minisblack", **options})
    return buffer.getvalue()


def npy(function: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, function)
    return buffer.getvalue()


def noise(*shape: int, top: int = 65536, dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, shape).astype(dtype)


# Bytes to planes


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("strip", [8, 64])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd"])
def test_a_plane_comes_back_whatever_its_compression_strips_and_byte_order(compression, strip, byteorder):
    pixels = noise(64, 48)
    data = tiff(pixels, compression=compression, rowsperstrip=strip, byteorder=byteorder)
    np.testing.assert_array_equal(decode_planes(data, [0], "x")[0], pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32])
def test_a_plane_keeps_its_own_numbers(dtype):
    pixels = noise(16, 16, top=256, dtype=dtype)
    plane = decode_planes(tiff(pixels, compression=None), [0], "x")[0]
    np.testing.assert_array_equal(plane, pixels)
    assert plane.dtype == dtype


def test_a_real_file_of_the_gallery_decodes_as_libtiff_does(real_field):
    data = real_field["DNA"].read_bytes()
    plane = decode_planes(data, [0], "x")[0]
    assert plane.shape == (1080, 1080)
    np.testing.assert_array_equal(plane, imagecodecs.tiff_decode(data))


@pytest.mark.parametrize("options", [{"photometric": "minisblack"}, {"imagej": True, "compression": None}])
def test_a_channel_of_a_file_of_many_planes_is_chosen_by_its_index(options):
    stack = noise(5, 32, 24)
    data = tiff(stack, **options)
    for channel in range(5):
        np.testing.assert_array_equal(decode_planes(data, [channel], "x")[0], stack[channel])
    assert "5 planes, plane 5 is wanted" in refusal(data, channel=5)


def test_a_second_plane_of_a_file_of_one_is_refused():
    assert "1 planes, plane 1 is wanted" in refusal(tiff(noise(32, 32)), channel=1)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
@pytest.mark.parametrize("kept", [8, 100, 0.3, 0.6, 0.95])
def test_a_truncated_tiff_is_refused(compression, kept):
    data = tiff(noise(64, 64), compression=compression)
    part = data[: kept if isinstance(kept, int) else int(kept * len(data))]
    assert f"{len(part)} bytes" in refusal(part)


def test_a_truncated_file_of_the_gallery_is_refused(real_field):
    data = real_field["Mito"].read_bytes()
    for part in (data[: len(data) // 2], data[:1000], data[: len(data) // 2] + bytes(len(data) // 2)):
        assert "truncated or corrupt" in refusal(part)


@pytest.mark.parametrize(
    "data",
    [b"", bytes(4096), b"\x89PNG\r\n\x1a\n" + bytes(64), b"<?xml version='1.0'?><Error/>", b"II*\x00" + bytes(60)],
)
def test_bytes_that_are_no_tiff_are_refused(data):
    assert "truncated or corrupt" in refusal(data)


def test_an_lzw_tiff_whose_pixels_are_overwritten_by_zeros_is_refused():
    data = bytearray(tiff(noise(64, 64)))
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    assert "truncated or corrupt" in refusal(bytes(data))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_signed_integers_are_read_unless_one_is_negative(dtype):
    pixels = noise(16, 16, top=100, dtype=dtype)
    (plane,) = decode_planes(tiff(pixels, compression=None), [0], "x")
    np.testing.assert_array_equal(plane, pixels)
    assert plane.dtype == np.dtype(dtype).name.replace("int", "uint")
    pixels[3, 4] = -7
    message = refusal(tiff(pixels, compression=None))
    assert np.dtype(dtype).name in message
    assert "the least is -7" in message


def test_pixels_that_are_no_intensities_are_refused_by_their_type():
    assert "complex64" in refusal(tiff(noise(16, 16, dtype=np.complex64), compression=None))


def test_an_illumination_function_is_read_as_it_is_with_zeros_made_small():
    function = np.array([[0.5, 0.0], [1.0, 2.0]], np.float32)
    read = decode_illumination(npy(function), "x")
    np.testing.assert_array_equal(read, [[0.5, 1e-6], [1.0, 2.0]])
    assert read.dtype == np.float64
    with pytest.raises(ValueError):
        read[0, 0] = 1  # one copy serves every FOV of a plate


@pytest.mark.parametrize(("failures", "is_read"), [(1, True), (4, True), (5, False)])
def test_a_header_that_python_fails_to_parse_by_a_fault_of_its_own_is_parsed_again(monkeypatch, failures, is_read):
    buffer, calls = io.BytesIO(), []
    np.save(buffer, np.ones((3, 4)))

    def header(file: io.BytesIO) -> tuple:
        calls.append(file.tell())
        read = np.lib.format.read_array_header_1_0(file)
        if len(calls) <= failures:
            raise SystemError("AST constructor recursion depth mismatch (before=39, after=36)")
        return read

    monkeypatch.setitem(decode._NPY_HEADERS, (1, 0), header)
    if is_read:
        np.testing.assert_array_equal(decode_illumination(buffer.getvalue(), "f.npy"), np.ones((3, 4)))
    else:
        with pytest.raises(DecodeError, match="f.npy"):
            decode_illumination(buffer.getvalue(), "f.npy")
    assert len(set(calls)) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an array",
        npy(np.ones((8, 8)))[:-8],
        npy(np.ones((2, 8, 8))),
        npy(np.array([[1.0, np.nan]])),
        npy(np.array([[1.0, np.inf]])),
        npy(np.array([[1.0, -0.1]])),
        npy(np.array([[{"a": 1}]], object)),
    ],
    ids=["empty", "text", "truncated", "three axes", "nan", "infinite", "negative", "pickled"],
)
def test_what_is_no_illumination_function_is_refused(data):
    with pytest.raises(DecodeError, match="P1_IllumDNA.npy") as caught:
        decode_illumination(data, "P1_IllumDNA.npy")
    assert "\n" not in str(caught.value)


# Planes to patches


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 9))
def test_untile_is_the_inverse_of_tile(stains, grid, patch):
    field = noise(stains, grid * patch, grid * patch)
    patches = tile(field, patch)
    assert patches.shape == (grid * grid, stains, patch, patch)
    np.testing.assert_array_equal(untile(patches), field)


def test_patches_are_numbered_row_by_row():
    field = noise(2, 12, 12)
    patches = tile(field, 4)
    for number, (row, column) in enumerate(itertools.product(range(3), range(3))):
        np.testing.assert_array_equal(patches[number], field[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_the_crop_is_central_or_refused(height, width, crop):
    plane = np.arange(height * width).reshape(height, width)
    if crop > min(height, width):
        with pytest.raises(CropError, match=f"crop {crop} does not fit x, which is {height} x {width}"):
            centre_crop(plane, crop, "x")
        return
    cut = centre_crop(plane, crop, "x")
    top, left = divmod(int(cut[0, 0]), width)
    assert cut.shape == (crop, crop)
    assert 0 <= (height - crop - top) - top <= 1  # an odd margin leaves its extra pixel at the end
    assert 0 <= (width - crop - left) - left <= 1


def test_correction_divides_by_the_function():
    plane, function = noise(8, 8), np.random.default_rng(1).uniform(0.5, 2, (8, 8))
    np.testing.assert_array_equal(correct(plane, function), plane.astype(np.float64) / function)
    np.testing.assert_array_equal(correct(plane, None), plane)


def test_scaling_clips_and_truncates_as_published():
    values = np.array([-1.0, 0, 255, 256, 257, 511.9, 65535, 70000])
    np.testing.assert_array_equal(scale(values, 0, 256, 8), [0, 0, 0, 1, 1, 1, 255, 255])
    assert scale(values, 0, 256, 8).dtype == np.uint8


def test_sixteen_bits_keep_what_eight_bits_lose():
    values = np.arange(65536, dtype=np.float64)
    np.testing.assert_array_equal(scale(values, 0, 1, 16), values)
    assert scale(values, 0, 1, 16).dtype == np.uint16
    np.testing.assert_array_equal(scale(values + 0.99, 0, 1, 16), values)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1e4), st.floats(0.1, 1e3), st.sampled_from([8, 16]))
def test_scaling_never_reverses_two_intensities(offset, divisor, bits):
    values = np.linspace(0, 7e4, 500)
    scaled = scale(values, offset, divisor, bits).astype(int)
    assert (np.diff(scaled) >= 0).all()
    assert scaled.min() >= 0
    assert scaled.max() <= 2**bits - 1


def test_an_illumination_function_of_another_size_is_named_with_both_sizes():
    with pytest.raises(ValueError, match=r"a\.tiff is 8 x 6, its illumination function b\.npy is 6 x 8"):
        check_same_size(np.zeros((8, 6)), np.zeros((6, 8)), "a.tiff", "b.npy")


# Stains to RGB passes


def levels(stains: int) -> torch.Tensor:
    """(1, stains, 256, 256): every 16-bit level, in another order per stain."""
    random = np.random.default_rng(0)
    values = np.stack([random.permutation(65536) for _ in range(stains)]).reshape(1, stains, 256, 256)
    return torch.from_numpy(values).float() / 65535


@pytest.mark.parametrize(
    ("stains", "triples"),
    [
        (STAINS, PUBLISHED),
        (("R", "G", "B"), (("R", "G", "B"),)),
        (("R", "G", "B"), (("B", "R", "G"),)),
        (STAINS, (("DNA", "ER", "DNA"), ("Mito", "AGP", "RNA"))),
    ],
    ids=["published", "photograph", "reordered", "one stain twice"],
)
def test_unpacking_what_was_packed_gives_the_stains_back_exactly(stains, triples):
    packing, images = Packing(stains, triples), levels(len(stains))
    packed = packing.pack(images)
    assert packed.shape == (1, len(triples), 3, 256, 256)
    assert packing.passes == len(triples)
    assert torch.equal(packing.unpack(packed), images)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_packing_in_which_no_pass_repeats_a_stain_is_exact(data):
    count = data.draw(st.integers(3, 6))
    stains = [f"s{number}" for number in range(count)]
    first = [data.draw(st.permutations(stains))[:3] for _ in range(data.draw(st.integers(0, 2)))]
    order = data.draw(st.permutations(stains))
    rest = [[order[(start + step) % count] for step in range(3)] for start in range(0, count, 3)]
    packing, images = Packing(stains, first + rest), torch.rand(2, count, 8, 8)
    assert torch.equal(packing.unpack(packing.pack(images)), images)


def test_the_published_triples_give_rna_back_from_the_first_and_er_and_dna_from_the_second():
    rgb = torch.zeros(1, 2, 3, 4, 4)
    rgb[0, 0], rgb[0, 1] = 0.25, 0.75
    unpacked = Packing(STAINS, PUBLISHED).unpack(rgb)[0, :, 0, 0]
    assert dict(zip(STAINS, unpacked.tolist(), strict=True)) == {
        "Mito": 0.25,
        "AGP": 0.25,
        "RNA": 0.25,
        "ER": 0.75,
        "DNA": 0.75,
    }


def test_the_planes_of_a_pass_are_the_stains_in_the_order_of_its_triple():
    images = torch.rand(2, 5, 4, 4)
    packed = Packing(STAINS, PUBLISHED).pack(images)
    assert torch.equal(packed[:, 0], images[:, [0, 1, 2]])
    assert torch.equal(packed[:, 1], images[:, [2, 3, 4]])


def test_a_stain_that_fills_a_pass_comes_back_as_the_mean_of_its_planes():
    rgb = torch.rand(2, 5, 3, 4, 4)
    unpacked = Packing(STAINS, [(stain,) * 3 for stain in STAINS]).unpack(rgb)
    torch.testing.assert_close(unpacked, rgb.mean(2))


# Odd input


def test_grey_passes_give_every_level_back_exactly():
    packing, images = Packing(STAINS, [(stain,) * 3 for stain in STAINS]), levels(5)
    assert torch.equal(packing.unpack(packing.pack(images)), images)


@pytest.mark.parametrize("kept", range(8))
def test_the_first_bytes_of_a_tiff_alone_are_refused(kept, real_field: dict[str, Path]):
    refusal(real_field["DNA"].read_bytes()[:kept])


def test_floats_that_are_not_finite_are_refused():
    pixels = noise(16, 16, top=100, dtype=np.float32)
    pixels[3, 4] = np.nan
    refusal(tiff(pixels, compression=None))


def test_several_channels_of_a_file_are_what_each_alone_is():
    stack = noise(5, 32, 24)
    for plane, channel in zip(decode_planes(tiff(stack), [4, 0, 4], "x"), [4, 0, 4], strict=True):
        np.testing.assert_array_equal(plane, stack[channel])
    np.testing.assert_array_equal(decode_planes(tiff(stack[0]), [0], "x")[0], stack[0])
    with pytest.raises(DecodeError, match="x has 1 planes, plane 2 is wanted"):
        decode_planes(tiff(stack[0]), [0, 2], "x")


# Photographs


def photograph(height: int = 24, width: int = 17) -> np.ndarray:
    """(height, width, 3) uint8, smooth, with three different planes."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([255 * y, 255 * x, 255 * (1 - y) * x], -1).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def colours(data: bytes) -> np.ndarray:
    """(height, width, 3)."""
    return np.stack(decode_colours(data, [0, 1, 2], "x"), -1)


def no_photograph(data: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        decode_colours(data, [0, 1, 2], "s3://photographs/church/1.jpg")
    message = str(caught.value)
    assert "s3://photographs/church/1.jpg" in message
    assert "\n" not in message
    assert "0x" not in message  # an address in memory
    return message


KINDS = {
    "png": ("PNG", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "webp": ("WEBP", {"lossless": True}),
    "jpeg": ("JPEG", {}),
}
LOSSLESS = [name for name in KINDS if name != "jpeg"]


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_photograph_comes_back_as_red_green_and_blue(kind):
    pixels = photograph()
    name, options = KINDS[kind]
    np.testing.assert_array_equal(colours(encoded(pixels, name, **options)), pixels)


def test_a_tiff_of_three_planes_marked_as_colour_is_a_photograph_too():
    pixels = photograph()
    data = tiff(np.moveaxis(pixels, -1, 0), photometric="rgb", planarconfig="separate", compression=None)
    np.testing.assert_array_equal(colours(data), pixels)


@pytest.mark.parametrize("name", ["astronaut.png", "rocket.jpg"])
def test_a_real_photograph_decodes_as_another_decoder_has_it(shared, name):
    data = (shared / "data/natural" / name).read_bytes()
    if name.endswith("png"):
        np.testing.assert_array_equal(colours(data), imagecodecs.png_decode(data)[..., :3])
    else:  # two builds of libjpeg-turbo
        other = imagecodecs.jpeg8_decode(data).astype(int)
        assert np.abs(colours(data).astype(int) - other).max() <= 1


def test_grey_palette_alpha_and_cmyk_are_made_rgb():
    pixels = photograph()
    image = Image.fromarray(pixels)
    grey = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(colours(encoded(grey, "PNG")), np.stack([grey] * 3, -1))
    alpha = np.dstack([pixels, pixels[..., :1]])  # the alpha differs from pixel to pixel, and does not darken any
    np.testing.assert_array_equal(colours(encoded(alpha, "PNG")), pixels)
    np.testing.assert_array_equal(colours(encoded(alpha[..., [0, 3]], "PNG")), np.stack([pixels[..., 0]] * 3, -1))
    palette = image.quantize(16)
    np.testing.assert_array_equal(colours(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))
    ink = Image.fromarray(np.dstack([255 - pixels, np.zeros_like(pixels[..., :1])]), "CMYK")
    found = colours(encoded(ink, "JPEG", quality=100, subsampling=0)).astype(int)
    assert np.abs(found - pixels).max() <= 4  # JPEG's own loss at its highest quality
    two = image.convert("1")
    np.testing.assert_array_equal(colours(encoded(two, "PNG")), 255 * np.stack([np.asarray(two)] * 3, -1))


def test_the_orientation_that_a_camera_noted_is_not_applied():
    image = Image.fromarray(photograph())
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned by 90 degrees
    assert colours(encoded(image, "PNG", exif=turned)).shape == (24, 17, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_a_file_of_several_frames_is_refused(kind):
    first, *others = (Image.fromarray(np.roll(photograph(), step, 0)) for step in (0, 5, 9))
    assert "has 3 frames" in no_photograph(encoded(first, kind, save_all=True, append_images=others))


def test_the_first_picture_of_a_multi_picture_jpeg_is_its_photograph():
    first, second = Image.fromarray(photograph()), Image.fromarray(photograph()[::-1])
    both = colours(encoded(first, "MPO", save_all=True, append_images=[second]))
    np.testing.assert_array_equal(both, colours(encoded(first, "JPEG")))


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3), (8, 8, 4), (8, 8, 2)])
def test_sixteen_bits_per_colour_are_refused(shape):
    assert "more than 8 bits" in no_photograph(imagecodecs.png_encode(noise(*shape)))
    if shape[-1] == 3:
        assert "more than 8 bits" in no_photograph(tiff(noise(*shape), photometric="rgb"))
        assert "more than 8 bits" in no_photograph(tiff(noise(*shape), photometric="rgb", compression=None))
    if len(shape) == 2:
        assert "more than 8 bits" in no_photograph(tiff(noise(*shape)))
        assert "more than 8 bits" in no_photograph(tiff(noise(*shape, dtype=np.float32), compression=None))


@pytest.mark.parametrize("data", [b"", bytes(4096), b"<html>404</html>", b"\xff\xd8\xff", b"RIFF\x00\x00\x00\x00WEBP"])
def test_bytes_that_are_no_photograph_are_refused(data):
    assert f"{len(data)} bytes" in no_photograph(data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow says on the way what it finds odd
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_photograph_is_refused(kind, share):
    data = encoded(noise(64, 48, 3, top=256, dtype=np.uint8), KINDS[kind][0], **KINDS[kind][1])
    no_photograph(data[: int(share * len(data))])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow says on the way what it finds odd
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_done_to_its_bytes_a_photograph_is_decoded_or_refused(kind):
    data = encoded(photograph(), KINDS[kind][0], **KINDS[kind][1])
    random, refused = np.random.default_rng(0), 0
    for _ in range(200):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), random.integers(1, 5)):
            damaged[place] = random.integers(256)
        try:
            found = colours(bytes(damaged))
        except DecodeError:
            refused += 1
        else:
            assert found.dtype == np.uint8
            assert found.shape[2] == 3
    assert 0 < refused < 200


def test_a_channel_that_a_photograph_does_not_have_is_named():
    with pytest.raises(DecodeError, match="x has 3 colours, channel 3 is wanted"):
        decode_colours(encoded(photograph(), "PNG"), [0, 3], "x")


# Resizing


def triangle(length: int, side: int) -> np.ndarray:
    """(side, length) weights of a bilinear filter that widens where it shrinks (antialias), each row of sum 1."""
    step = length / side
    width = max(step, 1.0)
    weights = np.zeros((side, length))
    for out, source in itertools.product(range(side), range(length)):
        weights[out, source] = max(0.0, 1 - abs((source + 0.5) - (out + 0.5) * step) / width)
    return weights / weights.sum(1, keepdims=True)


SHAPES = [(24, 17), (60, 200), (7, 9), (1, 1), (32, 32)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.dtype(">u2"), np.float32])
def test_resizing_is_the_weighted_mean_of_a_triangle_per_axis(shape, dtype):
    plane = noise(*shape, top=256 if dtype == np.uint8 else 65536).astype(dtype)
    small = resize(plane, 32)
    expected = triangle(shape[0], 32) @ plane.astype(np.float64) @ triangle(shape[1], 32).T
    assert small.shape == (32, 32)
    assert small.dtype == np.dtype(dtype).newbyteorder("=")
    # integers are rounded after each axis, by at most a half each; float32 has 24 bits
    bound = 65536 * 2**-22 if small.dtype == np.float32 else 1.01
    assert np.abs(small - expected).max() <= bound


@pytest.mark.parametrize("shape", SHAPES)
def test_a_photograph_is_resized_as_pillow_and_torchvision_do(shape):
    transforms = pytest.importorskip("torchvision.transforms")
    image = Image.fromarray(noise(*shape, 3, top=256, dtype=np.uint8))
    mine = np.stack([resize(plane, 32) for plane in decode_colours(encoded(image, "PNG"), [0, 1, 2], "x")], -1)
    np.testing.assert_array_equal(mine, np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)))
    np.testing.assert_array_equal(mine, np.asarray(transforms.Resize((32, 32))(image)))
    tensor = torch.from_numpy(np.array(image)).movedim(-1, 0)
    theirs = transforms.Resize((32, 32), antialias=True)(tensor).movedim(0, -1).numpy()
    assert np.abs(mine.astype(int) - theirs).max() <= 1  # its own fixed point


def test_a_real_photograph_is_resized_as_pillow_does(shared):
    image = Image.open(shared / "data/natural/coffee.png").convert("RGB")
    mine = np.stack([resize(plane, 256) for plane in np.moveaxis(np.asarray(image), -1, 0)], -1)
    np.testing.assert_array_equal(mine, np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR)))


def test_a_plane_of_the_wanted_size_is_left_as_it_is():
    plane = noise(32, 32)
    np.testing.assert_array_equal(resize(plane, 32), plane)
