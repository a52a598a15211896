"""Latents to train on, opened by the libraries they are for, and the training loop of the documentation."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sdvae_ray.exports.contract import Request
from sdvae_ray.exports.latents import latents_of
from sdvae_ray.run.run import Run
from sdvae_ray.schema import FOV_ID, LATENT, LOGVAR

DOCS = Path(__file__).parents[2] / "docs/export.md"
FOVS, PATCHES = 5, 4


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Hugging Face's cache of this test; its variable is read when the library is first imported."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def expected(run: Run) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    """(fov_id, patch) -> mean and logvar."""
    ids, means = run.read("latents/tiny", LATENT)
    others, logvars = run.read("latents/tiny", LOGVAR)
    assert ids == others
    return {(fov, p): (means[n, p], logvars[n, p]) for n, fov in enumerate(ids) for p in range(PATCHES)}


def test_datasets_loads_the_folder_with_shapes_factors_and_texts(shared_run, exported, tmp_path):
    import datasets

    said = exported("datasets", tmp_path / "hf", "--side", "tiny", "--text", "{broad_sample}, well {Well}")
    rows = datasets.load_dataset(str(tmp_path / "hf"), split="train")
    assert len(rows) == said["rows"] == FOVS * PATCHES
    assert rows.features["mean"].shape == (2, 4, 8, 8)
    known = expected(shared_run)
    for row in rows.with_format("numpy"):
        mean, logvar = known[str(row[FOV_ID]), int(row["patch"])]
        np.testing.assert_array_equal(row["mean"], mean)
        np.testing.assert_array_equal(row["logvar"], logvar)
    assert (rows[0]["scaling_factor"], rows[0]["shift_factor"]) == (0.18215, 0.25)
    assert set(rows["text"]) == {"BRD-1, well A01", ", well A02", "BRD-2, well B11"}
    streamed = datasets.load_dataset(str(tmp_path / "hf"), split="train", streaming=True)
    assert sum(1 for _ in streamed) == FOVS * PATCHES


def test_webdataset_streams_the_tars(shared_run, exported, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    said = exported("webdataset", tmp_path / "wds", "--side", "tiny")
    tars = [str(tmp_path / "wds" / name) for name in said["files"] if name.endswith(".tar")]
    assert len(tars) == 3
    known, keys = expected(shared_run), set()
    for sample in webdataset.WebDataset(tars, shardshuffle=False).decode():
        facts = sample["json"]
        mean, logvar = known.pop((facts[FOV_ID], facts["patch"]))
        np.testing.assert_array_equal(sample["mean.npy"], mean)
        np.testing.assert_array_equal(sample["logvar.npy"], logvar)
        assert sample["txt"] == (facts["Metadata_broad_sample"] or "untreated")
        keys.add(sample["__key__"])
    assert not known
    assert len(keys) == FOVS * PATCHES


def test_npz_needs_no_pickle_and_a_model_without_a_posterior_has_no_logvar(shared_run, exported, tmp_path):
    said = exported("npz", tmp_path / "npz", "--side", "pca", "--plate", "P1")
    shards = [np.load(tmp_path / "npz" / name, allow_pickle=False) for name in said["files"] if name.endswith(".npz")]
    assert sum(len(shard["mean"]) for shard in shards) == 4 * PATCHES
    ids, values = shared_run.latents("pca")
    for shard in shards:
        assert "logvar" not in shard
        assert (shard["scaling_factor"] == 1).all()
        for row, (fov, patch) in enumerate(zip(shard[FOV_ID], shard["patch"], strict=True)):
            np.testing.assert_array_equal(shard["mean"][row], values[ids.index(fov), patch])
    facts = json.loads((tmp_path / "npz/facts.json").read_text())
    assert facts["passes"] == ["Mito+AGP+RNA", "RNA+ER+DNA"]
    assert facts["rows"] == 4 * PATCHES


def test_a_sampled_latent_is_not_called_a_mean(run, exported, tmp_path):
    record = run.record
    record["config"]["autoencoders"]["tiny"]["latent"] = "sample"
    run.write_record(record)
    exported("npz", tmp_path / "npz", "--side", "tiny", of=run)
    shard = np.load(tmp_path / "npz/train-000000.npz")
    assert "sample" in shard
    assert "mean" not in shard


def test_no_more_than_one_file_of_the_run_is_read_at_a_time(shared_run, monkeypatch):
    asked = []
    read = Run.read

    def counted(self, table, column, fovs=None):
        asked.append(fovs.height)
        return read(self, table, column, fovs)

    monkeypatch.setattr(Run, "read", counted)
    batches = latents_of(Request(shared_run, "unused", sides=("tiny",))).batches()
    assert next(batches).rows.height == 2 * PATCHES
    assert asked == [2, 2]  # mean and logvar of the first file alone
    assert sum(batch.rows.height for batch in batches) == 3 * PATCHES
    assert max(asked) == 2


def test_the_training_loop_of_the_documentation_trains(exported, tmp_path, monkeypatch):
    exported("datasets", tmp_path / "latents", "--side", "tiny")
    (loop,) = [
        code for code in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "UNet2DModel" in code
    ]
    assert len(loop.split("for batch", 1)[1].splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(loop, names)
    assert names["channels"] == 8
    assert np.isfinite(names["loss"].item())
