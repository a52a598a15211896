"""The load stage: rows of a manifest in, patches out; whatever is wrong with a FOV stays its own affair."""

import gc
import io
import json
import shutil
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from sdvae_ray.config import StorageConfig
from sdvae_ray.engine.files import load as load_stage
from sdvae_ray.engine.files.load import IMAGE, Batch, Loader
from sdvae_ray.engine.files.quality import QC
from sdvae_ray.errors import StorageError
from sdvae_ray.images.decode import DecodeError
from sdvae_ray.images.prepare import CropError, tile, untile
from sdvae_ray.schema import (
    COLOUR,
    ERROR,
    FOV_ID,
    METADATA,
    PIXELS,
    ROW,
    channel_column,
    divisor_column,
    illum_column,
    offset_column,
    uri_column,
)
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.storage import Storage

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")
SMALL = ImageConfig(crop=128, patch=64)


def loader(storage: StorageConfig | None = None, **image: Any) -> Loader:
    return Loader(ImageConfig(**{"crop": 128, "patch": 64, **image}), storage or StorageConfig())


def metadata(loaded: Batch, row: int = 0) -> dict[str, Any]:
    """The Metadata_* of one loaded FOV."""
    return json.loads(loaded[ROW][row])


def field(loaded: Batch, row: int = 0) -> np.ndarray:
    """(C, crop, crop) of one loaded FOV."""
    return untile(loaded[IMAGE][row])


def straight_line(batch: Batch, row: int, crop: int, divisor: float = 256, bits: int = 8) -> np.ndarray:
    """(C, crop, crop): the published order of steps on whole planes."""
    planes = []
    for stain in STAINS:
        plane = tifffile.imread(batch[uri_column(stain)][row]).astype(np.float64)
        if batch[illum_column(stain)][row] is not None:
            function = np.load(batch[illum_column(stain)][row]).astype(np.float64)
            function[function == 0] = 1e-6
            plane = plane / function
        scaled = np.clip(plane / divisor, 0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)
        top, left = ((side - crop) // 2 for side in plane.shape)
        planes.append(scaled[top : top + crop, left : left + crop])
    return np.stack(planes)


def same_rows(one: Batch, other: Batch, ignore: tuple[str, ...] = ("seconds_load",)) -> None:
    assert one.keys() == other.keys()
    for name in one.keys() - set(ignore):
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


# Sound fields


def test_a_row_becomes_patches_of_scaled_integers_beside_its_key_and_metadata(write_fields):
    batch = write_fields(3)
    loaded = loader()(batch)
    assert loaded[IMAGE].shape == (3, 4, 5, 64, 64)
    assert loaded[IMAGE].dtype == np.uint8
    assert loaded[ERROR].tolist() == ["", "", ""]
    for row in range(3):
        np.testing.assert_array_equal(field(loaded, row), straight_line(batch, row, 128))
        keys = {name: values[row] for name, values in batch.items() if name.startswith(METADATA)}
        assert metadata(loaded, row) == keys
        assert loaded[FOV_ID][row] == batch[FOV_ID][row]


def test_illumination_is_divided_out_and_its_zeros_count_as_a_millionth(write_fields, write_illumination):
    batch = write_fields(1, illumination=True)
    path = Path(batch[illum_column("DNA")][0])
    function = np.load(path)
    function[60:70, 60:70] = 0
    write_illumination(path, function)
    loaded = loader()(batch)
    np.testing.assert_array_equal(field(loaded), straight_line(batch, 0, 128))
    assert (field(loaded)[4, 56:66, 56:66] == 255).all()  # the crop starts 4 pixels in


@pytest.mark.parametrize("absent", [None, "", float("nan")])
def test_a_missing_illumination_function_counts_as_ones(write_fields, absent):
    batch = write_fields(1)
    expected = loader()(batch)
    given = {**batch, **{illum_column(stain): np.array([absent], object) for stain in STAINS}}
    without = {name: values for name, values in batch.items() if not name.startswith("illum_")}
    same_rows(loader()(given), expected)
    same_rows(loader()(without), expected)


def test_sixteen_bits_keep_the_corrected_counts(write_fields):
    batch = write_fields(1, illumination=True)
    loaded = loader(scaling={"divisor": 1, "bits": 16})(batch)
    assert loaded[IMAGE].dtype == np.uint16
    np.testing.assert_array_equal(field(loaded), straight_line(batch, 0, 128, divisor=1, bits=16))


def test_scaling_constants_come_from_the_manifest_where_the_run_says_so(write_fields):
    batch = write_fields(2)
    offsets, divisors = np.array([[0, 10, 500, 1000, 2000], [5, 4, 3, 2, 1]]), np.array([[256, 100, 50, 9, 1.5]] * 2)
    for place, stain in enumerate(STAINS):
        batch[offset_column(stain)] = offsets[:, place].astype(object)
        batch[divisor_column(stain)] = divisors[:, place].astype(object)
    loaded = loader(scaling={"method": "manifest"})(batch)
    for row in range(2):
        for place, stain in enumerate(STAINS):
            plane = tifffile.imread(batch[uri_column(stain)][row])[4:132, 4:132].astype(np.float64)
            expected = np.clip((plane - offsets[row, place]) / divisors[row, place], 0, 255).astype(np.uint8)
            np.testing.assert_array_equal(field(loaded, row)[place], expected)


def test_the_crop_is_the_centre_of_a_field_of_uneven_size(tmp_path, write_fields, write_tiff):
    batch = write_fields(1)
    plane = np.random.default_rng(0).integers(0, 65536, (151, 202), dtype=np.uint16)
    for stain in STAINS:
        batch[uri_column(stain)][0] = write_tiff(tmp_path / f"{stain}.tiff", plane)
    np.testing.assert_array_equal(field(loader()(batch))[3], plane[11:139, 37:165] // 256)


def test_stains_of_one_file_are_read_by_their_channel(tmp_path, write_fields, write_tiff):
    batch = write_fields(1)
    expected = loader()(batch)
    order = ("DNA", "ER", "RNA", "AGP", "Mito")
    stack = np.stack([tifffile.imread(batch[uri_column(stain)][0]) for stain in order])
    path = write_tiff(tmp_path / "stack.tif", stack, photometric="minisblack")
    for stain in STAINS:
        batch[uri_column(stain)] = np.array([path], object)
        batch[channel_column(stain)] = np.array([order.index(stain)], object)
    same_rows(loader()(batch), expected)


def test_only_the_stains_of_the_run_are_read_in_its_order(write_fields):
    batch = write_fields(1)
    Path(batch[uri_column("AGP")][0]).unlink()
    stains, packing = ("DNA", "ER", "Mito"), [["DNA", "ER", "Mito"]]
    loaded = loader(stains=stains, packing=packing)(batch)
    assert loaded[ERROR].tolist() == [""]
    whole = write_fields(1)
    np.testing.assert_array_equal(field(loaded), straight_line(whole, 0, 128)[[4, 3, 0]])


def test_metadata_passes_through_with_its_nulls_and_its_leading_zeros(write_fields):
    batch = write_fields(3)
    batch["Metadata_pert_type"] = np.array(["trt", None, "-4.00E-06"], object)
    batch["Metadata_Column"] = np.array(["01", "02", ""], object)
    loaded = loader()(batch)
    passed = [metadata(loaded, row) for row in range(3)]
    assert [row["Metadata_pert_type"] for row in passed] == ["trt", None, "-4.00E-06"]
    assert [row["Metadata_Column"] for row in passed] == ["01", "02", ""]


def test_quality_numbers_describe_the_pixels_that_are_used(tmp_path, write_fields, write_tiff):
    batch = write_fields(1)
    plane = np.zeros((136, 136), np.uint16)
    plane[4:132, 4:68] = 65535
    plane[4:132, 68:100] = 128 * 256
    batch[uri_column("RNA")][0] = write_tiff(tmp_path / "steps.tiff", plane)
    loaded = loader()(batch)
    assert loaded["qc_saturated"][0, 2] == 0.5
    assert loaded["qc_zero"][0, 2] == 0.25
    assert loaded["qc_mean"][0, 2] == pytest.approx(0.5 + 0.25 * 128 / 255)
    pixels = field(loaded).astype(np.float64) / 255
    np.testing.assert_allclose(loaded["qc_mean"][0], pixels.mean((1, 2)), rtol=1e-5)


def test_the_rows_do_not_depend_on_the_batch(write_fields):
    batch = write_fields(4, illumination=True)
    together = loader()(batch)
    for row in range(4):
        alone = loader()({name: values[row : row + 1] for name, values in batch.items()})
        same_rows(alone, {name: values[row : row + 1] for name, values in together.items()})


def test_a_real_field_loads_as_the_straight_line_does(real_field):
    batch = {FOV_ID: np.array(["source_4/2021_04_26_Batch1/BR00117035/A01/1"], object)}
    for stain, path in real_field.items():
        batch[uri_column(stain)] = np.array([str(path)], object)
        batch[illum_column(stain)] = np.array([None], object)
    loaded = loader(crop=1024, patch=256)(batch)
    assert loaded[ERROR].tolist() == [""]
    assert loaded[IMAGE].shape == (1, 16, 5, 256, 256)
    np.testing.assert_array_equal(field(loaded), straight_line(batch, 0, 1024))


def test_fields_are_read_from_s3_under_keys_with_spaces(s3, write_fields):
    batch = write_fields(2, illumination=True)
    expected = loader()(batch)
    for name, values in batch.items():
        if not name.startswith(("uri_", "illum_")):
            continue
        for row, path in enumerate(values):
            uri = f"{s3.prefix}/Measurement 1/{Path(path).name}"
            s3.storage.write_bytes(uri, Path(path).read_bytes())
            values[row] = uri
    loaded = loader(s3.config)(batch)
    same_rows(loaded, expected)
    batch[uri_column("ER")][1] = f"{s3.prefix}/Measurement 1/gone.tiff"
    assert_only_this_row_failed(loader(s3.config)(batch), expected, 1, "Measurement 1/gone.tiff")


# Fields that cannot be used


def assert_only_this_row_failed(loaded: Batch, sound: Batch, row: int, *words: str) -> None:
    """The row has an error of one line with these words, zeros and NaN; the others are as in `sound`."""
    message = loaded[ERROR][row]
    assert message
    assert "\n" not in message
    for word in words:
        assert word in message
    assert loaded[IMAGE].shape == sound[IMAGE].shape
    assert not loaded[IMAGE][row].any()
    for name in QC:
        assert np.isnan(loaded[name][row]).all()
    assert loaded[FOV_ID][row] == sound[FOV_ID][row]
    assert metadata(loaded, row) == metadata(sound, row)
    others = np.arange(len(loaded[ERROR])) != row
    same_rows(*({name: values[others] for name, values in each.items()} for each in (loaded, sound)))


def shorten(path: Path, write_tiff) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path, write_tiff) -> None:
    path.write_bytes(b"")


def zero_bytes(path: Path, write_tiff) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def other_format(path: Path, write_tiff) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))


def small(path: Path, write_tiff) -> None:
    write_tiff(path, np.ones((136, 100), np.uint16))


def signed(path: Path, write_tiff) -> None:
    write_tiff(path, -np.ones((136, 136), np.int16))


def colour(path: Path, write_tiff) -> None:
    write_tiff(path, np.ones((136, 136, 3), np.uint8), photometric="rgb")


def folder(path: Path, write_tiff) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, shorten, empty, zero_bytes, other_format, small, signed, colour, folder],
    ids=lambda f: f.__name__,
)
def test_a_file_that_cannot_be_used_costs_its_own_row_only(write_fields, write_tiff, damage: Callable[..., None]):
    batch = write_fields(3)
    sound = loader()(batch)
    path = Path(batch[uri_column("RNA")][1])
    damage(path) if damage is Path.unlink else damage(path, write_tiff)
    assert_only_this_row_failed(loader()(batch), sound, 1, path.name)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (np.ones((100, 136)), ("136 x 136", "100 x 136")),
        (np.full((136, 136), np.nan), ("not an illumination function",)),
        (np.ones((2, 136, 136)), ("not an illumination function",)),
        (None, ()),
    ],
    ids=["another size", "nan", "three axes", "missing"],
)
def test_an_illumination_function_that_cannot_be_used_costs_the_rows_that_need_it(
    tmp_path, write_fields, write_illumination, function, words
):
    batch = write_fields(3)
    sound = loader()(batch)
    path = tmp_path / "illum" / "P9_IllumER.npy"
    batch[illum_column("ER")][1] = str(path) if function is None else write_illumination(path, function)
    assert_only_this_row_failed(loader()(batch), sound, 1, "P9_IllumER.npy", *words)


def test_a_channel_that_the_file_does_not_have_is_named(write_fields):
    batch = write_fields(2)
    sound = loader()(batch)
    batch[channel_column("DNA")] = np.array([0, 3], object)
    assert_only_this_row_failed(loader()(batch), sound, 1, "A02-DNA.tiff", "plane 3")


def test_a_failed_function_is_read_again_for_the_next_batch(tmp_path, write_fields, write_illumination):
    batch = write_fields(1)
    path = tmp_path / "illum" / "late.npy"
    batch[illum_column("ER")][0] = str(path)
    load = loader()
    assert load(batch)[ERROR][0]
    write_illumination(path, np.ones((136, 136)))
    assert load(batch)[ERROR][0] == ""


def test_a_batch_of_failures_keeps_every_row(write_fields, tmp_path):
    batch = write_fields(2)
    shutil.rmtree(tmp_path / "images")
    loaded = loader()(batch)
    assert loaded[IMAGE].shape == (2, 4, 5, 64, 64)
    assert all(loaded[ERROR])
    assert loaded[FOV_ID].tolist() == batch[FOV_ID].tolist()


def test_a_bucket_that_does_not_exist_is_an_error_of_the_row(s3, write_fields):
    batch = write_fields(2)
    sound = loader()(batch)
    batch[uri_column("Mito")][0] = "s3://no-such-bucket/a.tiff"
    assert_only_this_row_failed(loader(s3.config)(batch), sound, 0, "s3://no-such-bucket/a.tiff", "bucket")


# The probe before a run: what would fail every FOV is raised, not kept


def test_the_probe_says_that_the_crop_is_too_large(write_fields):
    with pytest.raises(CropError, match=r"crop 192 does not fit .*A01-Mito\.tiff, which is 136 x 136"):
        loader(crop=192).probe(write_fields(2))


def test_the_probe_says_that_the_bucket_is_missing(s3, write_fields):
    batch = write_fields(1)
    batch[uri_column("Mito")][0] = "s3://no-such-bucket/a.tiff"
    with pytest.raises(StorageError, match="the bucket does not exist"):
        loader(s3.config).probe(batch)


def test_the_probe_raises_what_is_wrong_with_a_file_and_passes_a_sound_one(write_fields):
    batch = write_fields(1)
    loader().probe(batch)
    zero_bytes(Path(batch[uri_column("DNA")][0]), None)
    with pytest.raises(DecodeError, match="DNA"):
        loader().probe(batch)


# Odd input


@pytest.mark.parametrize("kept", [2, 7])
def test_a_file_of_a_few_bytes_costs_its_own_row_only(write_fields, kept):
    batch = write_fields(3)
    sound = loader()(batch)
    path = Path(batch[uri_column("RNA")][1])
    path.write_bytes(path.read_bytes()[:kept])
    assert_only_this_row_failed(loader()(batch), sound, 1, path.name)


def test_a_float_file_with_pixels_that_are_not_numbers_costs_its_own_row_only(write_fields, write_tiff):
    batch = write_fields(3)
    sound = loader()(batch)
    path = Path(batch[uri_column("RNA")][1])
    pixels = np.full((136, 136), 1000, np.float32)
    pixels[70, 70] = np.nan
    write_tiff(path, pixels, compression=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        loaded = loader()(batch)
    assert_only_this_row_failed(loaded, sound, 1, path.name)


def test_the_probe_does_not_take_a_colour_image_for_a_crop_that_is_too_large(write_fields, write_tiff):
    batch = write_fields(1)
    colour(Path(batch[uri_column("Mito")][0]), write_tiff)
    with pytest.raises(DecodeError, match="A01-Mito"):
        loader().probe(batch)


@pytest.mark.parametrize(("column", "value"), [(offset_column, None), (divisor_column, None), (divisor_column, 0.0)])
def test_a_scaling_constant_that_is_null_or_zero_costs_its_own_row_only(write_fields, column, value):
    batch = write_fields(2)
    for stain in STAINS:
        batch[offset_column(stain)] = np.array([0.0, 0.0], object)
        batch[divisor_column(stain)] = np.array([256.0, 256.0], object)
    load = loader(scaling={"method": "manifest"})
    sound = load(batch)
    batch[column("ER")][1] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        loaded = load(batch)
    assert_only_this_row_failed(loaded, sound, 1, "ER")


# A stream of batches: the next one is fetched while one is decoded


class Reads:
    """Every read of the loader's storage, and the count of bytes objects that are still held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lock = threading.Lock()
        self.events: list[tuple[str, str]] = []  # ("read" or "decode", name of the file)
        self.in_flight = self.most_in_flight = self.held = self.most_held = 0
        read_bytes, decode = Storage.read_bytes, load_stage.decode_planes

        def read(storage: Storage, uri: str) -> bytes:
            with self.lock:
                self.events.append(("read", Path(uri).name))
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
            time.sleep(0.002)
            data = Held(read_bytes(storage, uri))
            data.let_go = self.let_go
            with self.lock:
                self.in_flight -= 1
                self.held += 1
                self.most_held = max(self.most_held, self.held)
            return data

        def decode_planes(data: bytes, channels: list[int], where: str) -> list[np.ndarray]:
            self.decoding(Path(where).name)
            with self.lock:
                self.events.append(("decode", Path(where).name))
            return decode(data, channels, where)

        self.decoding: Callable[[str], None] = lambda name: None
        monkeypatch.setattr(Storage, "read_bytes", read)
        monkeypatch.setattr(load_stage, "decode_planes", decode_planes)

    def let_go(self) -> None:
        with self.lock:
            self.held -= 1

    def names(self, event: str) -> set[str]:
        with self.lock:
            return {name for kind, name in self.events if kind == event}

    def wait_for(self, event: str, names: set[str]) -> None:
        end = time.monotonic() + 20
        while not names <= self.names(event):
            assert time.monotonic() < end, f"never {event}: {sorted(names - self.names(event))}"
            time.sleep(0.001)


class Held(bytes):
    """Bytes that say when they are let go."""

    let_go: Callable[[], None]

    def __del__(self) -> None:
        self.let_go()


def part(batch: Batch, rows: slice) -> Batch:
    return {name: values[rows] for name, values in batch.items()}


def names_of(batch: Batch) -> set[str]:
    """The names of the images of a batch."""
    return {Path(uri).name for stain in STAINS for uri in batch[uri_column(stain)]}


def test_a_stream_gives_every_batch_in_order_as_if_it_came_alone(write_fields):
    batch = write_fields(7, illumination=True)
    Path(batch[uri_column("RNA")][2]).unlink()
    batch[illum_column("ER")][5] = "/no/such/function.npy"
    pieces = [part(batch, slice(start, start + 2)) for start in range(0, 7, 2)]
    streamed = list(loader().stream(iter(pieces)))
    assert len(streamed) == 4
    for loaded, piece in zip(streamed, pieces, strict=True):
        same_rows(loaded, loader()(piece))
    assert [bool(error) for loaded in streamed for error in loaded[ERROR]] == [row in (2, 5) for row in range(7)]
    assert list(loader().stream([])) == []


def test_the_next_batch_is_fetched_with_its_functions_while_one_is_decoded_and_no_batch_after_it(
    tmp_path, write_fields, write_illumination, monkeypatch
):
    batch = write_fields(6, illumination=True)
    other = write_illumination(tmp_path / "illum" / "P2_IllumDNA.npy", np.ones((136, 136)))
    batch[illum_column("DNA")][2:4] = other
    pieces = [part(batch, slice(start, start + 2)) for start in range(0, 6, 2)]
    reads = Reads(monkeypatch)
    reads.decoding = lambda name: reads.wait_for("read", names_of(pieces[1]) | {"P2_IllumDNA.npy"})
    stream = loader().stream(pieces)
    next(stream)
    assert not reads.names("read") & names_of(pieces[2])
    assert not reads.names("decode") & names_of(pieces[1])
    reads.decoding = lambda name: None
    list(stream)
    assert sum(event == "read" for event, _ in reads.events) == 6 * 5 + 6  # a function is read once


def test_a_stream_holds_the_files_of_two_batches_at_most_and_eight_requests(write_fields, monkeypatch):
    batch = write_fields(12)
    reads = Reads(monkeypatch)
    list(loader().stream(part(batch, slice(start, start + 2)) for start in range(0, 12, 2)))
    assert 10 <= reads.most_held <= 20
    assert reads.most_in_flight <= 8
    gc.collect()
    assert reads.held == 0


def test_a_stream_that_is_not_read_to_its_end_takes_its_requests_back(write_fields, monkeypatch):
    batch = write_fields(9)
    reads = Reads(monkeypatch)
    load = loader()
    stream = load.stream(part(batch, slice(start, start + 3)) for start in range(0, 9, 3))
    next(stream)
    stream.close()
    load.readers.shutdown()
    assert not reads.names("read") & names_of(part(batch, slice(6, 9)))


# Files that several stains share, and photographs


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The URIs that were read, and the files that were decoded."""
    seen: dict[str, list[str]] = {"read": [], "decoded": []}
    read_bytes = Storage.read_bytes

    def read(self: Storage, uri: str) -> bytes:
        seen["read"].append(uri)
        return read_bytes(self, uri)

    monkeypatch.setattr(Storage, "read_bytes", read)

    def counting(decode: Callable) -> Callable:
        def counted(data: bytes, channels: list[int], where: str) -> list[np.ndarray]:
            seen["decoded"].append(where)
            return decode(data, channels, where)

        return counted

    for name in ("decode_planes", "decode_colours"):
        monkeypatch.setattr(load_stage, name, counting(getattr(load_stage, name)))
    return seen


def picture(number: int = 0, height: int = 150, width: int = 140) -> np.ndarray:
    """(height, width, 3) uint8 of noise."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photographs(*uris: str, pixels: list[bytes | None] | None = None, colour: bool | None = True) -> Batch:
    """Rows as `sources.photographs` makes them."""
    rows = [np.array([f"photographs/set/-/-/{number}" for number in range(len(uris))], object)]
    batch = {FOV_ID: rows[0], COLOUR: np.array([colour] * len(uris), object)}
    for channel, stain in enumerate("RGB"):
        batch |= {
            uri_column(stain): np.array(uris, object),
            channel_column(stain): np.array([channel] * len(uris), object),
        }
    return batch | ({} if pixels is None else {PIXELS: np.array(pixels, object)})


def photograph_loader(storage: StorageConfig | None = None, **image: Any) -> Loader:
    kind = {"stains": ("R", "G", "B"), "packing": [["R", "G", "B"]], "scaling": {"divisor": 1}, "patch": 128}
    return loader(storage, **{**kind, **image})


def saved(path: Path, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


def test_a_file_that_all_stains_share_is_read_and_decoded_once(tmp_path, write_fields, write_tiff, counted):
    batch = write_fields(2)
    expected = loader()(batch)
    stack = np.stack([tifffile.imread(batch[uri_column(stain)][1]) for stain in STAINS])
    path = write_tiff(tmp_path / "stack.tif", stack, photometric="minisblack")
    for channel, stain in enumerate(STAINS):
        batch[uri_column(stain)][1] = path
        batch[channel_column(stain)] = np.array([None, channel], object)
    for names in counted.values():
        names.clear()
    same_rows(loader()(batch), expected)
    assert counted["read"].count(path) == counted["decoded"].count(path) == 1
    assert len(counted["read"]) == len(counted["decoded"]) == 6


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_a_photograph_is_three_stains_of_one_file_read_once(tmp_path, suffix, counted):
    path = saved(tmp_path / f"a.{suffix}", picture())
    loaded = photograph_loader()(photographs(path))
    assert loaded[ERROR].tolist() == [""]
    assert loaded[IMAGE].shape == (1, 1, 3, 128, 128)
    np.testing.assert_array_equal(loaded[IMAGE][0, 0], np.moveaxis(picture()[11:139, 6:134], -1, 0))
    assert counted == {"read": [path], "decoded": [path]}


def test_the_order_of_the_stains_is_that_of_the_run(tmp_path):
    batch = photographs(saved(tmp_path / "a.png", picture()))
    straight = photograph_loader()(batch)[IMAGE]
    turned = photograph_loader(stains=("B", "R", "G"), packing=[["R", "G", "B"]])(batch)[IMAGE]
    np.testing.assert_array_equal(turned, straight[:, :, [2, 0, 1]])


def test_pixels_that_came_along_are_used_and_nothing_is_fetched(tmp_path, counted):
    paths = [Path(saved(tmp_path / f"{number}.png", picture(number))) for number in range(2)]
    files = photographs(*map(str, paths))
    expected = photograph_loader()(files)
    counted["read"].clear()
    carried = photographs("s3://b/1.tar#0.png", str(paths[1]), pixels=[paths[0].read_bytes(), None])
    same_rows(photograph_loader()(carried), expected)
    assert counted["read"] == [str(paths[1])]  # the row without


@pytest.mark.parametrize("colour", [None, False, float("nan")])
def test_a_colour_file_is_refused_as_a_file_of_stains_also_where_three_stains_share_it(tmp_path, colour):
    path = saved(tmp_path / "rgb.tif", picture())
    loaded = photograph_loader()(photographs(path, colour=colour))
    assert "is a colour image (150 x 140 x 3); one plane per stain is wanted" in loaded[ERROR][0]
    batch = photographs(path)
    del batch[COLOUR]
    assert "is a colour image" in photograph_loader()(batch)[ERROR][0]


def test_a_field_is_resized_before_it_is_corrected_and_cropped(write_fields, write_illumination):
    batch = write_fields(1, illumination=True)
    function = np.random.default_rng(0).uniform(0.5, 2, (160, 160))
    for stain in STAINS:
        write_illumination(Path(batch[illum_column(stain)][0]), function)
    resized = []
    for stain in STAINS:
        plane = tifffile.imread(batch[uri_column(stain)][0])
        resized.append(np.asarray(Image.fromarray(plane).resize((160, 160), Image.Resampling.BILINEAR)))
    expected = np.clip(np.stack(resized) / function / 256, 0, 255).astype(np.uint8)[:, 16:144, 16:144]
    np.testing.assert_array_equal(field(loader(resize=160)(batch)), expected)


def test_photographs_of_any_size_become_one_size(tmp_path):
    sizes = [(200, 90), (90, 200), (128, 128), (1, 1)]
    pictures = [picture(0, *size) for size in sizes]
    paths = [saved(tmp_path / f"{number}.png", pixels) for number, pixels in enumerate(pictures)]
    loaded = photograph_loader(resize=128)(photographs(*paths))
    assert not any(loaded[ERROR])
    for row, pixels in enumerate(pictures):
        small = np.asarray(Image.fromarray(pixels).resize((128, 128), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(loaded[IMAGE][row, 0], np.moveaxis(small, -1, 0))


def test_transposing_swaps_the_axes_of_each_patch_and_keeps_their_order(write_fields):
    batch = write_fields(2)
    straight, swapped = loader()(batch), loader(transpose=True)(batch)
    for row in range(2):
        patches = tile(straight_line(batch, row, 128), 64)
        for number in range(4):
            for stain in range(5):
                np.testing.assert_array_equal(swapped[IMAGE][row, number, stain], patches[number, stain].T)
    assert not np.array_equal(straight[IMAGE], swapped[IMAGE])
    same_rows({**swapped, IMAGE: straight[IMAGE]}, straight)


def test_a_transposed_patch_is_what_monai_reads_of_its_png(tmp_path, write_fields):
    transforms = pytest.importorskip("monai.transforms")
    batch = write_fields(1)
    loaded = loader(transpose=True)(batch)[IMAGE][0]
    for number, patch in enumerate(tile(straight_line(batch, 0, 128), 64)):
        saved(tmp_path / "patch.png", patch[4])
        read = transforms.LoadImage(reader="PILReader", image_only=True)(tmp_path / "patch.png")
        np.testing.assert_array_equal(loaded[number, 4], np.asarray(read))


def cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


def two_frames(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "WEBP", save_all=True, append_images=[Image.fromarray(picture(1))])
    return buffer.getvalue()


def one_pixel(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(0, 1, 1)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [cut_short, two_frames, one_pixel, lambda data: b"", lambda data: b"<html>", lambda data: bytes(len(data))],
    ids=["truncated", "animated", "one pixel", "empty", "no image", "zeros"],
)
@pytest.mark.parametrize("carried", [False, True])
def test_a_photograph_that_cannot_be_used_costs_its_own_row_only(tmp_path, damage, carried):
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(picture(number)).save(path)

    def rows() -> Batch:
        return photographs(*map(str, paths), pixels=[path.read_bytes() for path in paths] if carried else None)

    sound = photograph_loader()(rows())
    paths[1].write_bytes(damage(paths[1].read_bytes()))
    assert_only_this_row_failed(photograph_loader()(rows()), sound, 1, "1.jpg")
