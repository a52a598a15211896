"""Compaction: one row per field of view, the same values, and nothing lost wherever it is killed."""

import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from run_files import small_run

from sdvae_ray.cli.main import main
from sdvae_ray.encoding.compact import compact
from sdvae_ray.errors import DataError
from sdvae_ray.run.record import new_record
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.commits import check_whole
from sdvae_ray.run.stored.table_files import data_files
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.schema import ERROR, FOV_ID
from sdvae_ray.storage import Storage

SILENT = Console(quiet=True)
FIRST, ADDED = "aaaaaaaa", "bbbbbbbb"
PCA, LATENT = "metrics/pca", "latents/pca"


def rows(fovs: list[int], columns: dict[str, np.ndarray], errors: dict[int, str]) -> dict[str, np.ndarray]:
    """The columns of a write; every value is that of its FOV in `columns`."""
    ids = [f"s/b/p/A{fov:02d}/1" for fov in fovs]
    text = np.array([errors.get(fov, "") for fov in fovs], object)
    metadata = np.array([f'{{"Metadata_Plate": "p", "Metadata_n": "{fov}"}}' for fov in fovs], object)
    qc = np.array([[fov, fov + 0.5] for fov in fovs], np.float32)
    return {
        FOV_ID: np.array(ids, object),
        ERROR: text,
        "row_json": metadata,
        "qc_mean": qc,
        **{name: values[fovs] for name, values in columns.items()},
    }


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    """Column -> its value of FOVs 0 to 19."""
    random = np.random.default_rng(1)
    return {
        f"{LATENT}:latent": random.normal(size=(20, 2, 3)).astype(np.float16),
        f"{PCA}:mse": random.random((20, 4), np.float32),
        f"{PCA}:ssim": random.random((20, 4), np.float32),
    }


@pytest.fixture
def run(tmp_path, values) -> Run:
    """A run of 20 FOVs, extended by ssim but for FOVs 18 and 19; FOV 5 failed once, FOV 6 twice, and FOV 7 was computed twice."""
    run = Run(small_run(tmp_path, autoencoders={"pca": {"name": "patch_pca"}}))
    first = {name: column for name, column in values.items() if not name.endswith("ssim")}
    added = {name: column for name, column in values.items() if name.endswith("ssim")}
    writes = [
        *((FIRST, list(range(start, start + 4)), first, {5: "damaged", 6: "damaged"}) for start in range(0, 20, 4)),
        (ADDED, [7, 5, 6], first, {6: "absent"}),
        *((ADDED, fovs, added, {}) for fovs in ([4, 5, 7, 0], [1, 2, 3], list(range(8, 18)))),
    ]
    for number, (session, fovs, columns, errors) in enumerate(writes):
        write_rows(run.output, f"{session}-{number:06d}", rows(fovs, columns, errors), run.storage)
    record = new_record(run.config, {"uri": "m.parquet", "fovs": 20, "sha256": "0"}, {}, 1, "float32")
    record["sessions"] = [{"session": session, "fovs": 20} for session in (FIRST, ADDED)]
    run.write_record(record)
    return run


def content(run: Run) -> dict[str, dict[str, bytes | str | None]]:
    """Column -> FOV -> its value as bytes, or its text of fovs/, as every reader gives them."""
    fovs = run.fovs().drop("files").sort(FOV_ID)
    assert set(fovs[ERROR].drop_nulls()) <= {"damaged", "absent"}  # of a FOV that failed twice, either is told
    fovs = fovs.with_columns(pl.col(ERROR).is_not_null())
    told: dict[str, dict[str, bytes | str | None]] = {
        name: dict(fovs.select(FOV_ID, name).iter_rows()) for name in fovs.columns if name != FOV_ID
    }
    for table, column in ((LATENT, "latent"), (PCA, "mse"), (PCA, "ssim")):
        ids, array = run.read(table, column)
        told[f"{table}:{column}"] = {fov: value.tobytes() for fov, value in zip(ids, array, strict=True)}
    return told


def heights(run: Run) -> dict[str, int]:
    """Table -> its rows, as a plain reader of Parquet counts them."""
    files = {table: Path(run.output, table).glob("*.parquet") for table in ("fovs", LATENT, PCA)}
    return {table: sum(pq.read_metadata(file).num_rows for file in paths) for table, paths in files.items()}


def is_compact(run: Run) -> bool:
    names = [fovs for fovs in run.fovs([])["files"].to_list() if len(fovs) != 1]
    return not names and heights(run) == {"fovs": 20, LATENT: 19, PCA: 19}


def test_a_compacted_run_has_one_row_per_fov_with_the_same_values(run, values):
    before = content(run)
    assert heights(run)["fovs"] > 20
    done = compact(run, SILENT)
    assert (done.fovs, done.rewritten, done.before, done.after) == (20, 20, 9, 2)
    assert content(run) == before
    assert is_compact(run)
    failed = run.fovs([]).filter(pl.col(ERROR).is_not_null())
    assert failed[FOV_ID].to_list() == ["s/b/p/A06/1"]
    ids, ssim = run.metrics("pca", "ssim")
    np.testing.assert_array_equal(ssim, values[f"{PCA}:ssim"][[int(fov[7:9]) for fov in ids]])
    for table in ("fovs", LATENT, PCA):
        for file in Path(run.output, table).glob("*.parquet"):
            ids = pq.read_table(file, columns=[FOV_ID])[FOV_ID].to_pylist()
            assert ids == sorted(ids)
    qc = pq.read_table(Path(run.output, "fovs"), columns=[FOV_ID, "qc_mean"])
    assert {fov: value[0] for fov, value in zip(qc[FOV_ID].to_pylist(), qc["qc_mean"].to_pylist(), strict=True)} == {
        f"s/b/p/A{fov:02d}/1": fov for fov in range(20)
    }
    assert compact(run, SILENT).deleted == 0
    assert len(run.record["compactions"]) == 1


def test_plain_readers_read_a_compacted_run_that_was_extended_to_its_end(run, values):
    compact(run, SILENT)
    added = {f"{PCA}:ssim": values[f"{PCA}:ssim"]}
    write_rows(run.output, f"{ADDED}-000009", rows([18, 19], added, {}), run.storage)
    before = content(run)
    assert compact(run, SILENT).after == 1
    assert content(run) == before
    assert pl.read_parquet(f"{run.output}/metrics/pca/*.parquet").null_count().sum_horizontal()[0] == 0
    assert pl.read_parquet(f"{run.output}/fovs/*.parquet").height == 20


def test_tasks_of_ray_write_files_of_the_size_that_is_asked_for_and_large_ones_stay(local_ray, run):
    before = content(run)
    whole = compact(run, SILENT, file_bytes=500)
    assert content(run) == before
    assert is_compact(run)
    sizes = [len(pq.read_table(file)) for file in Path(run.output, "fovs").glob("*.parquet")]
    assert whole.after == len(sizes) > 4
    assert max(sizes) - min(sizes) <= 4
    again = compact(run, SILENT, file_bytes=500)
    assert (again.rewritten, again.deleted) == (0, 0)
    assert content(run) == before


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_compaction_that_is_killed_at_any_moment_loses_nothing_and_the_next_one_ends_it(run, monkeypatch, step):
    """At every write and deletion in the slow suite, at every fourth otherwise."""

    class Killed(BaseException):
        """Stands for SIGKILL: nothing after it runs."""

    before = content(run)
    original = {uri: run.storage.read_bytes(run.uri(uri)) for uri in run.storage.list(run.output)}
    left = itertools.count()
    write, delete = Storage.write_bytes, Storage.delete

    def limited(action):
        def call(storage: Storage, uri: str, *data: bytes) -> None:
            if "_lease" not in uri and "/logs/" not in uri and next(left) >= limit:
                raise Killed
            action(storage, uri, *data)

        return call

    ends = []
    for limit in itertools.count(step=step):
        for uri in run.storage.list(run.output):
            delete(run.storage, run.uri(uri))
        for uri, data in original.items():
            write(run.storage, run.uri(uri), data)
        left = itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(Storage, "write_bytes", limited(write))
            patch.setattr(Storage, "delete", limited(delete))
            try:
                compact(run, SILENT)
                break
            except Killed:
                pass
        assert content(run) == before, limit
        check_whole(run.output, run.storage, *run.commits([]))
        compact(run, SILENT)
        assert content(run) == before, limit
        assert is_compact(run), limit
        ends.append(limit)
    assert len(ends) > 20 / step
    names = {name for _, name in data_files(run.output, run.storage)}
    assert names <= set(run.storage.list(run.uri("fovs")))


def test_a_run_that_has_lost_a_file_is_not_compacted(run):
    lost = next(Path(run.output, LATENT).glob(f"{FIRST}*"))
    lost.unlink()
    files = sorted(run.storage.list(run.output))
    with pytest.raises(DataError, match=f"{lost.name} is gone"):
        compact(run, SILENT)
    assert sorted(name for name in run.storage.list(run.output) if not name.startswith("logs/")) == files


def test_the_command_says_what_it_did(run, capsys):
    for line in (
        "compact: 20 FOVs in 2 files of each table, 9 before; one row per FOV",
        "compact: nothing to do: 20 FOVs",
    ):
        with pytest.raises(SystemExit) as ended:
            main(["compact", run.output])
        assert ended.value.code == 0
        assert line in capsys.readouterr().out
