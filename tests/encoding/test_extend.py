"""A finished run is extended: what is added is computed once, what was there is not computed again, and nothing else changes."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from field_files import write_fields
from rich.console import Console
from run_files import PCA, merged
from straight_line import CPU, engine, expected_values, loaded, stored_values, write_finished_run

from sdvae_ray.contracts import Posterior
from sdvae_ray.encoding.encode import encode
from sdvae_ray.encoding.pending import pending
from sdvae_ray.engine.columns import run_columns
from sdvae_ray.engine.files.load import IMAGE
from sdvae_ray.engine.models import load_models, resolve_weights
from sdvae_ray.errors import ConfigError
from sdvae_ray.run import record as provenance
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.commits import read_commits
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.schema import ERROR, FOV_ID
from sdvae_ray.sources.manifest.manifest import write_manifest
from sdvae_ray.storage import Storage

STORAGE = Storage()
FOVS = 4
FEW = {"autoencoders": PCA}
ADDED = {
    "autoencoders": {"tiny": {"name": "diffusers_kl", "random": True, "architecture": "tiny"}},
    "codecs": {"jpeg": {"name": "jpeg", "quality": 50}},
    "extractors": {"pixels": {"name": "intensity", "keep_patches": 1}},
    "metrics": ["foreground_ssim", "foreground_mae", "ssim", "psnr", "mae", "emd", "kld", "mse"],
}
MORE = merged(FEW, ADDED)


@pytest.fixture
def manifest(tmp_path):
    rows = write_fields(tmp_path / "images", FOVS)
    write_manifest(
        pl.DataFrame({name: list(values) for name, values in rows.items()}), str(tmp_path / "m.parquet"), STORAGE
    )
    return str(tmp_path / "m.parquet")


def test_an_extended_run_is_byte_for_byte_the_run_that_had_all_from_the_start(local_ray, manifest, small_run_config):
    few = small_run_config(manifest=manifest, **FEW)
    more = small_run_config(manifest=manifest, **MORE)
    console = Console(quiet=True)
    write_finished_run(few)
    before, first = (
        stored_values(few),
        {name: STORAGE.read_bytes(f"{few.output}/{name}") for name in STORAGE.list(few.output)},
    )
    with pytest.raises(
        ConfigError, match=r"without autoencoders.tiny, codecs.jpeg, extractors.pixels, metrics.mse; .*--extend"
    ):
        encode(Run(more), console)
    done = encode(Run(more), console, extend=True)
    assert (done.fovs, done.before, done.computed, done.errors) == (FOVS, 0, FOVS, 0)
    after, expected = stored_values(more), expected_values(more)
    assert after.keys() == expected.keys() > before.keys()
    for name, by_fov in expected.items():
        assert after[name] == by_fov, name
    for name, data in first.items():  # what was there is as it was
        if name != "run.json":
            assert STORAGE.read_bytes(f"{few.output}/{name}") == data
    _, commits = read_commits(more.output, STORAGE, [])
    names = [name for columns in commits.values() for name in columns]
    assert set(names) == run_columns(more)
    assert {frozenset(columns) for columns in commits.values()} == {
        run_columns(few),
        run_columns(more) - run_columns(few),
    }
    marked = {
        model: pq.read_schema(next(Path(more.output, "latents", model).glob("*.parquet"))) for model in ("tiny", "pca")
    }
    assert marked["tiny"].metadata == {b"random_weights": b"true"}
    assert marked["pca"].metadata is None
    again = encode(Run(more), console)
    assert (again.before, again.computed) == (FOVS, 0)
    record = provenance.read_record(more.output, STORAGE)
    assert record["extensions"][0]["added"] == ["autoencoders.tiny", "codecs.jpeg", "extractors.pixels", "metrics.mse"]
    assert "autoencoders.tiny" in record["weights"]
    with pytest.raises(ConfigError, match="a run that also has autoencoders.tiny"):
        encode(Run(few), console, extend=True)


# What is left to do, without Ray


def test_fovs_are_sorted_by_what_they_lack(manifest, small_run_config, tmp_path):
    few = small_run_config(manifest=manifest, **FEW)
    more = small_run_config(manifest=manifest, **MORE)
    keys = pl.read_parquet(manifest).select(FOV_ID).with_columns(row_group=pl.lit(0), row=pl.int_range(pl.len()))
    assert [(work.wanted, work.keys.height) for work in pending(Run(few), keys)] == [(run_columns(few), FOVS)]
    batch = loaded(few)
    failed = batch | {ERROR: np.array(["lost", *[""] * (FOVS - 1)], object)}
    write_rows(few.output, "first", engine(few)(failed), STORAGE)
    (work,) = pending(Run(few), keys)
    assert work.keys[FOV_ID].to_list() == [batch[FOV_ID][0]]
    whole, extension = pending(Run(more), keys)
    assert (whole.wanted, whole.keys["files"].to_list()) == (run_columns(more), [None])
    assert extension.wanted == run_columns(more) - run_columns(few)
    assert extension.keys["files"].to_list() == [["first.parquet"]] * (FOVS - 1)


class Counted:
    """An autoencoder that counts how many passes it encoded and decoded."""

    def __init__(self, inner) -> None:
        self.inner, self.encoded, self.decoded = inner, 0, 0

    def encode(self, rgb: torch.Tensor) -> Posterior:
        self.encoded += len(rgb)
        return self.inner.encode(rgb)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        self.decoded += len(latent)
        return self.inner.decode(latent)


@pytest.mark.parametrize(
    ("metrics", "extractor", "encodes", "decodes"),
    [
        (["mae", "mse"], "intensity", False, True),  # the stored latent is decoded
        (["mae", "kld"], "intensity", True, True),  # which has no variance
        (["mae"], "intensity", False, False),  # nothing is wanted
        (["mae"], "latent", False, True),  # which sees the latent that is decoded
    ],
)
def test_a_stored_latent_is_decoded_and_not_encoded_again(
    manifest, small_run_config, metrics, extractor, encodes, decodes
):
    small = {"autoencoders": {"identity": None}, "extractors": {"latent": None}, "metrics": ["mae"]}
    few = small_run_config(manifest=manifest, **small)
    more = small_run_config(manifest=manifest, **small | {"metrics": metrics})
    if extractor == "latent":
        more = small_run_config(manifest=manifest, **small | {"extractors": {}})
    batch = loaded(few)
    first = engine(few)(batch)
    models = load_models(more, resolve_weights(more, STORAGE), CPU)
    counted = Counted(models.autoencoders["tiny"])
    models.autoencoders["tiny"] = counted
    extension = engine(more, models, run_columns(more) - run_columns(few))
    stored = {fov: {"tiny": first["latents/tiny:latent"][row]} for row, fov in enumerate(batch[FOV_ID])}
    out = extension(batch, stored)
    assert {name for name in out if ":" in name} == run_columns(more) - run_columns(few)
    passes = FOVS * 4 * 2
    assert (counted.encoded, counted.decoded) == (passes * encodes, passes * decodes)
    whole = engine(more)(batch)
    for name in run_columns(more) - run_columns(few):
        assert out[name].tobytes() == whole[name].tobytes()
    assert batch[IMAGE].any()
