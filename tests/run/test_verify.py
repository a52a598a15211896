"""`verify` reads every file of a run, names what is wrong with it, and makes the damaged FOVs pending when it is told to."""

from pathlib import Path

import numpy as np
import pytest
from run_files import small_run

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.run.driver.lease import Lease
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.run.stored.verify import verify
from sdvae_ray.schema import ERROR, FOV_ID, ROW
from sdvae_ray.storage import join


def rows(numbers: list[int], failed: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    return {
        FOV_ID: np.array([f"fov {number}" for number in numbers], object),
        ERROR: np.array(["damaged" if number in failed else "" for number in numbers], object),
        ROW: np.array(['{"Metadata_Well": "A01"}'] * len(numbers), object),
        "latents/pca:latent": np.ones((len(numbers), 2, 3), np.float16),
        "metrics/pca:mae": np.ones((len(numbers), 2), np.float32),
    }


@pytest.fixture(params=["folder", "bucket"])
def run(request, tmp_path) -> Run:
    """Three files of rows; the FOV 5 failed."""
    config = small_run(tmp_path)
    if request.param == "bucket":
        s3 = request.getfixturevalue("s3")
        config = config.model_copy(update={"output": f"{s3.prefix}/run", "storage": s3.config})
    run = Run(config)
    for name, numbers in (("a", [1, 2]), ("b", [3, 4]), ("c", [5])):
        write_rows(run.output, name, rows(numbers, failed=(5,)), run.storage)
    return run


def silent(line: str) -> None:
    """Takes a line and says nothing."""


def damage(run: Run, path: str, how: str) -> None:
    """Damages a file of the run."""
    uri = join(run.output, path)
    whole = run.storage.read_bytes(uri)
    changed = {
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "no Parquet": b"<html>503 Slow Down</html>",
        "flipped": whole[:-20] + bytes(byte ^ 0xFF for byte in whole[-20:]),
    }
    run.storage.write_bytes(uri, changed[how])


def test_a_whole_run_is_whole(run):
    verified = verify(run, silent)
    assert verified.is_whole
    assert (verified.files, verified.fovs, verified.usable) == (3 + 2 * 2, 5, 4)
    assert (verified.damaged, verified.gone, verified.uncommitted) == ({}, [], [])


@pytest.mark.parametrize("how", ["empty", "truncated", "no Parquet", "flipped"])
@pytest.mark.parametrize("path", ["fovs/a.parquet", "latents/pca/a.parquet", "metrics/pca/b.parquet"])
def test_a_damaged_file_is_named_and_deleted_by_repair_alone(run, path, how):
    damage(run, path, how)
    verified = verify(run, silent)
    assert list(verified.damaged) == [path]
    assert "\n" not in verified.damaged[path]
    assert not verified.is_whole
    assert run.storage.exists(join(run.output, path))
    repaired = verify(run, silent, repair=True)
    assert repaired.repaired == [path]
    assert repaired.is_whole
    assert not run.storage.exists(join(run.output, path))
    others = [name for name in run.storage.list(run.output) if name.endswith(".parquet")]
    assert len(others) == 6


def test_every_reader_names_a_damaged_file_and_the_way_out(run):
    damage(run, "fovs/a.parquet", "truncated")
    with pytest.raises(DataError, match=r"fovs/a\.parquet is damaged: .*verify RUN --repair"):
        run.fovs()
    run.storage.delete(join(run.output, "fovs/a.parquet"))
    damage(run, "latents/pca/b.parquet", "flipped")
    with pytest.raises(DataError, match=r"latents/pca/b\.parquet is damaged: .*verify RUN --repair"):
        run.latents("pca")


def test_a_file_with_other_rows_is_damaged(run):
    other = run.storage.read_bytes(join(run.output, "latents/pca/b.parquet"))
    run.storage.write_bytes(join(run.output, "latents/pca/a.parquet"), other)
    assert verify(run, silent).damaged == {
        "latents/pca/a.parquet": "its rows are not the 2 usable rows of fovs/a.parquet"
    }


def test_a_gone_file_and_a_file_without_a_commit_are_named_and_the_second_stays(run):
    run.storage.delete(join(run.output, "metrics/pca/a.parquet"))
    run.storage.write_bytes(join(run.output, "metrics/pca/mine.parquet"), b"a user's own")
    verified = verify(run, silent, repair=True)
    assert verified.gone == ["metrics/pca/a.parquet"]
    assert verified.uncommitted == ["metrics/pca/mine.parquet"]
    assert not verified.is_whole
    assert run.storage.read_bytes(join(run.output, "metrics/pca/mine.parquet")) == b"a user's own"
    write_rows(run.output, "d", rows([1, 2]), run.storage)  # computed again
    assert verify(run, silent).is_whole


def test_a_repair_waits_for_nobody_and_needs_the_lease(run):
    with Lease(run.output, run.storage), pytest.raises(ConfigError, match="another driver"):
        verify(run, silent, repair=True)
    with Lease(run.output, run.storage):
        assert verify(run, silent).is_whole


def test_where_there_is_no_run_it_says_so(tmp_path):
    with pytest.raises(DataError, match="no run at"):
        verify(Run(small_run(tmp_path)), silent)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"config": {}}', b"\xff\xfe"])
def test_a_damaged_record_is_one_line(tmp_path, content):
    run = Run(small_run(tmp_path))
    Path(run.output).mkdir(parents=True)
    (Path(run.output) / "run.json").write_bytes(content)
    with pytest.raises(DataError, match=r"run\.json is damaged: .* put a copy of it back") as caught:
        run.find_record()
    assert "\n" not in str(caught.value)
