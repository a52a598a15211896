"""A run as a notebook opens it: by its folder or its run file, as frames and arrays; what is not there is said in one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

import sdvae_ray
from sdvae_ray.config import RunConfig
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.run.record import new_record
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.schema import ERROR, FOV_ID, ROW
from sdvae_ray.storage import Storage

IDS = [f"s/b/P1/A{number:02d}/1" for number in range(1, 5)]
LOST = IDS[2]


def written(run: Run) -> Run:
    """The run with four fields of view, the third of which failed, and a record."""
    errors = np.array(["no such object" if name == LOST else "" for name in IDS], object)
    rows = [{"Metadata_Plate": "P1", "Metadata_Well": name.split("/")[3]} for name in IDS]
    columns = {
        FOV_ID: np.array(IDS, object),
        ERROR: errors,
        ROW: np.array([json.dumps(row) for row in rows], object),
        "latents/tiny:latent": np.arange(4 * 8).reshape(4, 1, 2, 1, 2, 2).astype(np.float16),
        "embeddings/intensity/image:embedding": np.ones((4, 2, 3), np.float16),
        "embeddings/intensity/tiny:embedding": np.zeros((4, 2, 3), np.float16),
        "metrics/tiny:ssim": np.linspace(0, 1, 20).reshape(4, 1, 5).astype(np.float32),
    }
    write_rows(run.output, "part-0", columns, run.storage)
    manifest = {"uri": run.config.manifest, "fovs": 4, "sha256": "0" * 64}
    run.write_record(new_record(run.config, manifest, {}, 8, "float32"))
    return run


@pytest.fixture
def run(small_run_config) -> Run:
    return written(Run(small_run_config()))


def test_the_package_opens_a_run_and_imports_nothing_heavy():
    program = "import sys, sdvae_ray; print({'torch', 'ray', 'polars', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert (Path(sdvae_ray.__file__).parent / "py.typed").is_file()


def test_a_folder_and_a_run_file_open_the_same_run(run, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(json.loads(run.config.model_dump_json())))
    assert sdvae_ray.open(run.output) == sdvae_ray.open(file) == run
    assert sdvae_ray.open(run.output).record["manifest"]["fovs"] == 4


def test_overrides_and_storage_are_laid_over_the_run_that_is_opened(run, tmp_path):
    opened = sdvae_ray.open(run.output, ["seed=3"], {"region": "eu-west-1"})
    assert (opened.config.seed, opened.config.storage.region) == (3, "eu-west-1")
    assert opened.changed("score.threshold=0.2").config.score.threshold == 0.2
    assert opened.config.score.threshold == 0.05
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        sdvae_ray.open(run.output, ["sede=3"])
    with pytest.raises(ConfigError, match="did you mean 'region'"):
        sdvae_ray.open(run.output, storage={"regoin": "x"})


def test_another_output_is_honoured_for_a_folder_as_it_is_for_a_run_file(run, tmp_path):
    assert sdvae_ray.open(run.output, [f"output={tmp_path}/copy"]).output == f"{tmp_path}/copy"


def test_a_run_that_was_moved_is_read_where_it_stands(run, tmp_path):
    moved = Path(run.output).rename(tmp_path / "elsewhere")
    assert sdvae_ray.open(moved).fovs().height == 4


def test_tables_are_frames_and_arrays_with_their_fov_ids(run):
    opened = sdvae_ray.open(run.output)
    fovs = opened.fovs()
    assert fovs.filter(pl.col("error").is_not_null())[FOV_ID].to_list() == [LOST]
    usable = [name for name in IDS if name != LOST]
    fov_ids, latents = opened.latents("tiny")
    assert (fov_ids, latents.shape, latents.dtype) == (usable, (3, 1, 2, 1, 2, 2), np.float16)
    assert latents[2].ravel().tolist() == list(range(24, 32))  # of the fourth: the third has no row
    assert opened.embeddings("intensity").values.mean() == 1
    assert opened.embeddings("intensity", "tiny").values.mean() == 0
    assert opened.metrics("tiny", "ssim").values.shape == (3, 1, 5)
    assert opened.embedded() == [("intensity", "image"), ("intensity", "tiny")]
    some = fovs.filter(pl.col(FOV_ID) == IDS[3])
    assert opened.read("metrics/tiny", "ssim", some).fov_ids == [IDS[3]]


def test_what_a_run_does_not_have_is_one_line_with_the_nearest_name(run):
    for ask, words in (
        (lambda: run.latents("tyni"), "did you mean 'latents/tiny'"),
        (lambda: run.embeddings("intensity", "imgae"), "did you mean 'embeddings/intensity/image'"),
        (lambda: run.metrics("tiny", "psnr"), "metrics/tiny has no column 'psnr'"),
        (lambda: run.profiles("intensity"), "run `sdvae-ray score` first"),
        (run.scores, "run `sdvae-ray score` first"),
    ):
        with pytest.raises(DataError) as error:
            ask()
        assert words in str(error.value)
        assert "\n" not in str(error.value)


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"no run at .*: there is no run\.json"):
        sdvae_ray.open(tmp_path)


def test_profiles_of_all_plates_are_one_frame(run):
    for plate in ("P1", "P2"):
        frame = pl.DataFrame({"Metadata_Plate": [plate], "Metadata_Well": ["A01"], "intensity_0_0": [0.5]})
        run.write_table(frame, "profiles", "intensity", "image", "s", "b", f"{plate}.parquet")
    assert sdvae_ray.open(run.output).profiles("intensity")["Metadata_Plate"].to_list() == ["P1", "P2"]


def test_a_run_in_a_bucket_is_opened_by_the_storage_that_is_given(run, s3):
    for path in Path(run.output).rglob("*.*"):
        s3.storage.write_bytes(f"{s3.prefix}/run/{path.relative_to(run.output)}", path.read_bytes())
    keys = s3.config.model_dump(exclude_none=True)
    opened = sdvae_ray.open(f"{s3.prefix}/run", storage=keys)
    assert opened.config.storage == s3.config
    np.testing.assert_array_equal(opened.latents("tiny").values, run.latents("tiny").values)


def test_a_run_holds_its_configuration_alone_and_so_travels(run):
    import pickle

    again = pickle.loads(pickle.dumps(run))
    assert again == run
    assert isinstance(again.config, RunConfig)
    assert isinstance(again.storage, Storage)
