"""The requests, bytes and operations that are planned are those that are made: of the loader, the tables and the engine."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import s3fs
import torch
from field_files import STAINS, write_fields
from run_files import PCA, small_run

from sdvae_ray.config import RunConfig, StorageConfig
from sdvae_ray.engine.compress import Compressor
from sdvae_ray.engine.encode import Encoder
from sdvae_ray.engine.files.load import Batch, Loader
from sdvae_ray.engine.files.patience import Patience, PatientStorage
from sdvae_ray.engine.flop import count_flop, flop_of_a_call, models_without_data
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import load_models, resolve_weights
from sdvae_ray.planning.census import census
from sdvae_ray.planning.pieces import rows_per_file
from sdvae_ray.planning.rates import Rates
from sdvae_ray.planning.sizes import with_sizes
from sdvae_ray.planning.work import flop_of_a_fov, planned
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.run.traffic import Traffic
from sdvae_ray.schema import ERROR, illum_column, uri_column
from sdvae_ray.sources.manifest.manifest import write_manifest
from sdvae_ray.storage import Storage

CPU = torch.device("cpu")
FOVS, ROWS = 6, 4
NO_RATES = Rates({"load": 1.0, "encode": 1.0}, False, 0.0, None, None, {})
METHODS = {"get_object": "reads", "head_object": "looks", "put_object": "writes"}


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The requests that s3fs makes, by the method of the API."""
    counts: Counter[str] = Counter()
    call = s3fs.S3FileSystem._call_s3

    async def counted(self: s3fs.S3FileSystem, method: str, *arguments: object, **options: object) -> object:
        counts[method] += 1
        return await call(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    return counts


def run_of(folder: Path, fields: Batch, **changes: object) -> RunConfig:
    """A run of the fields, with files of four rows."""
    table = pl.DataFrame({name: values.tolist() for name, values in fields.items()}, infer_schema_length=None)
    write_manifest(table, str(folder / "manifest.parquet"), Storage())
    small = {"write": {"rows_per_file": ROWS}, "encode": {"batch_fovs": ROWS}, "autoencoders": PCA}
    return small_run(folder, **{**small, **changes})


def encoder_of(config: RunConfig) -> Encoder:
    models = load_models(config, resolve_weights(config, Storage(config.storage)), CPU)
    return Encoder(config, models, Forward(CPU, "float32"), 8)


def test_planned_requests_and_bytes_are_those_that_a_bucket_sees(tmp_path, s3, requests):
    fields = write_fields(tmp_path / "images", FOVS, illumination=True)
    for column in (*map(uri_column, STAINS), *map(illum_column, STAINS)):
        for path in set(fields[column]):
            s3.storage.write_bytes(f"{s3.prefix}/{Path(path).name}", Path(path).read_bytes())
        fields[column] = np.array([f"{s3.prefix}/{Path(path).name}" for path in fields[column]], object)
    config = run_of(tmp_path, fields, storage=s3.config.model_dump(), output=f"{s3.prefix}/run")
    counted = census(config.manifest, STAINS, s3.storage, sample=FOVS)
    counted = with_sizes(counted, config.manifest, config.image, s3.storage)
    work = planned(config, counted, NO_RATES, None)
    assert rows_per_file(config, FOVS) == ROWS

    requests.clear()
    loader = Loader(config.image, config.storage, tmp_path, Patience(0))
    batch = loader(fields)
    assert set(batch[ERROR]) == {""}
    columns = encoder_of(config)(Compressor.of(config)(batch))
    tables = PatientStorage(config.storage, Patience(0))
    for start in range(0, FOVS, ROWS):
        write_rows(
            config.output, f"part-{start}", {name: v[start : start + ROWS] for name, v in columns.items()}, tables
        )
    traffic = loader.taken_traffic() + tables.meter.taken()
    assert set(requests) == set(METHODS)
    for method, figure in METHODS.items():
        assert requests[method] == getattr(traffic, figure) == work[figure], method
    assert work["reads"] == 5 * FOVS + 5
    assert traffic.objects == work["objects"] == len(s3.storage.list(config.output))
    assert traffic.read_bytes == work["read_bytes"]
    names = s3.storage.list(config.output)
    assert traffic.written_bytes == sum(s3.storage.size(f"{config.output}/{name}") for name in names)


def test_a_second_taking_of_traffic_finds_none(tmp_path):
    storage = PatientStorage(StorageConfig(), Patience(0))
    storage.write_bytes(str(tmp_path / "a"), b"12345")
    storage.read_range(str(tmp_path / "a"), 1, 3)
    storage.version(str(tmp_path / "a"))
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(str(tmp_path / "absent"))
    assert storage.meter.taken() == Traffic(reads=1, read_bytes=2, looks=1, writes=1, written_bytes=5, objects=1)
    assert storage.meter.taken() == Traffic()


@pytest.mark.parametrize(("megabytes", "requests_made"), [(0, 1), (99, 1), (100, 4), (101, 5)])
def test_a_large_object_is_sent_in_parts(megabytes, requests_made):
    """As s3fs sends it: 50 MiB a part, from 100 MiB on, with a request that begins and one that ends the upload."""
    assert Traffic.of_object(megabytes << 20).writes == requests_made


def test_the_planned_operations_are_those_of_the_engine(tmp_path):
    """A whole call of the engine, counted by torch, without what is not nominal: other metrics, functions, padding."""
    tiny = {"name": "diffusers_kl", "random": True, "architecture": "tiny", "engine": "diffusers"}
    fields = write_fields(tmp_path / "images", 1)
    config = run_of(
        tmp_path,
        fields,
        autoencoders={
            "tiny": tiny,
            "identity": None,
            "pca": {"name": "patch_pca"},
            "grey": {**tiny, "packing": "grey"},
        },
        extractors={
            "net": {"name": "efficientnet_lite", "random": True, "size": 64},
            "latent": None,
            "intensity": None,
        },
        codecs={"jpeg": {"name": "jpeg"}},
        metrics=["mae"],
    )
    batch = Compressor.of(config)(Loader(config.image, config.storage)(fields))
    flop = flop_of_a_call(config, models_without_data(config, Storage()))
    encoder = Encoder(
        config, load_models(config, resolve_weights(config, Storage()), CPU), Forward(CPU, "float32"), micro_batch=4
    )
    assert count_flop(lambda: encoder(batch)) == flop_of_a_fov(config, flop)
    calls = {part: cost.calls for part, cost in encoder.costs.items()}
    assert sum(calls.get(part, 0) * operations for part, operations in flop.items()) == flop_of_a_fov(config, flop)
    assert flop["encode grey"] * 2 == flop["encode tiny"] * 5
    assert calls["extract net"] == 1 + len(config.sides) == 5
