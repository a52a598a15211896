"""A finished run of five fields on two plates, with profiles, made by the engine without Ray, and what a command prints."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from field_files import write_fields
from run_files import small_run

from sdvae_ray.cli.main import main
from sdvae_ray.config import RunConfig
from sdvae_ray.engine.compress import Compressor
from sdvae_ray.engine.encode import Encoder
from sdvae_ray.engine.files.load import Loader
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import autoencoder_engines, load_models, resolve_weights
from sdvae_ray.run import record
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.schema import FOV_ID, KEYS, METADATA, fov_id
from sdvae_ray.sources.manifest.describe import describe_manifest

SIDES = ("image", "tiny", "pca", "identity", "jpeg")
FACTORS = {"scaling_factor": 0.18215, "shift_factor": 0.25}


def write_finished(config: RunConfig, fields: dict[str, np.ndarray], files: int) -> Run:
    """The run of `fields` in `files` files, with its record."""
    run = Run(config)
    pl.DataFrame({name: values.tolist() for name, values in fields.items()}).write_parquet(config.manifest)
    resolved = resolve_weights(config, run.storage)
    cpu = torch.device("cpu")
    encoder = Encoder(config, load_models(config, resolved, cpu), Forward(cpu, "float32"), 8)
    columns = encoder(Compressor.of(config)(Loader(config.image, config.storage)(fields)))
    for number, rows in enumerate(np.array_split(np.arange(len(columns[FOV_ID])), files)):
        write_rows(
            config.output, f"part-{number}", {name: values[rows] for name, values in columns.items()}, run.storage
        )
    manifest = describe_manifest(config.manifest, len(fields[FOV_ID]), run.storage)
    weights = {name: weight.record() for name, weight in resolved.items()}
    engines = autoencoder_engines(config, resolved, None)
    run.write_record(record.new_record(config, manifest, weights, 8, "float32", {"tiny": FACTORS}, engines))
    return run


def write_profiles(run: Run) -> None:
    """What `score` writes of the extractors: one file a plate, the mean of a well's fields."""
    fovs = run.fovs().sort(FOV_ID)
    for extractor, side in run.embedded():
        ids, values = run.embeddings(extractor, side)
        flat = {fov: values[row].astype(np.float64).ravel() for row, fov in enumerate(ids)}
        names = run.features(extractor, side)["feature"].to_list()
        for (plate,), rows in fovs.group_by("Metadata_Plate", maintain_order=True):
            wells = rows.unique("Metadata_Well", keep="first", maintain_order=True)
            means = [
                np.mean([flat[fov] for fov in rows.filter(Metadata_Well=well)[FOV_ID]], 0)
                for well in wells["Metadata_Well"]
            ]
            known = wells.select(pl.col(f"^{METADATA}.*$").exclude("Metadata_Site"))
            table = pl.concat([known, pl.DataFrame(np.array(means, np.float32), schema=names)], how="horizontal")
            run.write_table(table, "profiles", extractor, side, "source_1", "batch 1", f"{plate}.parquet")


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Five fields: plate P1 with A01 (two sites), A02 (a control) and B11, plate P2 with A01; in three files."""
    folder = tmp_path_factory.mktemp("exports")
    fields = dict(write_fields(folder / "images", count=5))
    places = (("P1", "A01", "1"), ("P1", "A01", "2"), ("P1", "A02", "1"), ("P1", "B11", "1"), ("P2", "A01", "1"))
    for row, place in enumerate(places):
        for name, value in zip(KEYS[2:], place, strict=True):
            fields[name][row] = value
        fields[FOV_ID][row] = fov_id({name: fields[name][row] for name in KEYS})
    fields["Metadata_broad_sample"] = np.array(["BRD-1", "BRD-1", None, "BRD-2", "BRD-1"], object)
    fields["Metadata_control_type"] = np.array([None, None, "negcon", None, None], object)
    run = write_finished(
        small_run(
            folder,
            autoencoders={"tiny": {"store_logvar": True}, "pca": {"name": "patch_pca"}},
            codecs={"jpeg": {"name": "jpeg"}},
        ),
        fields,
        files=3,
    )
    write_profiles(run)
    return run


@pytest.fixture
def run(shared_run: Run, tmp_path: Path) -> Run:
    """A copy of that run, which the test may change."""
    shutil.copytree(shared_run.output, tmp_path / "run")
    return Run(shared_run.config.model_copy(update={"output": str(tmp_path / "run")}))


@pytest.fixture
def exported(shared_run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """exported(format, output, *options) -> the JSON that the command prints."""

    def export(form: str, output: Path, *options: str, of: Run = shared_run) -> dict[str, Any]:
        with pytest.raises(SystemExit) as ended:
            main(["export", of.output, "--to", form, "--output", str(output), *options, "--json"])
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
        return json.loads(said.out)

    return export
