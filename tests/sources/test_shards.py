"""Shards: a run reads from them what it reads from the files, byte for byte, by few ranged reads per row group."""

import functools
import io
import json
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from field_files import STAINS, Batch
from PIL import Image

from sdvae_ray.config import StorageConfig
from sdvae_ray.engine.files.load import IMAGE, Loader
from sdvae_ray.engine.files.pack import Compression, PackedFov, Packer
from sdvae_ray.engine.files.patience import Patience
from sdvae_ray.engine.files.shard_files import parquet_shard, tar_shard
from sdvae_ray.images.prepare import CropError
from sdvae_ray.planning.census import census
from sdvae_ray.planning.sizes import with_sizes
from sdvae_ray.schema import (
    COLOUR,
    ERROR,
    FOV_ID,
    PACK_ERROR,
    PIXELS,
    ROW,
    SHARD,
    SHARD_BYTES,
    SHARD_CROP,
    SHARD_FOOTER,
    SHARD_ROW,
    SHARD_ROW_GROUP,
    channel_column,
    checksum_column,
    height_column,
    illum_column,
    pixels_column,
    uri_column,
    width_column,
)
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.sources import shards
from sdvae_ray.sources.manifest.manifest import read_manifest
from sdvae_ray.sources.manifest.reader import read_row_group
from sdvae_ray.sources.manifest.row import Row, rows_of
from sdvae_ray.sources.shards import ShardError, ShardReader, checksum, footer_size, shard_uri
from sdvae_ray.storage import Storage

SMALL: dict[str, Any] = {"crop": 128, "patch": 64}


def groups(batch: Batch, fovs: list[PackedFov], size: int) -> Iterator[tuple[pa.Table, list[PackedFov]]]:
    """The rows of a shard, `size` to a row group."""
    table = pa.table({name: pa.array(values.tolist()) for name, values in batch.items() if name != PIXELS})
    for start in range(0, len(fovs), size):
        yield table.slice(start, size), fovs[start : start + size]


def packed(
    batch: Batch,
    uri: Path | str,
    stains: tuple[str, ...] = STAINS,
    crop: int | None = None,
    per_group: int = 2,
    storage: Storage | None = None,
    compression: Compression | None = None,
) -> Batch:
    """The rows of the manifest of one shard at `uri`, where the FOVs of the batch are packed."""
    storage = storage or Storage()
    count = len(batch[FOV_ID])
    fovs = [Packer(stains, storage, crop, compression).pack(row) for row in rows_of(batch)]
    data = parquet_shard(groups(batch, fovs, per_group), stains)
    storage.write_bytes(str(uri), data)
    numbers = np.arange(count)
    columns: dict[str, list[Any]] = {
        SHARD: [str(uri)] * count,
        SHARD_BYTES: [len(data)] * count,
        SHARD_FOOTER: [checksum(data[-footer_size(data) :])] * count,
        SHARD_ROW_GROUP: (numbers // per_group).tolist(),
        SHARD_ROW: (numbers % per_group).tolist(),
        PACK_ERROR: [fov.error for fov in fovs],
        **{checksum_column(stain): [fov.checksums.get(stain) for fov in fovs] for stain in stains},
    }
    if crop is not None:
        columns[SHARD_CROP] = [crop] * count
        for stain in stains:
            columns[height_column(stain)], columns[width_column(stain)] = zip(
                *(fov.sizes.get(stain, (None, None)) for fov in fovs), strict=True
            )
    kept = {name: values for name, values in batch.items() if name != PIXELS}
    return kept | {name: np.array(values, object) for name, values in columns.items()}


def same_rows(loaded: Batch, expected: Batch) -> None:
    assert loaded.keys() == expected.keys()
    for name in expected.keys() - {"seconds_load"}:
        np.testing.assert_array_equal(loaded[name], expected[name], err_msg=name)


def load(batch: Batch, storage: StorageConfig | None = None, **image: Any) -> Batch:
    return Loader(ImageConfig(**{**SMALL, **image}), storage or StorageConfig())(batch)


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The ranged reads through storage: (URI, start, stop); any other read of an object is an error."""
    reads: list[tuple[str, int, int]] = []
    read_range = Storage.read_range

    def counted(self: Storage, uri: str, start: int, stop: int) -> bytes:
        reads.append((uri, start, stop))
        return read_range(self, uri, start, stop)

    monkeypatch.setattr(Storage, "read_range", counted)
    return reads


def without_files(folder: Path) -> None:
    """Deletes all TIFFs, so that pixels can come from shards alone."""
    for path in folder.rglob("*.tif*"):
        path.unlink()


# Whole files


@pytest.mark.parametrize("illumination", [False, True])
@pytest.mark.parametrize("scaling", [{"divisor": 256, "bits": 8}, {"divisor": 1, "bits": 16}], ids=["8 bit", "16 bit"])
def test_rows_from_a_shard_are_the_rows_from_the_files(tmp_path, write_fields, illumination, scaling):
    batch = write_fields(5, illumination=illumination)
    expected = load(batch, scaling=scaling)
    rows = packed(batch, tmp_path / "0.parquet")
    without_files(tmp_path)
    loaded = load(rows, scaling=scaling)
    same_rows(loaded, expected)
    assert loaded[ERROR].tolist() == [""] * 5
    assert loaded[IMAGE].any(axis=(1, 2, 3, 4)).all()


def test_a_shard_holds_the_bytes_of_the_files(tmp_path, write_fields):
    batch = write_fields(3)
    packed(batch, tmp_path / "0.parquet")
    table = pq.read_table(tmp_path / "0.parquet")
    for stain in STAINS:
        files = [Path(uri).read_bytes() for uri in batch[uri_column(stain)]]
        assert table[pixels_column(stain)].to_pylist() == files
    assert table[FOV_ID].to_pylist() == batch[FOV_ID].tolist()
    assert table["Metadata_broad_sample"].to_pylist() == batch["Metadata_broad_sample"].tolist()


def test_eight_bit_files_and_a_run_of_two_stains_are_read_from_shards(tmp_path, write_fields, write_tiff):
    batch = write_fields(3)
    for uri in batch[uri_column("DNA")]:
        write_tiff(Path(uri), (tifffile.imread(uri) >> 8).astype(np.uint8))
    image = {"stains": ("DNA", "ER"), "packing": "grey", "scaling": {"divisor": 1}}
    expected = load(batch, **image)
    rows = packed(batch, tmp_path / "0.parquet")
    without_files(tmp_path)
    same_rows(load(rows, **image), expected)


@pytest.fixture
def stacked(tmp_path, write_fields, write_tiff) -> Batch:
    """Two FOVs; the first has files of its stains, the second has RNA, ER and DNA in one file, in another order."""
    batch = write_fields(2)
    shared = ("DNA", "RNA", "ER")
    stack = np.stack([tifffile.imread(batch[uri_column(stain)][1]) for stain in shared])
    path = write_tiff(tmp_path / "images/stack.tif", stack, photometric="minisblack")
    for channel, stain in enumerate(shared):
        batch[uri_column(stain)][1] = path
        batch[channel_column(stain)] = np.array([None, channel], object)
    return batch


@pytest.mark.parametrize("crop", [None, 128])
@pytest.mark.parametrize("stains", [STAINS, ("DNA",), ("ER", "Mito")], ids="+".join)
def test_a_file_that_stains_share_is_stored_once_and_serves_any_of_them(tmp_path, stacked, stains, crop):
    image = {"stains": stains, "packing": "published" if len(stains) == 5 else "grey"}
    expected = load(stacked, **image)
    rows = packed(stacked, tmp_path / "0.parquet", crop=crop)
    without_files(tmp_path)
    same_rows(load(rows, **image), expected)
    table = pq.read_table(tmp_path / "0.parquet")
    stored = [stain for stain in STAINS if table[pixels_column(stain)][1].as_py() is not None]
    assert stored == ["Mito", "AGP", "RNA"]


@pytest.mark.parametrize("is_carried", [False, True])
def test_photographs_come_from_shards_as_from_their_files(tmp_path, is_carried):
    files = []
    for number in range(3):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (90, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, ("PNG", "JPEG", "WEBP")[number])
        files.append(buffer.getvalue())
        (tmp_path / f"{number}.tif").write_bytes(buffer.getvalue())
    batch = {FOV_ID: np.array([f"photographs/set/-/-/{number}" for number in range(3)], object)}
    batch[COLOUR] = np.array([True] * 3, object)
    for channel, stain in enumerate("RGB"):
        batch[uri_column(stain)] = np.array([str(tmp_path / f"{number}.tif") for number in range(3)], object)
        batch[channel_column(stain)] = np.array([channel] * 3, object)
    if is_carried:
        batch[PIXELS] = np.array(files, object)
        without_files(tmp_path)
    stains = ("R", "G", "B")
    image = {"stains": stains, "packing": [stains], "resize": 128, "scaling": {"divisor": 1}}
    expected = load(batch, **image)
    rows = packed(batch, tmp_path / "0.parquet", stains)
    without_files(tmp_path)
    same_rows(load(rows, **image), expected)
    assert expected[ERROR].tolist() == [""] * 3
    table = pq.read_table(tmp_path / "0.parquet")
    assert table[pixels_column("R")].to_pylist() == files
    assert table[pixels_column("G")].null_count == 3
    assert PIXELS not in table.column_names


# Reads


def test_a_small_row_group_is_one_ranged_read_of_the_wanted_columns_and_a_footer_is_one(tmp_path, write_fields, ranges):
    batch = write_fields(6, size=400)
    rows = packed(batch, tmp_path / "0.parquet")
    loader = Loader(ImageConfig(**SMALL), StorageConfig())
    for start in (0, 2, 3, 4):  # a batch of one row, of two, and over two row groups
        loader({name: values[start : start + 2] for name, values in rows.items()})
    assert len(ranges) == 4
    footer, *reads = ranges
    size = (tmp_path / "0.parquet").stat().st_size
    assert footer[2] == size
    files = [[Path(batch[uri_column(stain)][row]).stat().st_size for stain in STAINS] for row in range(6)]
    for number, (_, start, stop) in enumerate(reads):
        wanted = sum(files[2 * number]) + sum(files[2 * number + 1])
        assert wanted < stop - start < 1.02 * wanted

    ranges.clear()
    load(rows, stains=("RNA", "AGP"), packing="grey")
    assert len(ranges) == 4
    wanted = sum(files[0][1:3]) + sum(files[1][1:3])
    assert wanted < ranges[1][2] - ranges[1][1] < 1.02 * wanted


def test_large_columns_are_read_at_a_time_and_the_columns_between_them_are_left_out(
    tmp_path, write_fields, ranges, monkeypatch
):
    batch = write_fields(2, size=200)
    expected = load(batch)
    rows = packed(batch, tmp_path / "0.parquet")
    monkeypatch.setattr(shards, "_REQUEST", 1000)
    same_rows(load(rows), expected)
    places = [chunk(tmp_path / "0.parquet", 0, stain) for stain in STAINS]
    wanted = [(place.data_page_offset, place.data_page_offset + place.total_compressed_size) for place in places]
    assert sorted(read[1:] for read in ranges[1:]) == wanted
    ranges.clear()
    load(rows, stains=("DNA", "Mito"), packing="grey")
    assert sorted(read[1:] for read in ranges[1:]) == [wanted[0], wanted[4]]


def test_the_next_row_group_is_fetched_while_a_row_group_is_in_work(tmp_path, write_fields, ranges):
    rows = rows_of(packed(write_fields(6), tmp_path / "0.parquet"))
    reader = ShardReader(Storage(), STAINS)
    reader.expect(rows[:5])
    reader.files(rows[0])
    deadline = time.monotonic() + 30
    while len(ranges) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(ranges) == 3  # the footer and two row groups
    for row in rows:
        reader.files(row)
    assert len(ranges) == 4


def test_a_read_that_failed_is_tried_again_for_the_next_row(tmp_path, write_fields):
    row = rows_of(packed(write_fields(2), tmp_path / "0.parquet"))[0]
    (tmp_path / "0.parquet").rename(tmp_path / "1.parquet")
    reader = ShardReader(Storage(), STAINS)
    with pytest.raises(FileNotFoundError):
        reader.files(row)
    (tmp_path / "1.parquet").rename(tmp_path / "0.parquet")
    assert len(reader.files(row)) == len(STAINS)


def test_a_footer_of_more_than_the_first_read_is_read_whole(tmp_path, write_fields, ranges):
    batch = write_fields(2)
    expected = load(batch)
    for number in range(500):
        batch[f"Metadata_{number:03d}"] = np.array(["a", "b"], object)
    rows = packed(batch, tmp_path / "0.parquet", per_group=1)
    loaded = load({name: values for name, values in rows.items() if not name[-3:].isdigit()})
    same_rows(loaded, expected)
    assert len(ranges) == 4


def test_shards_in_a_bucket_are_read_as_those_on_a_disk(tmp_path, write_fields, s3):
    batch = write_fields(3)
    expected = load(batch)
    rows = packed(batch, f"{s3.prefix}/some shards/0.parquet", storage=s3.storage)
    without_files(tmp_path)
    same_rows(load(rows, s3.config), expected)


def test_a_shard_is_found_beside_its_manifest(tmp_path):
    assert shard_uri("shards/0.parquet", "s3://bucket/a/manifest.parquet") == "s3://bucket/a/shards/0.parquet"
    assert shard_uri("shards/0.parquet", "/a b/manifest.parquet") == "/a b/shards/0.parquet"
    for elsewhere in ("s3://other/0.parquet", "/c/0.parquet", "file:///c/0.parquet"):
        assert shard_uri(elsewhere, "s3://bucket/a/manifest.parquet") == elsewhere
    keys = {"fov_id": "s/b/p/w/1", "Metadata_Source": "s", "Metadata_Batch": "b", "Metadata_Plate": "p"}
    row = {**keys, "Metadata_Well": "w", "Metadata_Site": "1", uri_column("DNA"): "x.tif", SHARD: "shards/0.parquet"}
    uri = str(tmp_path / "manifest.parquet")
    pl.DataFrame([row]).write_parquet(uri)
    place = str(tmp_path / "shards/0.parquet")
    assert read_row_group(uri, 0, Storage())[SHARD].to_pylist() == [place]
    assert read_manifest(uri, Storage())[SHARD].to_list() == [place]


# Damage


def test_a_file_that_is_missing_or_damaged_is_a_row_with_the_reason_that_the_files_give(tmp_path, write_fields):
    batch = write_fields(4)
    Path(batch[uri_column("ER")][1]).unlink()
    truncated = Path(batch[uri_column("DNA")][2])
    truncated.write_bytes(truncated.read_bytes()[:-2000])
    expected = load(batch)
    rows = packed(batch, tmp_path / "0.parquet")
    assert [error is None for error in rows[PACK_ERROR]] == [True, False, True, True]
    cropped = packed(batch, tmp_path / "1.parquet", crop=128)
    assert [error is None for error in cropped[PACK_ERROR]] == [True, False, False, True]
    without_files(tmp_path)
    assert [bool(error) for error in expected[ERROR]] == [False, True, True, False]
    assert "no such object" in expected[ERROR][1]
    same_rows(load(rows), expected)
    same_rows(load(cropped), expected)
    table = pq.read_table(tmp_path / "1.parquet")
    assert table[PACK_ERROR].to_pylist() == cropped[PACK_ERROR].tolist()
    assert [table[pixels_column(stain)].null_count for stain in STAINS] == [2] * 5


@pytest.mark.parametrize("damage", ["missing", "truncated", "overwritten", "zeros"])
def test_a_damaged_shard_gives_rows_with_an_error_that_names_it(tmp_path, write_fields, damage):
    rows = packed(write_fields(2), tmp_path / "0.parquet")
    path = tmp_path / "0.parquet"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        after = {"truncated": data[:-1000], "overwritten": b"x" * len(data), "zeros": bytes(len(data))}
        path.write_bytes(after[damage])
    errors = load(rows)[ERROR]
    assert all("0.parquet" in error for error in errors)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def chunk(path: Path, group: int, stain: str) -> pq.ColumnChunkMetaData:
    meta = pq.read_metadata(path).row_group(group)
    chunks = [meta.column(number) for number in range(meta.num_columns)]
    return next(chunk for chunk in chunks if chunk.path_in_schema == pixels_column(stain))


def test_a_checksum_is_that_of_zlib():
    data = bytes(range(256)) * 100
    assert checksum(data) == zlib.crc32(data)


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_a_flipped_bit_in_the_bytes_of_a_file_costs_its_own_row_only(tmp_path, write_fields, write_tiff, compression):
    batch = write_fields(4)
    for stain in STAINS:
        for uri in batch[uri_column(stain)]:
            write_tiff(Path(uri), tifffile.imread(uri), compression)
    expected = load(batch)
    rows = packed(batch, tmp_path / "0.parquet")
    uri = str(batch[uri_column("RNA")][2])
    flip(tmp_path / "0.parquet", (tmp_path / "0.parquet").read_bytes().index(Path(uri).read_bytes()) + 9000)
    loaded = load(rows)
    shard = tmp_path / "0.parquet"
    assert loaded[ERROR].tolist() == ["", "", f"the shard {shard} is damaged: wrong checksum of the bytes of {uri}", ""]
    assert not loaded[IMAGE][2].any()
    for row in (0, 1, 3):
        np.testing.assert_array_equal(loaded[IMAGE][row], expected[IMAGE][row])
    # a run that does not see the stain does not mind
    assert load(rows, stains=("DNA", "ER"), packing="grey")[ERROR].tolist() == [""] * 4


def ill_once(
    monkeypatch: pytest.MonkeyPatch, of_footer: bool, size: int, damage: Callable[[bytearray], None]
) -> list[int]:
    """Damages the first read of the footer of a shard of `size` bytes, or of its pixels; where the damaged reads start."""
    read_range, damaged = Storage.read_range, []

    def read(self: Storage, uri: str, start: int, stop: int) -> bytes:
        data = bytearray(read_range(self, uri, start, stop))
        if not damaged and (stop == size) == of_footer:
            damaged.append(start)
            damage(data)
        return bytes(data)

    monkeypatch.setattr(Storage, "read_range", read)
    return damaged


@pytest.mark.parametrize("ill", ["pixels", "footer"])
def test_a_bit_that_flips_on_the_way_is_read_again_and_a_damaged_shard_only_once_more(
    tmp_path, write_fields, monkeypatch, ill
):
    batch = write_fields(4)
    expected, rows = load(batch), packed(batch, tmp_path / "0.parquet")

    def flip_a_bit(data: bytearray) -> None:
        data[len(data) - 100 if ill == "footer" else len(data) // 2] ^= 0x10

    damaged = ill_once(monkeypatch, ill == "footer", (tmp_path / "0.parquet").stat().st_size, flip_a_bit)
    same_rows(load(rows), expected)
    assert len(damaged) == 1


@pytest.mark.parametrize("ill", ["page header", "footer"])
def test_rows_that_wait_for_one_damaged_read_all_get_the_second_one(tmp_path, write_fields, monkeypatch, ill):
    rows = rows_of(packed(write_fields(4), tmp_path / "0.parquet", per_group=4))
    sound = [ShardReader(Storage(), STAINS).files(row) for row in rows]

    def blank(data: bytearray) -> None:
        time.sleep(0.3)  # the other rows ask in the meantime
        start = len(data) - 100 if ill == "footer" else 0
        data[start : start + 8] = bytes(8)

    damaged = ill_once(monkeypatch, ill == "footer", (tmp_path / "0.parquet").stat().st_size, blank)
    reader = ShardReader(Storage(), STAINS)
    with ThreadPoolExecutor(len(rows)) as threads:
        assert list(threads.map(functools.partial(files_or_error, reader), rows)) == sound
    assert len(damaged) == 1


def files_or_error(reader: ShardReader, row: Row) -> dict[str, bytes] | str:
    """The files of a row, or the text of the ShardError."""
    try:
        return reader.files(row)
    except ShardError as error:
        return str(error)


def test_a_flipped_bit_anywhere_in_a_page_header_gives_errors_or_the_right_pixels(tmp_path, write_fields):
    rows = rows_of(packed(write_fields(4), tmp_path / "0.parquet"))
    path = tmp_path / "0.parquet"
    sound = path.read_bytes()
    files = [ShardReader(Storage(), STAINS).files(row) for row in rows]
    damaged = 0
    start = chunk(path, 1, "ER").data_page_offset
    for position in range(start, start + 40):  # the header, the levels, and the length of the first value
        flip(path, position)
        reader = ShardReader(Storage(), STAINS)
        assert [files_or_error(reader, row) for row in rows[:2]] == files[:2]
        for row, sound_files in zip(rows[2:], files[2:], strict=True):
            outcome = files_or_error(reader, row)
            assert outcome == sound_files or "0.parquet is damaged" in str(outcome)
            damaged += outcome != sound_files
        path.write_bytes(sound)
    assert damaged > 40


def test_a_flipped_bit_in_a_footer_is_found_before_it_is_parsed(tmp_path, write_fields, monkeypatch):
    rows = packed(write_fields(2), tmp_path / "0.parquet")
    path = tmp_path / "0.parquet"
    sound = path.read_bytes()
    footer = footer_size(sound)
    parsed = []
    monkeypatch.setattr(pq, "read_metadata", parsed.append)
    for position in (-footer, -footer // 2, -9, -8, -6, -5, -1):
        flip(path, position)
        for error in load(rows)[ERROR]:
            assert error.startswith(f"the shard {path} is damaged")
            assert "wrong checksum of its footer" in error
        path.write_bytes(sound)
    assert parsed == []


def test_a_shard_of_another_manifest_is_an_error(tmp_path, write_fields):
    rows = packed(write_fields(2), tmp_path / "0.parquet")
    packed(write_fields(2, seed=1, folder=tmp_path / "others"), tmp_path / "0.parquet")
    assert all("0.parquet is damaged, or is not the shard of this manifest" in error for error in load(rows)[ERROR])


def test_a_manifest_of_shards_without_checksums_is_read(tmp_path, write_fields):
    batch = write_fields(2)
    rows = packed(batch, tmp_path / "0.parquet")
    absent = {SHARD_FOOTER, *map(checksum_column, STAINS)}
    same_rows(load({name: values for name, values in rows.items() if name not in absent}), load(batch))
    nulls = {name: np.array([None, None], object) for name in absent}
    same_rows(load(rows | nulls), load(batch))


# Crops


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("illumination", [False, True])
@pytest.mark.parametrize(("size", "stored"), [(136, 128), (137, 128), (201, 130), (200, 129)])
def test_a_cropped_shard_gives_the_rows_of_whole_files(tmp_path, write_fields, size, stored, illumination, compression):
    batch = write_fields(2, size=size, illumination=illumination)
    rows = packed(batch, tmp_path / "0.parquet", crop=stored, compression=compression)
    for crop in (128, 64):
        expected = load(batch, crop=crop)
        same_rows(load(rows, crop=crop), expected)
        assert expected[ERROR].tolist() == ["", ""]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, ">u2"])
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_planes_of_any_number_format_are_cropped_without_loss(tmp_path, write_fields, write_tiff, dtype, compression):
    batch = write_fields(1)
    for stain in STAINS:
        path = Path(batch[uri_column(stain)][0])
        byteorder = ">" if dtype == ">u2" else "<"
        write_tiff(path, (tifffile.imread(path) / 257.3).astype(dtype), compression=None, byteorder=byteorder)
    expected = load(batch, scaling={"divisor": 0.01, "bits": 16})
    rows = packed(batch, tmp_path / "0.parquet", crop=128, compression=compression)
    without_files(tmp_path)
    same_rows(load(rows, scaling={"divisor": 0.01, "bits": 16}), expected)
    assert expected[ERROR].tolist() == [""]


def test_an_illumination_function_of_another_size_is_refused_for_a_cropped_shard_too(
    tmp_path, write_fields, write_illumination
):
    batch = write_fields(1, illumination=True)
    write_illumination(Path(batch[illum_column("DNA")][0]), np.ones((128, 128)))
    expected = load(batch)
    assert "its illumination function" in expected[ERROR][0]
    same_rows(load(packed(batch, tmp_path / "0.parquet", crop=128)), expected)


def test_a_cropped_shard_is_smaller_and_holds_the_central_pixels(tmp_path, write_fields):
    batch = write_fields(1, size=256)
    fov = Packer(STAINS, Storage(), 128, "zstd").pack(rows_of(batch)[0])
    assert fov.stored_bytes < fov.source_bytes / 3
    assert fov.source_bytes == sum(Path(batch[uri_column(stain)][0]).stat().st_size for stain in STAINS)
    for stain in STAINS:
        whole = tifffile.imread(batch[uri_column(stain)][0])
        np.testing.assert_array_equal(tifffile.imread(io.BytesIO(fov.files[stain])), whole[64:192, 64:192])
        assert fov.sizes[stain] == (256, 256)


@pytest.mark.parametrize(("image", "reason"), [({"crop": 192}, "pack with --crop 192"), ({"resize": 128}, "resize")])
def test_a_run_that_sees_more_than_a_cropped_shard_holds_is_refused(tmp_path, write_fields, image, reason):
    rows = packed(write_fields(1, size=200), tmp_path / "0.parquet", crop=128)
    with pytest.raises(CropError, match=reason):
        Loader(ImageConfig(**{**SMALL, **image}), StorageConfig()).probe(rows)
    assert reason in load(rows, **image)[ERROR][0]


# Tars


def test_a_tar_holds_the_files_under_their_numbers_with_the_row_as_json(tmp_path, stacked):
    Path(stacked[uri_column("Mito")][0]).unlink()
    fovs = [Packer(STAINS, Storage()).pack(row) for row in rows_of(stacked)]
    data = tar_shard(groups(stacked, fovs, 1), STAINS, first=64)
    assert tar_shard(groups(stacked, fovs, 2), STAINS, first=64) == data
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    files = {f"000000065.{stain}.tif": Path(stacked[uri_column(stain)][1]).read_bytes() for stain in STAINS[:3]}
    assert {name: members[name] for name in members if not name.endswith("json")} == files
    failed, sound = (json.loads(members[f"0000000{number}.json"]) for number in (64, 65))
    assert "no such object" in failed[PACK_ERROR]
    assert failed["files"] == dict.fromkeys(STAINS)
    assert sound[PACK_ERROR] is None
    assert sound["files"] == {
        **{stain: f"000000065.{stain}.tif" for stain in STAINS[:3]},
        "ER": "000000065.RNA.tif",
        "DNA": "000000065.RNA.tif",
    }
    assert sound[FOV_ID] == stacked[FOV_ID][1]
    assert ROW not in sound


def test_planned_requests_of_shards_are_those_that_the_loader_makes(tmp_path, write_fields):
    """Seven fields, three to a row group, by one load actor."""
    rows = packed(write_fields(7), tmp_path / "0.parquet", per_group=3)
    manifest = str(tmp_path / "manifest.parquet")
    pl.DataFrame({name: values.tolist() for name, values in rows.items()}).write_parquet(manifest)
    image = ImageConfig(**SMALL)
    counted = with_sizes(census(manifest, STAINS, Storage(), sample=7), manifest, image, Storage())
    (source,) = counted.sources
    loader = Loader(image, StorageConfig(), patience=Patience(0))
    assert set(loader(rows)[ERROR]) == {""}
    traffic = loader.taken_traffic()
    assert (source.fovs, source.files, source.shards, source.row_groups) == (7, 0, 1, 3)
    assert traffic.reads == source.group_reads + source.footer_reads == 4
    assert traffic.read_bytes == source.bytes_in + source.footer_bytes
