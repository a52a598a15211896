"""The tables of a run: what plain pyarrow and polars read of them, which rows count, what a killed run leaves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdvae_ray.errors import DataError
from sdvae_ray.run.stored.commits import check_whole, present_commits, read_commits, read_fovs
from sdvae_ray.run.stored.table_files import committed_files, data_tables, read_table, sweep, write_table
from sdvae_ray.run.stored.tables import read_column, write_rows
from sdvae_ray.schema import (
    ERROR,
    FOV_ID,
    ROW,
    column_to_numpy,
    embeddings_table,
    latents_table,
    metrics_table,
    table_from_columns,
    tensor_array,
)
from sdvae_ray.storage import Storage, join

ROOM = pytest.mark.parametrize("kind", ["folder", "bucket"])
SHAPES = {
    f"{latents_table('sd')}:latent": ((4, 2, 4, 8, 8), np.float16),
    f"{metrics_table('sd')}:mae": ((4, 5), np.float32),
    f"{metrics_table('sd')}:kld": ((4, 2), np.float32),
    f"{embeddings_table('latent', 'sd')}:embedding": ((2, 14), np.float16),
    f"{embeddings_table('latent', 'sd')}:patches": ((3, 2, 14), np.float16),
}
LOST = "truncated or corrupt: s3://plates/A02-DNA.tiff (12 bytes)"


@pytest.fixture
def room(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Storage]:
    """(output, storage): a folder, or an s3:// prefix."""
    if kind == "folder":
        return str(tmp_path / "run"), Storage()
    s3 = request.getfixturevalue("s3")
    return f"{s3.prefix}/run", s3.storage


@pytest.fixture
def output(tmp_path: Path) -> str:
    return str(tmp_path / "run")


STORAGE = Storage()


def values(name: str, number: int) -> np.ndarray:
    """What the FOV of this number has in a column of a data table."""
    shape, kind = SHAPES[name]
    return np.random.default_rng([number, len(name)]).normal(size=shape).astype(kind)


def fov(number: int) -> str:
    return f"s/b/P1/A{number:02d}/1"


def metadata(number: int) -> dict[str, str | None]:
    return {"Metadata_Well": f"A{number:02d}", "Metadata_pert": None if number % 2 else "x"}


def rows(numbers: list[int], failed: dict[int, str] | None = None) -> dict[str, np.ndarray]:
    """What reaches the writer for these FOVs: zeros and a reason for those that failed."""
    failed = failed or {}
    out: dict[str, Any] = {
        FOV_ID: np.array([fov(n) for n in numbers], object),
        ERROR: np.array([failed.get(n, "") for n in numbers], object),
        ROW: np.array([json.dumps(metadata(n)) for n in numbers], object),
        "qc_mean": np.array([[np.nan if n in failed else n] * 5 for n in numbers], np.float32),
        "seconds_load": np.array(numbers, np.float32),
        "micro_batch": np.full(len(numbers), 8, np.int32),
        "device": np.array(["cpu"] * len(numbers), object),
    }
    for name, (shape, kind) in SHAPES.items():
        out[name] = np.stack([np.zeros(shape, kind) if n in failed else values(name, n) for n in numbers])
    return out


def fill(output: str, storage: Storage) -> None:
    """Three FOVs, the second of which failed."""
    write_rows(output, "w-000000", rows([1, 2, 3], {2: LOST}), storage)


# What others read


def test_the_columns_read_right_in_plain_pyarrow(output):
    written = write_rows(output, "w-000000", rows([1, 2, 3], {2: LOST}), STORAGE)
    assert (written.rows, written.errors) == (3, 1)
    for name, (shape, kind) in SHAPES.items():
        table, _, column = name.rpartition(":")
        read = pq.read_table(Path(output) / table / "w-000000.parquet")
        assert read[FOV_ID].to_pylist() == [fov(1), fov(3)]
        assert read.schema.field(FOV_ID).type == pa.string()
        tensor = read[column].combine_chunks()
        assert tensor.type == pa.fixed_shape_tensor(pa.from_numpy_dtype(kind), shape)
        np.testing.assert_array_equal(tensor.to_numpy_ndarray(), [values(name, 1), values(name, 3)])
    fovs = pq.read_table(Path(output) / "fovs" / "w-000000.parquet")
    assert fovs[FOV_ID].to_pylist() == [fov(1), fov(2), fov(3)]
    assert fovs[ERROR].to_pylist() == [None, LOST, None]
    assert fovs["Metadata_Well"].to_pylist() == ["A01", "A02", "A03"]
    assert fovs["Metadata_pert"].to_pylist() == [None, "x", None]
    assert fovs["seconds_load"].to_pylist() == [1, 2, 3]
    np.testing.assert_array_equal(fovs["qc_mean"].combine_chunks().to_numpy_ndarray(), [[1] * 5, [np.nan] * 5, [3] * 5])


def test_the_columns_read_right_in_polars(output):
    fill(output, STORAGE)
    for name, (_, kind) in SHAPES.items():
        table, _, column = name.rpartition(":")
        read = pl.read_parquet(Path(output) / table / "*.parquet")
        assert read[FOV_ID].to_list() == [fov(1), fov(3)]
        numbers = read[column].to_numpy()
        assert numbers.dtype == kind
        np.testing.assert_array_equal(numbers.reshape(2, -1), [values(name, n).ravel() for n in (1, 3)])
    fovs = pl.read_parquet(Path(output) / "fovs" / "*.parquet")
    assert fovs[ERROR].to_list() == [None, LOST, None]
    assert fovs["Metadata_pert"].to_list() == [None, "x", None]
    assert fovs["Metadata_pert"].dtype == pl.String


def test_files_with_and_without_errors_and_nulls_have_one_schema(output):
    """A reader of the whole folder must not trip over a file in which a text column happens to be all null."""
    write_rows(output, "a", rows([1]), STORAGE)
    write_rows(output, "b", rows([2, 4], {2: LOST, 4: LOST}), STORAGE)
    write_rows(output, "c", rows([6]), STORAGE)
    schemas = [pq.read_schema(path) for path in sorted((Path(output) / "fovs").glob("*.parquet"))]
    assert schemas[0].remove_metadata() == schemas[1].remove_metadata() == schemas[2].remove_metadata()
    assert schemas[0].field(ERROR).type == pa.string()
    whole = pq.read_table(Path(output) / "fovs")
    assert whole[FOV_ID].to_pylist() == [fov(1), fov(2), fov(4), fov(6)]
    assert pl.read_parquet(Path(output) / "fovs" / "*.parquet").height == 4


def test_failures_alone_make_rows_in_fovs_and_no_data_file(output):
    written = write_rows(output, "w", rows([1, 2], {1: LOST, 2: LOST}), STORAGE)
    assert (written.rows, written.errors) == (2, 2)
    assert STORAGE.list(output) == ["fovs/w.parquet"]


def test_the_commit_is_written_last(output):
    class Watched(Storage):
        def write_bytes(self, uri: str, data: bytes) -> None:
            written.append(uri.removeprefix(output + "/"))
            super().write_bytes(uri, data)

    written: list[str] = []
    write_rows(output, "w", rows([1]), Watched())
    assert written[-1] == "fovs/w.parquet"
    assert sorted(written[:-1]) == ["embeddings/latent/sd/w.parquet", "latents/sd/w.parquet", "metrics/sd/w.parquet"]


def test_a_write_that_is_done_again_replaces_its_own_rows(output):
    write_rows(output, "w", rows([1, 2], {1: LOST, 2: LOST}), STORAGE)
    write_rows(output, "w", rows([1, 2]), STORAGE)
    fovs = read_fovs(output, STORAGE)
    assert sorted(fovs[FOV_ID]) == [fov(1), fov(2)]
    assert fovs[ERROR].null_count() == 2


# Which rows count


@ROOM
def test_the_rows_of_a_run_come_back_by_their_key(room):
    output, storage = room
    fill(output, storage)
    write_rows(output, "w-000001", rows([4, 5]), storage)
    fovs = read_fovs(output, storage)
    assert sorted(fovs[FOV_ID]) == [fov(n) for n in range(1, 6)]
    errors = dict(zip(fovs[FOV_ID], fovs[ERROR], strict=True))
    assert errors == {fov(1): None, fov(2): LOST, fov(3): None, fov(4): None, fov(5): None}
    assert "Metadata_Well" in fovs.columns
    for name in SHAPES:
        table, _, column = name.rpartition(":")
        ids, read = read_column(output, table, column, fovs, storage)
        assert sorted(ids) == [fov(1), fov(3), fov(4), fov(5)]
        for fov_id, one in zip(ids, read, strict=True):
            np.testing.assert_array_equal(one, values(name, int(fov_id.split("/")[3][1:])))
    assert data_tables(output, storage) == ["embeddings/latent/sd", "latents/sd", "metrics/sd"]


def test_only_the_columns_that_are_asked_for_are_read(output):
    fill(output, STORAGE)
    assert set(read_fovs(output, STORAGE, ["Metadata_Well"]).columns) == {FOV_ID, ERROR, "Metadata_Well", "files"}
    assert set(read_fovs(output, STORAGE, []).columns) == {FOV_ID, ERROR, "files"}


def test_an_output_without_rows_is_empty_and_no_error(output):
    assert read_fovs(output, STORAGE).height == 0
    assert {FOV_ID, ERROR, "files"} <= set(read_fovs(output, STORAGE).columns)
    assert data_tables(output, STORAGE) == []
    assert sweep(output, STORAGE, ["0123abcd"]) == 0
    ids, _ = read_column(output, "metrics/sd", "mae", read_fovs(output, STORAGE), STORAGE)
    assert ids == []


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_a_row_without_error_is_preferred_whichever_was_written_first(output, names):
    write_rows(output, names[0], rows([1, 2, 3], {2: LOST}), STORAGE)
    write_rows(output, names[1], rows([2]), STORAGE)
    fovs = read_fovs(output, STORAGE)
    assert sorted(fovs[FOV_ID]) == [fov(1), fov(2), fov(3)]
    assert fovs[ERROR].null_count() == 3
    healed = fovs.filter(pl.col(FOV_ID) == fov(2))
    assert healed["files"].to_list() == [[f"{names[1]}.parquet"]]
    ids, read = read_column(output, "metrics/sd", "mae", fovs, STORAGE)
    assert sorted(ids) == [fov(1), fov(2), fov(3)]
    np.testing.assert_array_equal(read[ids.index(fov(2))], values("metrics/sd:mae", 2))


def test_a_fov_that_failed_twice_has_one_row(output):
    write_rows(output, "a", rows([1], {1: LOST}), STORAGE)
    write_rows(output, "b", rows([1], {1: "another reason"}), STORAGE)
    fovs = read_fovs(output, STORAGE)
    assert fovs.height == 1
    assert fovs[ERROR][0] in (LOST, "another reason")


def test_a_fov_that_was_written_twice_counts_once(output):
    write_rows(output, "a", rows([1, 2]), STORAGE)
    write_rows(output, "b", rows([2, 3]), STORAGE)
    fovs = read_fovs(output, STORAGE)
    assert sorted(fovs[FOV_ID]) == [fov(1), fov(2), fov(3)]
    ids, read = read_column(output, "latents/sd", "latent", fovs, STORAGE)
    assert sorted(ids) == [fov(1), fov(2), fov(3)]
    assert len(read) == 3


@ROOM
def test_a_data_file_without_its_commit_does_not_count_and_is_swept(room):
    output, storage = room
    fill(output, storage)
    dead = "0123abcd1-000007"
    write_rows(output, dead, rows([7]), storage)
    storage.delete(join(output, "fovs", f"{dead}.parquet"))
    fovs = read_fovs(output, storage)
    assert fov(7) not in fovs[FOV_ID].to_list()
    ids, _ = read_column(output, "metrics/sd", "mae", fovs, storage)
    assert sorted(ids) == [fov(1), fov(3)]
    kept = [name for name in storage.list(output) if dead not in name]
    storage.write_bytes(join(output, f"metrics/sd/.tmp-12ab-{dead}.parquet"), b"half")
    storage.write_bytes(join(output, f"fovs/.tmp-12ab-{dead}.parquet"), b"half")
    assert read_fovs(output, storage).equals(fovs)
    assert sweep(output, storage, ["ffffffff"]) == 0
    assert sweep(output, storage, ["ffffffff", "0123abcd"]) == 3
    assert storage.list(output) == kept
    assert sweep(output, storage, ["0123abcd"]) == 0
    assert read_fovs(output, storage).equals(fovs)


def test_a_sweep_leaves_what_is_not_its_own(output):
    fill(output, STORAGE)
    others = (
        "run.json",
        "_lease.json",
        "report/index.html",
        "profiles/latent/sd.parquet",
        "index/a.faiss",
        "notes/x.parquet",
        "metrics/sd/x.parquet",
        "metrics/sd/ffffffff-000001.parquet",
        "metrics/mine/0123abcd.parquet",
        "latents/.tmp-notes",
        "embeddings/.tmp-12-x.parquet",
    )
    for name in others:
        STORAGE.write_bytes(join(output, name), b"x")
    before = STORAGE.list(output)
    assert sweep(output, STORAGE, ["0123abcd"]) == 0
    assert sweep(output, STORAGE, []) == 0
    assert STORAGE.list(output) == before


def test_a_commit_without_data_files_is_no_error_to_read(output):
    write_rows(output, "a", rows([1], {1: LOST}), STORAGE)
    write_rows(output, "b", rows([2]), STORAGE)
    fovs = read_fovs(output, STORAGE)
    ids, read = read_column(output, "metrics/sd", "mae", fovs, STORAGE)
    assert ids == [fov(2)]
    assert committed_files(output, STORAGE) == ["a.parquet", "b.parquet"]
    np.testing.assert_array_equal(read, [values("metrics/sd:mae", 2)])


def test_a_table_of_another_output_is_not_read(output):
    fill(output, STORAGE)
    fill(output + "2", STORAGE)
    write_rows(output + "2", "other", rows([9]), STORAGE)
    assert fov(9) not in read_fovs(output, STORAGE)[FOV_ID].to_list()


# Arrays and columns


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.uint8, np.int32])
@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4), (1, 1, 1, 1), (0, 5)])
def test_an_array_comes_back_from_a_tensor_column_as_it_was(tmp_path, kind, shape):
    array = (np.random.default_rng(0).random(shape) * 100).astype(kind)
    write_table(str(tmp_path / "x"), pa.table({"x": tensor_array(array)}), STORAGE)
    read = column_to_numpy(read_table(str(tmp_path / "x"), STORAGE)["x"])
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(read, array)


def test_a_slice_and_a_reordered_array_are_written_by_their_values():
    array = np.arange(60, dtype=np.float32).reshape(5, 3, 4)
    for view in (array[::2], array[1:3], array.transpose(0, 2, 1), array[:, :, ::-1]):
        np.testing.assert_array_equal(column_to_numpy(pa.chunked_array([tensor_array(view)])), view)


def test_a_column_of_many_chunks_is_joined_in_order():
    array = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    chunked = pa.chunked_array([tensor_array(array[:1]), tensor_array(array[1:])])
    np.testing.assert_array_equal(column_to_numpy(chunked), array)
    np.testing.assert_array_equal(column_to_numpy(chunked.slice(1, 2)), array[1:3])


@pytest.mark.parametrize("texts", [[None, None], ["01", None], ["", "-4.00E-06"]])
def test_text_and_its_nulls_are_text_even_where_all_of_them_are_null(texts):
    column = table_from_columns({FOV_ID: ["a", "b"], "Metadata_x": np.array(texts, object)})["Metadata_x"]
    assert column.to_pylist() == texts
    assert column.type == pa.string()


@ROOM
@pytest.mark.parametrize("table", ["latents/sd", "metrics/sd", "embeddings/latent/sd"])
def test_a_committed_file_that_is_gone_is_named_and_never_read_as_nothing(room, table):
    output, storage = room
    write_rows(output, "a", rows([1, 2]), storage)
    write_rows(output, "b", rows([3], {3: LOST}), storage)
    write_rows(output, "c", rows([4]), storage)
    fovs, commits = read_commits(output, storage)
    assert present_commits(output, storage, {"a.parquet": commits["a.parquet"]}) == {"a.parquet": commits["a.parquet"]}
    check_whole(output, storage, fovs, commits)
    storage.delete(join(output, table, "a.parquet"))
    lost = {name for name in commits["a.parquet"] if name.startswith(f"{table}:")}
    assert present_commits(output, storage, commits)["a.parquet"] == commits["a.parquet"] - lost
    with pytest.raises(DataError, match=rf"{table}/a\.parquet is gone, though fovs/a\.parquet commits its rows"):
        check_whole(output, storage, fovs, commits)
    column = min(lost).partition(":")[2]
    with pytest.raises(DataError, match=rf"{table}/a\.parquet is gone"):
        read_column(output, table, column, fovs, storage)
    usable = fovs.filter(pl.col(FOV_ID) == fov(4))
    assert read_column(output, table, column, usable, storage)[0] == [fov(4)]
    write_rows(output, "again", rows([1, 2]), storage)
    fovs, commits = read_commits(output, storage)
    check_whole(output, storage, fovs, commits)
    assert sorted(read_column(output, table, column, fovs, storage)[0]) == [fov(1), fov(2), fov(4)]
