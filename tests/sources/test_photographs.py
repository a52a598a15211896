"""Sets of photographs: the same rows and pixels from every way in which they are kept, and a sentence for what is none."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sdvae_ray.config import StorageConfig
from sdvae_ray.engine.files.load import IMAGE, Loader
from sdvae_ray.errors import ConfigError, DataError, StorageError
from sdvae_ray.schema import COLOUR, ERROR, FOV_ID, PIXELS, fov_id, uri_column
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.sources import photographs as photographs_module
from sdvae_ray.sources.manifest.manifest import check_manifest, read_manifest
from sdvae_ray.sources.manifest.reader import read_row_group, row_groups
from sdvae_ray.sources.photograph_readers import find_photographs, read_photographs
from sdvae_ray.sources.photographs import Photographs, build_photographs, write_photographs
from sdvae_ray.storage import Storage

STORAGE = Storage()
CONFIG = ImageConfig(
    stains=("R", "G", "B"), packing=(("R", "G", "B"),), crop=64, patch=64, resize=64, scaling={"divisor": 1}
)
Set = dict[str, dict[str, bytes]]  # class -> name -> encoded photograph


def jpeg(number: int, size: int = 80, kind: str = "JPEG") -> bytes:
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : (size + 10) * 1j]
    pixels = np.stack([255 * y, 255 * x, 255 * (np.sin((number + 2) * 9 * x) + 1) / 2], -1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def small() -> Set:
    """Two classes, seven photographs of three formats."""
    kinds = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
    suffixes = ["jpg", "png", "webp", "jpg", "jpg", "webp", "png"]
    files = [(f"{number:02d}.{suffix}", jpeg(number, kind=kinds[suffix])) for number, suffix in enumerate(suffixes)]
    return {"church": dict(files[:4]), "classroom": dict(files[4:])}


def build(*sources: Path | str, **options: Any) -> Photographs:
    return build_photographs([str(source) for source in sources], **{"name": "lsun", "storage": STORAGE, **options})


def refusal(*sources: Path | str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        build(*sources, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def written(built: Photographs, uri: Path | str, storage: Storage = STORAGE) -> pa.Table:
    write_photographs(built, str(uri), storage)
    sizes, _ = row_groups(str(uri), storage)
    return pa.concat_tables([read_row_group(str(uri), group, storage) for group in range(len(sizes))])


def loaded(table: pa.Table, storage: StorageConfig | None = None) -> dict[str, tuple[str, np.ndarray]]:
    """fov_id -> (error, (3, 64, 64)) of a manifest's rows."""
    batch = {name: np.array(table[name].to_pylist(), object) for name in table.column_names}
    out = Loader(CONFIG, storage or StorageConfig())(batch)
    return {row: (out[ERROR][at], out[IMAGE][at, 0]) for at, row in enumerate(out[FOV_ID])}


def expected_ids(photographs: Set) -> dict[str, bytes]:
    """fov_id -> its bytes."""
    return {
        f"photographs/lsun/{label}/-/{hashlib.sha256(data).hexdigest()[:16]}": data
        for label, files in photographs.items()
        for data in files.values()
    }


# The ways in which a set is kept


def as_folder(root: Path, photographs: Set) -> Path:
    for label, files in photographs.items():
        for name, data in files.items():
            path = root / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return root


def shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def as_shards(root: Path, photographs: Set) -> Path:
    """A shard per class: the class of the first in .cls files before the images, of the others in .json files after them."""
    for number, (label, files) in enumerate(photographs.items()):
        members = []
        for name, data in files.items():
            key, _, suffix = name.partition(".")
            if number == 0:
                members += [
                    (f"{key}.cls", f"{label}\n".encode()),
                    (f"{key}.{suffix}", data),
                    (f"{key}.txt", b"a photograph"),
                ]
            else:
                members += [(f"./{name}", data), (f"./{key}.json", json.dumps({"label": label}).encode())]
        shard(root / f"train-{number}.tar", members)
    return root


KEPT = pytest.mark.parametrize("keep", [as_folder, as_shards], ids=lambda f: f.__name__)


@KEPT
def test_a_set_has_the_same_rows_and_pixels_however_it_is_kept(tmp_path, small, keep):
    built = build(keep(tmp_path / "set", small))
    expected = expected_ids(small)
    assert built.table[FOV_ID].to_list() == sorted(expected)
    assert built.notes == []
    table = written(built, tmp_path / "manifest.parquet")
    for row, (error, pixels) in loaded(table).items():
        image = Image.open(io.BytesIO(expected[row])).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
        assert error == ""
        np.testing.assert_array_equal(pixels, np.moveaxis(np.asarray(image), -1, 0))
    assert len(loaded(table)) == 7


@KEPT
def test_a_row_is_a_sound_row_of_a_manifest_and_says_where_the_photograph_was(tmp_path, small, keep):
    root = keep(tmp_path / "set", small)
    table = pl.DataFrame(written(build(root), tmp_path / "manifest.parquet"))
    check_manifest(table, ("R", "G", "B"), "x")
    assert read_manifest(str(tmp_path / "manifest.parquet"), STORAGE).equals(table)
    for row in table.iter_rows(named=True):
        assert row[FOV_ID] == fov_id(row)
        assert (row["channel_R"], row["channel_G"], row["channel_B"], row[COLOUR]) == (0, 1, 2, True)
        assert row["uri_R"] == row["uri_G"] == row["uri_B"]
        assert row["uri_R"].startswith(f"{tmp_path}/set/")
        if keep is as_folder:
            assert PIXELS not in row
            assert hashlib.sha256(Path(row["uri_R"]).read_bytes()).hexdigest()[:16] == row["Metadata_Site"]
        else:
            container, _, member = row["uri_R"].partition("#")
            assert Path(container).exists()
            assert member
            assert hashlib.sha256(row[PIXELS]).hexdigest()[:16] == row["Metadata_Site"]


@KEPT
def test_a_set_in_a_bucket_gives_the_same_rows_and_pixels(tmp_path, small, keep, s3):
    local = loaded(written(build(keep(tmp_path / "set", small)), tmp_path / "manifest.parquet"))
    for path in sorted(file for file in (tmp_path / "set").rglob("*") if file.is_file()):
        s3.storage.write_bytes(f"{s3.prefix}/the set/{path.relative_to(tmp_path / 'set')}", path.read_bytes())
    built = build(f"{s3.prefix}/the set", storage=s3.storage)
    assert built.table[uri_column("R")].str.starts_with(f"{s3.prefix}/the set/").all()
    remote = loaded(written(built, f"{s3.prefix}/manifest.parquet", s3.storage), s3.config)
    assert remote.keys() == local.keys()
    for row, (error, pixels) in remote.items():
        assert error == ""
        np.testing.assert_array_equal(pixels, local[row][1])


def test_real_photographs_are_rows(shared, tmp_path):
    folder = shared / "data/natural"
    built = build(folder, name="natural")
    assert sorted(Path(uri).name for uri in built.table[uri_column("R")]) == [
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "rocket.jpg",
    ]
    assert set(built.table["Metadata_Plate"]) == {"-"}
    rows = loaded(written(built, tmp_path / "m.parquet"))
    assert {error for error, _ in rows.values()} == {""}
    files = {"-": {path.name: path.read_bytes() for path in folder.iterdir()}}
    carried = build(shard(tmp_path / "natural.tar", list(files["-"].items())), name="natural")
    for row, (error, pixels) in loaded(written(carried, tmp_path / "n.parquet")).items():
        assert error == ""
        np.testing.assert_array_equal(pixels, rows[row][1])


def test_one_file_or_one_shard_may_be_named(tmp_path, small):
    root = as_folder(tmp_path / "folder", small)
    assert build(root / "church/00.jpg").table["Metadata_Plate"].to_list() == ["-"]
    shards = as_shards(tmp_path / "shards", small)
    assert set(build(shards / "train-1.tar").table["Metadata_Plate"]) == {"classroom"}


def test_a_class_is_the_path_of_its_folder_without_slashes(tmp_path, small):
    root = as_folder(tmp_path, {"train/church outdoor": small["church"]})
    built = build(root)
    assert set(built.table["Metadata_Plate"]) == {"train_church outdoor"}
    assert loaded(written(built, tmp_path / "m.parquet")).keys() == set(built.table[FOV_ID])


def test_a_shard_without_classes_and_a_sample_of_two_photographs_are_read(tmp_path, small):
    first, second, *_ = small["church"].values()
    path = shard(
        tmp_path / "a.tar",
        [("d/1.left.jpg", first), ("d/1.right.png", second), ("d/1.cls", b"7"), ("d/._1.left.jpg", b"x")],
    )
    assert build(path).table["Metadata_Plate"].to_list() == ["7", "7"]
    path = shard(
        tmp_path / "b.tar", [("1.jpg", first), ("1.json", b"not json"), ("2.png", second), ("2.json", b'["a"]')]
    )
    assert build(path).table["Metadata_Plate"].to_list() == ["-", "-"]
    path = shard(tmp_path / "c.tar", [("1.jpg", first), ("1.json", b'{"class": "a/b"}')])
    assert build(path).table["Metadata_Plate"].to_list() == ["a_b"]


# Which photographs


@KEPT
def test_the_limit_takes_the_lowest_hashes_of_each_class_whatever_the_order(tmp_path, small, keep):
    turned = {label: dict(reversed(files.items())) for label, files in reversed(small.items())}
    tables = [build(keep(tmp_path / name, each), limit=2) for name, each in [("a", small), ("b", turned)]]
    by_class = [sorted(row for row in expected_ids({label: files})) for label, files in small.items()]
    assert tables[0].table[FOV_ID].to_list() == sorted([*by_class[0][:2], *by_class[1][:2]])
    assert tables[1].table[FOV_ID].to_list() == tables[0].table[FOV_ID].to_list()
    assert tables[0].notes == ["4 of 7 photographs are kept: at most 2 per class, by the hash of their bytes"]
    assert loaded(written(tables[0], tmp_path / "m.parquet")).keys() == set(tables[0].table[FOV_ID])


@KEPT
def test_photographs_of_equal_bytes_are_one_and_are_counted(tmp_path, small, keep):
    twin = small["church"]["01.png"]
    again = {"church": {**small["church"], "97.png": twin}, "classroom": {**small["classroom"], "98.png": twin}}
    built = build(keep(tmp_path / "set", again))
    assert built.table[FOV_ID].to_list() == sorted(expected_ids(small))  # of the first class by name
    assert built.notes == ["2 of 9 photographs have the bytes of another and are left out"]
    assert loaded(written(built, tmp_path / "m.parquet")).keys() == expected_ids(small).keys()


def refused_shard(tmp_path: Path, members: list[tuple[str, bytes]]) -> str:
    with pytest.raises(DataError) as caught:
        build(shard(tmp_path / "a.tar", members))
    message = str(caught.value)
    assert "a.tar" in message
    assert "\n" not in message
    return message


def test_container_kind_a_name_that_a_shard_holds_twice_is_refused(tmp_path, small):
    first, second, *_ = small["church"].values()
    assert "has 1.jpg twice" in refused_shard(tmp_path, [("1.jpg", first), ("1.jpg", second)])


@pytest.mark.parametrize(
    "names",
    [
        ("1.jpg", "2.png", "1.cls", "2.cls"),
        ("1.jpg", "1.cls", "2.png", "2.cls", "1.cls"),
        ("d/1.jpg", "d/1.cls", "d/2.png", "d/2.cls", "./d/1.json"),
    ],
    ids=["labels last", "a key again", "a key again by another path"],
)
def test_container_kind_a_sample_whose_members_stand_apart_is_refused_by_its_key(tmp_path, small, names):
    first, second, *_ = small["church"].values()
    contents = {"jpg": first, "png": second, "cls": b"church", "json": b"{}"}
    message = refused_shard(tmp_path, [(name, contents[name.rpartition(".")[2]]) for name in names])
    assert "1' are not side by side" in message


def test_container_kind_names_with_dots_keep_their_own_labels(tmp_path, small):
    first, second, *_ = small["church"].values()
    members = [
        ("v1.0/2021.05.01.jpg", first),
        ("v1.0/2021.05.01.cls", b"church"),
        ("v1.0/2021.05.02.png", second),
        ("v1.0/2021.05.02.json", b'{"label": "classroom"}'),
    ]
    table = build(shard(tmp_path / "b.tar", members)).table
    plates = dict(table.select(uri_column("R"), "Metadata_Plate").iter_rows())
    assert {uri.partition("#")[2]: plate for uri, plate in plates.items()} == {
        "v1.0/2021.05.01.jpg": "church",
        "v1.0/2021.05.02.png": "classroom",
    }
    message = refused_shard(tmp_path, members[:3])
    assert "v1.0/2021.05.02.png has no label" in message
    assert "'v1.0/2021' ends at the first dot" in message


def test_files_and_members_of_shards_may_be_one_set(tmp_path, small):
    church, classroom = ({label: files} for label, files in small.items())
    folder, shards = as_folder(tmp_path / "folder", church), as_shards(tmp_path / "shards", classroom)
    built = build(folder, shards)
    table = written(built, tmp_path / "m.parquet")
    assert [pixels is None for pixels in table[PIXELS].to_pylist()] == [True] * 4 + [False] * 3
    assert sorted(table[FOV_ID].to_pylist()) == sorted(expected_ids(small))
    assert {error for error, _ in loaded(table).values()} == {""}


# Bad photographs and other files


def test_bad_photographs_are_rows_that_fail_later_each_with_a_reason(tmp_path, small):
    church = {**small["church"], "cut.jpg": small["church"]["00.jpg"][:200], "empty.png": b"", "text.webp": b"<html>"}
    for number, keep in enumerate((as_folder, as_shards)):
        built = build(keep(tmp_path / str(number), {"church": church}))
        assert built.notes == ["1 photographs are empty files"]
        rows = loaded(written(built, tmp_path / f"{number}.parquet"))
        errors = [error for error, _ in rows.values() if error]
        assert len(rows) == 7
        assert len(errors) == 3
        assert all("bytes" in error and "\n" not in error for error in errors)


def test_other_files_of_a_folder_and_links_to_nothing_are_left_out_and_said(tmp_path, small):
    root = as_folder(tmp_path / "set", small)
    (root / "LICENSE.txt").write_text("CC0")
    (root / "church" / ".hidden.jpg").write_bytes(b"x")
    (root / "church" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    built = build(root)
    assert built.table.height == 7
    assert built.notes == [
        f"1 left out, no photograph by its name: {root}/LICENSE.txt",
        f"1 left out, gone: {root}/church/gone.jpg",
    ]


def test_what_holds_no_photographs_is_refused_with_what_is_allowed(tmp_path, small):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.csv").write_text("a")
    assert "nowhere does not exist" in refusal(tmp_path / "nowhere")
    for name in ("empty", "texts", "texts/a.csv"):
        message = refusal(tmp_path / name)
        assert f"{tmp_path}/{name} holds no photographs" in message
        assert "WebDataset" in message
    as_shards(as_folder(tmp_path / "both", small), small)
    message = refusal(tmp_path / "both")
    assert "7 image files (church/00.jpg) and 2 shards (train-0.tar); name the folders or files of one kind" in message


@pytest.mark.parametrize("content", [b"", b"not what its name says" * 100])
def test_a_shard_that_is_no_tar_file_is_refused(tmp_path, content):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    message = refusal(path)
    assert str(path) in message
    assert "damaged" in message or "not one photograph" in message


def test_a_shard_that_ends_early_is_refused(tmp_path, small):
    path = as_shards(tmp_path / "set", small) / "train-0.tar"
    path.write_bytes(path.read_bytes()[:3000])
    assert f"{path} is damaged" in refusal(path)


@pytest.mark.parametrize(
    ("options", "words"), [({"limit": 0}, "limit is 0"), ({"name": "a/b"}, "'a/b'"), ({"name": " "}, "empty")]
)
def test_options_that_cannot_be_are_refused(tmp_path, small, options, words):
    with pytest.raises(ConfigError, match=words):
        build(as_folder(tmp_path, small), **options)
    with pytest.raises(ConfigError, match="no photographs are given"):
        build()


# The manifest's file


def test_row_groups_are_bounded_in_rows_and_in_bytes(tmp_path, small, monkeypatch):
    built = build(as_shards(tmp_path / "set", small))
    largest = max(len(data) for files in small.values() for data in files.values())
    monkeypatch.setattr(photographs_module, "ROWS_PER_GROUP", 3)
    write_photographs(built, str(tmp_path / "rows.parquet"), STORAGE)
    assert row_groups(str(tmp_path / "rows.parquet"), STORAGE)[0] == [3, 3, 1]
    monkeypatch.setattr(photographs_module, "ROWS_PER_GROUP", 128)
    monkeypatch.setattr(photographs_module, "BYTES_PER_GROUP", 2 * largest)
    write_photographs(built, str(tmp_path / "bytes.parquet"), STORAGE)
    file = pq.ParquetFile(tmp_path / "bytes.parquet")
    assert file.num_row_groups > 1
    for group in range(file.num_row_groups):
        assert sum(map(len, file.read_row_group(group)[PIXELS].to_pylist())) < 3 * largest


def test_the_same_photographs_give_the_same_bytes_however_the_file_is_handed_over(tmp_path, small, monkeypatch):
    root = as_shards(tmp_path / "set", small)
    write_photographs(build(root), str(tmp_path / "one/m.parquet"), STORAGE)
    monkeypatch.setattr(photographs_module, "_MAPPED", 0)
    write_photographs(build(root), str(tmp_path / "two/m.parquet"), STORAGE)
    assert (tmp_path / "one/m.parquet").read_bytes() == (tmp_path / "two/m.parquet").read_bytes()
    assert os.listdir(tmp_path / "two") == ["m.parquet"]  # no temporary file stays


def test_a_shard_that_changed_between_the_two_readings_is_refused(tmp_path, small):
    root = as_shards(tmp_path / "set", small)
    built = build(root)
    shard(root / "train-1.tar", [])
    with pytest.raises(DataError, match="3 photographs were not there when they were read again"):
        write_photographs(built, str(tmp_path / "m.parquet"), STORAGE)
    assert not (tmp_path / "m.parquet").exists()


def test_a_place_that_cannot_be_written_is_said(tmp_path, small):
    (tmp_path / "file").write_bytes(b"")
    built = build(as_shards(tmp_path / "set", small))
    with pytest.raises(StorageError, match=r"cannot write .*file/m\.parquet"):
        write_photographs(built, str(tmp_path / "file/m.parquet"), STORAGE)


def test_no_more_than_a_few_photographs_are_in_memory_at_a_time(tmp_path, monkeypatch):
    """A folder is read ahead of the caller by a bounded number of files."""
    root = as_folder(
        tmp_path, {"a": {f"{number:04d}.jpg": bytes([number % 256, number // 256]) for number in range(300)}}
    )
    reads: list[str] = []
    read_bytes: Callable[[Storage, str], bytes] = Storage.read_bytes
    monkeypatch.setattr(Storage, "read_bytes", lambda self, uri: (reads.append(uri), read_bytes(self, uri))[1])
    stream = read_photographs(find_photographs([str(root)], STORAGE, {}), STORAGE, {})
    names = [Path(next(stream).uri).name for _ in range(100)]
    assert names == [f"{number:04d}.jpg" for number in range(100)]
    assert 100 <= len(reads) <= 100 + 64
    stream.close()
