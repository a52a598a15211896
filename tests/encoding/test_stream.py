"""The stream through Ray: what is committed, what is not, and that it depends on nothing but the run and the pixels."""

import io
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset as arrow_dataset
import pyarrow.parquet as pq
import pytest
import ray
from field_files import write_fields
from rich.console import Console
from run_files import PCA, small_run
from straight_line import BROKEN, FOVS, expected_values, stored_values, write_finished_run, write_manifest
from waiting_run import waiting_run

from sdvae_ray.dictionary import TABLES, unknown_columns, unused_columns
from sdvae_ray.encoding.check import check
from sdvae_ray.encoding.encode import encode
from sdvae_ray.encoding.supervision import supervisor
from sdvae_ray.encoding.supervision.ledger import Counts
from sdvae_ray.errors import ConfigError, DataError, ResourceError, RunError
from sdvae_ray.planning.measured import MEASURED, measured_bytes, measured_seconds
from sdvae_ray.run.cost import of_metric, of_side, recorded
from sdvae_ray.run.driver import conditional_writes, lease
from sdvae_ray.run.run import Run
from sdvae_ray.run.scores import SCORE_TABLES
from sdvae_ray.run.stored.commits import check_whole, read_fovs
from sdvae_ray.schema import FOV_ID, column_to_numpy
from sdvae_ray.scoring.score import score
from sdvae_ray.storage import Storage

SILENT = Console(quiet=True)


def test_a_run_with_a_failed_fov_is_read_back_by_arrow_polars_and_ray(first_encoded, encoded):
    assert (first_encoded.fovs, first_encoded.computed, first_encoded.errors) == (FOVS, FOVS, 1)
    output = Path(encoded.output)

    fovs = arrow_dataset.dataset(output / "fovs").to_table()
    assert fovs.num_rows == FOVS
    failed = fovs.filter(pa.compute.is_valid(fovs["error"]))
    assert failed.num_rows == 1
    assert "A06-ER.tiff" in failed["error"][0].as_py()
    assert sum(value is None for value in fovs["Metadata_moa"].to_pylist()) == sum(1 for i in range(FOVS) if i % 3)
    bad = failed[FOV_ID][0].as_py()

    schema = pq.read_schema(next((output / "latents/pca").glob("*.parquet")))
    assert schema.metadata is None  # no random weights
    latents = arrow_dataset.dataset(output / "latents/pca").to_table()
    assert latents.schema.field("latent").type == pa.fixed_shape_tensor(pa.float16(), (4, 2, 4, 8, 8))
    assert column_to_numpy(latents["latent"]).shape == (FOVS - 1, 4, 2, 4, 8, 8)
    assert bad not in latents[FOV_ID].to_pylist()

    frame = pl.read_parquet(output / "metrics/pca/*.parquet")
    assert frame.height == FOVS - 1
    assert frame.filter(pl.col(FOV_ID) == bad).height == 0
    by_polars = np.array(frame.sort(FOV_ID)["ssim"].to_list()).reshape(FOVS - 1, 4, 5)
    table = arrow_dataset.dataset(output / "metrics/pca").to_table().sort_by(FOV_ID)
    np.testing.assert_array_equal(by_polars.astype(np.float32), column_to_numpy(table["ssim"].combine_chunks()))

    rows = ray.data.read_parquet(str(output / "embeddings/intensity/image")).take_all()
    assert {row["patches"].shape for row in rows} == {(2, 5, 17)}
    assert {row["patches"].dtype for row in rows} == {np.dtype(np.float16)}
    assert sorted(row[FOV_ID] for row in rows) == sorted(set(fovs[FOV_ID].to_pylist()) - {bad})

    costs = recorded(Run(encoded).record)  # a run on Ray tells what every side costs a field
    assert {costs[f"{verb} pca"].calls for verb in ("encode", "decode", "code")} == {FOVS - 1}
    assert all(of_side(costs, side).core_seconds > 0 for side in encoded.sides)
    assert all(of_metric(costs, name) is not None for name in encoded.metrics)


@pytest.fixture
def healed_file(encoded) -> Iterator[Path]:
    """The truncated file, made whole until the test ends."""
    row = pl.read_parquet(encoded.manifest).row(BROKEN, named=True)
    path = Path(row["uri_ER"])
    truncated = path.read_bytes()
    path.write_bytes(Path(row["uri_RNA"]).read_bytes())
    yield path
    path.write_bytes(truncated)


def test_a_run_is_the_same_whatever_was_lost_healed_or_batched_otherwise(local_ray, encoded, healed_file):
    """All commits but one are lost, the broken file is healed, and other pools with other batches compute what is missing."""
    assert {len(rows) for rows in stored_values(encoded).values()} == {FOVS - 1}
    kept, *lost = sorted((Path(encoded.output) / "fovs").glob("*.parquet"))
    for path in lost:
        path.unlink()
    done = pl.read_parquet(kept)["error"].null_count()
    assert 0 < done < FOVS - 1

    pools = {
        "load": encoded.load.model_copy(update={"batch_fovs": 1, "actors": 2, "cpus": 0.1}),
        "encode": encoded.encode.model_copy(update={"batch_fovs": 3, "actors": 1, "cpus": 0.5}),
    }
    resumed = encode(Run(encoded.model_copy(update=pools)), SILENT)
    assert (resumed.before, resumed.computed, resumed.errors) == (done, FOVS - done, 0)
    assert read_fovs(encoded.output, Storage())["error"].null_count() == FOVS
    for table in ("latents/pca", "metrics/identity"):  # what lost its commit was swept
        assert pl.read_parquet(f"{encoded.output}/{table}/*.parquet", columns=[FOV_ID])[FOV_ID].is_unique().all()
    assert stored_values(encoded) == expected_values(encoded)

    with pytest.raises(ConfigError, match="seed = 0, this one has 1"):
        encode(Run(encoded.model_copy(update={"seed": 1})), SILENT)


def test_a_run_that_fails_too_often_is_stopped_and_keeps_what_it_wrote(local_ray, tmp_path):
    fields = write_fields(tmp_path / "images", count=8)
    for uri in fields["uri_DNA"][1:]:
        Path(uri).write_bytes(b"not an image")
    manifest = write_manifest(tmp_path / "manifest.parquet", fields)
    strict = small_run(
        tmp_path,
        manifest=str(manifest),
        max_error_fraction=0.1,
        write={"rows_per_file": 3},
        autoencoders={"tiny": None},
    )
    with pytest.raises(RunError, match="max_error_fraction") as caught:
        encode(Run(strict), SILENT)
    assert "\n" not in str(caught.value)
    assert read_fovs(strict.output, Storage()).height > 0
    log = Path(strict.output, Run(strict).record["sessions"][0]["log"])
    assert f"error: {caught.value}\n" in log.read_text()


def test_a_check_takes_some_fovs_through_every_stage_and_leaves_only_what_it_measured(local_ray, config):
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(ConfigError, match="score.control: there is no column 'Metadata_control_type'"):
        check(Run(config), SILENT)
    scored = config.score.model_copy(update={"control": "Metadata_broad_sample == 'BRD-1'"})
    cluster = config.cluster.model_copy(update={"dollars_per_cpu_hour": 100.0})
    checked = check(Run(config.model_copy(update={"score": scored, "cluster": cluster})), console)
    assert (checked.fovs, checked.measured, checked.warm) == (FOVS, 8 - len(checked.failed), True)
    assert set(checked.seconds) == {"load", "encode", "write"}
    assert checked.columns["latents/pca:latent"] == "float16(4, 2, 4, 8, 8)"
    assert {"fovs", "latents/pca", "metrics/identity", "embeddings/intensity/image"} <= set(checked.stored)
    assert all(size > 0 for size in checked.stored.values())
    assert [path.name for path in Path(config.output).rglob("*") if path.is_file()] == [MEASURED]
    assert measured_seconds(Run(config)) == checked.seconds
    assert measured_bytes(Run(config)) == sum(checked.stored.values())
    printed = console.file.getvalue()
    assert all(f"failed: {error}" in printed for error in checked.failed.values())
    assert "is the bottleneck" in printed
    assert re.search(rf"forecast +{FOVS} FOVs in about .*: 0 GPU-hours, .* CPU-hours, .* dollars", printed)


def test_a_crop_larger_than_the_image_is_refused_before_the_start(local_ray, config):
    image = config.image.model_copy(update={"crop": 192})
    with pytest.raises(ConfigError, match="image.crop: crop 192 does not fit .* 136 x 136"):
        encode(Run(config.model_copy(update={"image": image})), SILENT)
    assert not (Path(config.output) / "fovs").exists()


def test_pools_that_starve_reading_and_writing_are_refused(local_ray, config):
    cpus = int(ray.cluster_resources()["CPU"])
    encode_pool = config.encode.model_copy(update={"actors": cpus, "cpus": 1.0})
    with pytest.raises(ResourceError, match="too few CPUs.*encode.actors"):
        encode(Run(config.model_copy(update={"encode": encode_pool})), SILENT)


def test_a_finished_run_with_failures_runs_again_and_computes_what_was_lost(local_ray, tmp_path):
    """Two of six FOVs are damaged, as many as may fail. Later one committed file of embeddings is gone."""
    fields = write_fields(tmp_path / "images", count=6)
    for number in (1, 4):
        damaged = Path(fields["uri_DNA"][number])
        damaged.write_bytes(damaged.read_bytes()[:-2000])
    manifest = write_manifest(tmp_path / "manifest.parquet", fields)
    limits = {"max_error_fraction": 0.34, "write": {"rows_per_file": 2}}
    limits["score"] = {"control": "Metadata_broad_sample == 'BRD-1'"}
    run = Run(small_run(tmp_path, manifest=str(manifest), autoencoders=PCA, **limits))
    write_finished_run(run.config, files=3)
    again = encode(run, SILENT)
    assert (again.computed, again.errors) == (2, 2)

    before = stored_values(run.config)
    files = sorted((Path(run.output) / "embeddings/intensity/pca").glob("*.parquet"))
    lost = pl.read_parquet(files[0], columns=[FOV_ID]).height
    files[0].unlink()
    with pytest.raises(DataError, match=re.escape(f"embeddings/intensity/pca/{files[0].name} is gone")):
        score(run, SILENT)
    third = encode(run, SILENT)
    assert (third.computed, third.errors) == (lost + 2, 2)
    after = stored_values(run.config)
    assert after.keys() == before.keys()
    for key, values in before.items():
        np.testing.assert_array_equal(after[key], values, err_msg=str(key))
    check_whole(run.output, run.storage, *run.commits([]))


def test_a_driver_that_loses_its_lease_stops_before_it_commits_more(local_ray, tmp_path, monkeypatch):
    """One image is a pipe that nobody writes to: the stream waits there while another driver takes the lease."""
    monkeypatch.setattr(lease, "HEARTBEAT", 0.5)
    waiting = waiting_run(tmp_path, count=4, stuck=3, autoencoders=PCA)
    run = Run(waiting.config)

    def take_over() -> None:
        while not waiting.commits:
            time.sleep(0.1)
        uri, taken, content = run.uri(lease.FILE), None, b'{"token": "of another", "host": "another", "pid": 1}'
        while taken is None:  # a heartbeat of the holder comes between the read and the write now and then
            taken = conditional_writes.replace(
                uri, content, conditional_writes.read(uri, run.storage).version, run.storage
            )

    other = threading.Thread(target=take_over)
    other.start()
    with pytest.raises(RunError, match="another driver has taken over"):
        encode(run, SILENT)
    other.join()
    assert len(waiting.commits) < 4
    until = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"] and time.monotonic() < until:
        time.sleep(0.2)
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"], (
        "an actor lives, though it waits at the pipe"
    )
    assert b"of another" in run.storage.read_bytes(run.uri(lease.FILE))


@pytest.mark.slow
def test_the_ledger_is_killed_and_the_stream_goes_on_with_the_right_counts(local_ray, tmp_path, monkeypatch):
    """One image is a pipe that nobody writes to: the stream waits there while the ledger's process is killed, by its id."""
    waiting = waiting_run(tmp_path, count=5, stuck=3, autoencoders=PCA)
    run = Run(waiting.config)
    pids: list[int] = []

    class Mortal(supervisor.Ledger):
        def pid(self) -> int:
            return os.getpid()

    def kill() -> None:
        try:
            while len(waiting.commits) < 2 or not handles:
                time.sleep(0.1)
            pids.append(ray.get(handles[0].pid.remote()))
            os.kill(pids[0], signal.SIGKILL)
            pids.append(ray.get(handles[0].pid.remote(), timeout=120))
        finally:
            waiting.release()

    handles: list[Any] = []
    told: list[Counts] = []
    start, end = supervisor._start_ledger, supervisor.Supervisor.end
    monkeypatch.setattr(supervisor.Supervisor, "end", lambda self: (told.append(self.counts()), end(self)))
    monkeypatch.setattr(supervisor, "Ledger", Mortal)
    monkeypatch.setattr(supervisor, "_start_ledger", lambda *args: handles.append(start(*args)) or handles[0])
    killer = threading.Thread(target=kill)
    killer.start()
    done = encode(run, SILENT)
    killer.join()
    assert (done.computed, done.errors) == (5, 1)  # a pipe is no image
    assert pids[0] != pids[1]
    assert sorted(run.fovs([])[FOV_ID]) == sorted(waiting.fov_ids)
    (counts,) = told
    assert (counts.written, counts.errors) == (5, 1)


@pytest.mark.slow  # every write waits for two minutes in vain
def test_a_ledger_that_answers_no_write_holds_no_write(local_ray, tmp_path, monkeypatch):
    class Mute(supervisor.Ledger):
        def refusal(self) -> None:
            time.sleep(3600)

    fields = write_fields(tmp_path / "images", count=2)
    run = Run(small_run(tmp_path, manifest=str(write_manifest(tmp_path / "manifest.parquet", fields))))
    monkeypatch.setattr(supervisor, "Ledger", Mute)
    assert encode(run, SILENT).errors == 0
    assert run.fovs([]).height == 2


def test_the_dictionary_has_every_column_that_encode_writes(encoded):
    for table in Run(encoded).tables():
        of_run = set(TABLES) - set(SCORE_TABLES)
        (facts,) = [name for name in of_run if name.partition("/")[0] == table.partition("/")[0]]
        written = pl.read_parquet_schema(next(Path(encoded.output, table).glob("*.parquet")))
        assert unknown_columns(facts, written) == []
        assert set(unused_columns(facts, written)) <= {"logvar", "patches"}
