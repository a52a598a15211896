"""The stream through Ray: what is committed, what is not, and that it depends on nothing but the run and the pixels."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset as arrow_dataset
import pyarrow.parquet as pq
import pytest
import ray
from rich.console import Console

from sdvae_ray.config import RunConfig
from sdvae_ray.encoding.check import check
from sdvae_ray.encoding.stream import encode
from sdvae_ray.errors import ConfigError, ResourceError, RunError
from sdvae_ray.run.run import Run
from sdvae_ray.run.tables import read_column, read_fovs
from sdvae_ray.schema import FOV_ID, column_to_numpy
from sdvae_ray.storage import Storage

SILENT = Console(quiet=True)
FOVS = 11
BROKEN = 5  # row whose ER file is cut short


def write_manifest(path: Path, fields: dict[str, np.ndarray]) -> Path:
    """Row groups of four; every third FOV alone has a Metadata_moa."""
    count = len(fields[FOV_ID])
    table = pl.DataFrame(
        {name: values.tolist() for name, values in fields.items()}, schema=dict.fromkeys(fields, pl.String)
    )
    moa = pl.Series([None if i % 3 else f"moa {i}" for i in range(count)], dtype=pl.String)
    table.with_columns(Metadata_moa=moa).write_parquet(path, row_group_size=4)
    return path


@pytest.fixture
def manifest(tmp_path, write_fields) -> Path:
    """Eleven FOVs, one of them with a truncated TIFF."""
    fields = write_fields(count=FOVS)
    broken = Path(fields["uri_ER"][BROKEN])
    broken.write_bytes(broken.read_bytes()[:-2000])
    return write_manifest(tmp_path / "manifest.parquet", fields)


@pytest.fixture
def config(manifest, small_run_config) -> RunConfig:
    return small_run_config(
        manifest=str(manifest),
        max_error_fraction=0.2,
        write={"rows_per_file": 3},
        autoencoders={"patch_pca": {"name": "patch_pca"}},
    )


def rows_of(config: RunConfig, table: str, column: str) -> dict[str, bytes]:
    """fov_id -> the bytes of one column."""
    storage = Storage()
    ids, values = read_column(config.output, table, column, read_fovs(config.output, storage), storage)
    return {fov: np.ascontiguousarray(value).tobytes() for fov, value in zip(ids, values, strict=True)}


def everything(config: RunConfig) -> dict[tuple[str, str], dict[str, bytes]]:
    columns = [
        ("latents/tiny", "latent"),
        ("latents/patch_pca", "latent"),
        ("metrics/tiny", "ssim"),
        ("metrics/identity", "mae"),
    ]
    columns += [(f"embeddings/intensity/{side}", "patches") for side in ("image", "tiny", "patch_pca", "identity")]
    return {(table, column): rows_of(config, table, column) for table, column in columns}


def test_a_run_with_a_failed_fov_is_read_back_by_arrow_polars_and_ray(local_ray, config):
    result = encode(Run(config), SILENT)
    assert (result.fovs, result.computed, result.errors) == (FOVS, FOVS, 1)
    output = Path(config.output)

    fovs = arrow_dataset.dataset(output / "fovs").to_table()
    assert fovs.num_rows == FOVS
    failed = fovs.filter(pa.compute.is_valid(fovs["error"]))
    assert failed.num_rows == 1
    assert "A06-ER.tiff" in failed["error"][0].as_py()
    assert sum(value is None for value in fovs["Metadata_moa"].to_pylist()) == sum(1 for i in range(FOVS) if i % 3)
    bad = failed[FOV_ID][0].as_py()

    said = {
        model: pq.read_schema(next((output / "latents" / model).glob("*.parquet"))).metadata
        for model in ("tiny", "patch_pca")
    }
    assert said == {"tiny": {b"random_weights": b"true"}, "patch_pca": None}
    latents = arrow_dataset.dataset(output / "latents/tiny").to_table()
    assert latents.schema.field("latent").type == pa.fixed_shape_tensor(pa.float16(), (4, 2, 4, 8, 8))
    assert column_to_numpy(latents["latent"]).shape == (FOVS - 1, 4, 2, 4, 8, 8)
    assert bad not in latents[FOV_ID].to_pylist()

    frame = pl.read_parquet(output / "metrics/tiny/*.parquet")
    assert frame.height == FOVS - 1
    assert frame.filter(pl.col(FOV_ID) == bad).height == 0
    by_polars = np.array(frame.sort(FOV_ID)["ssim"].to_list()).reshape(FOVS - 1, 4, 5)
    table = arrow_dataset.dataset(output / "metrics/tiny").to_table().sort_by(FOV_ID)
    np.testing.assert_array_equal(by_polars.astype(np.float32), column_to_numpy(table["ssim"].combine_chunks()))

    rows = ray.data.read_parquet(str(output / "embeddings/intensity/image")).take_all()
    assert {row["patches"].shape for row in rows} == {(2, 5, 17)}
    assert {row["patches"].dtype for row in rows} == {np.dtype(np.float16)}
    assert sorted(row[FOV_ID] for row in rows) == sorted(set(fovs[FOV_ID].to_pylist()) - {bad})


def test_a_run_is_the_same_whatever_was_lost_healed_or_batched_otherwise(local_ray, config, manifest, tmp_path):
    """One run to compare with, then: a lost commit, a healed file, another batch size and other pools, another seed."""
    encode(Run(config), SILENT)
    before = everything(config)
    assert {len(rows) for rows in before.values()} == {FOVS - 1}

    lost = min((Path(config.output) / "fovs").glob("*.parquet"))
    gone = pl.read_parquet(lost, columns=[FOV_ID, "error"])
    lost.unlink()
    again = encode(Run(config), SILENT)
    assert again.computed == gone.height + int(
        gone["error"].null_count() == gone.height
    )  # the failed FOV is tried again
    assert everything(config) == before
    for table in ("latents/tiny", "metrics/identity"):  # what lost its commit was swept
        assert pl.read_parquet(f"{config.output}/{table}/*.parquet", columns=[FOV_ID])[FOV_ID].is_unique().all()

    row = pl.read_parquet(manifest).row(BROKEN, named=True)
    Path(row["uri_ER"]).write_bytes(Path(row["uri_RNA"]).read_bytes())
    healed = encode(Run(config), SILENT)
    assert (healed.computed, healed.errors) == (1, 0)
    assert read_fovs(config.output, Storage())["error"].null_count() == FOVS

    other = config.model_copy(
        update={
            "output": str(tmp_path / "other"),
            "load": config.load.model_copy(update={"batch_fovs": 1, "actors": 2, "cpus": 0.1}),
            "encode": config.encode.model_copy(update={"batch_fovs": 3, "actors": 1, "cpus": 0.5}),
        }
    )
    encode(Run(other), SILENT)
    assert everything(config) == everything(other)

    with pytest.raises(ConfigError, match="seed = 0, this one has 1"):
        encode(Run(config.model_copy(update={"seed": 1})), SILENT)


def test_a_run_that_fails_too_often_is_stopped_and_keeps_what_it_wrote(local_ray, config, manifest):
    for uri in pl.read_parquet(manifest)["uri_DNA"].to_list()[1:]:
        Path(uri).write_bytes(b"not an image")
    strict = config.model_copy(update={"max_error_fraction": 0.1})
    with pytest.raises(RunError, match="max_error_fraction") as caught:
        encode(Run(strict), SILENT)
    assert "\n" not in str(caught.value)
    assert read_fovs(config.output, Storage()).height > 0


def test_a_check_takes_one_fov_through_every_stage_and_leaves_nothing(local_ray, config):
    with pytest.raises(ConfigError, match="score.control: there is no column 'Metadata_control_type'"):
        check(Run(config), SILENT)
    scored = config.score.model_copy(update={"control": "Metadata_broad_sample == 'BRD-1'"})
    checked = check(Run(config.model_copy(update={"score": scored})), SILENT)
    assert checked.fovs == FOVS
    assert set(checked.seconds) == {"load", "encode", "write"}
    assert checked.columns["latents/tiny:latent"] == "float16(4, 2, 4, 8, 8)"
    assert {"fovs", "latents/tiny", "metrics/identity", "embeddings/intensity/image"} <= set(checked.stored)
    assert all(size > 0 for size in checked.stored.values())
    assert not [path for path in Path(config.output).rglob("*") if path.is_file()]


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


def test_a_killed_driver_resumes_with_every_fov_exactly_once(write_fields, small_run_config, tmp_path):
    """SIGKILL once two files are committed; the same command again; the tables equal those of a run that was left alone."""
    count = 48
    manifest = write_manifest(tmp_path / "manifest.parquet", write_fields(count=count))
    one_by_one = {"actors": 1, "cpus": 0.5, "batch_fovs": 1}
    config = small_run_config(
        manifest=str(manifest), write={"rows_per_file": 1}, load={**one_by_one, "cpus": 0.1}, encode=one_by_one
    )
    run_file = tmp_path / "run.yaml"
    run_file.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "sdvae_ray.cli.main", "encode", str(run_file)]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
    fovs = Path(config.output) / "fovs"
    deadline = time.monotonic() + 120
    while len(list(fovs.glob("[!.]*.parquet"))) < 2 and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(3)  # workers that outlive their driver end, or finish the write that they are in
    done = read_fovs(config.output, Storage()).height
    assert 0 < done < count, "the kill came too late or too early to show anything"

    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert second.returncode == 0, second.stderr
    assert f"encode: {count - done} of {count} FOVs to do ({done} done before)" in second.stdout
    for table in ("fovs", "latents/tiny", "embeddings/latent/tiny", "metrics/identity"):
        ids = pl.read_parquet(f"{config.output}/{table}/*.parquet", columns=[FOV_ID])[FOV_ID]
        assert (len(ids), ids.n_unique()) == (count, count), table

    alone = config.model_copy(update={"output": str(tmp_path / "alone")})
    encode(Run(alone), SILENT, "local")
    columns = [("latents/tiny", "latent"), ("metrics/tiny", "ssim"), ("embeddings/intensity/image", "patches")]
    assert [rows_of(config, *names) for names in columns] == [rows_of(alone, *names) for names in columns]
