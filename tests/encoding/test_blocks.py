"""What travels from stage to stage through Ray's object store: pixels once as bytes, and no float image."""

from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from field_files import write_fields
from run_files import small_run
from straight_line import write_manifest

from sdvae_ray.cluster.pools import Pool
from sdvae_ray.codecs import jpeg
from sdvae_ray.encoding import actors
from sdvae_ray.encoding.actors import CompressActor, EncodeActor, LoadActor
from sdvae_ray.encoding.start import checked_manifest, prepare_record
from sdvae_ray.engine.compress import taken
from sdvae_ray.engine.files.load import IMAGE
from sdvae_ray.engine.models import resolve_weights
from sdvae_ray.run.run import Run
from sdvae_ray.schema import ERROR, SEPARATOR

CODECS = {"jpeg": {"name": "jpeg"}, "lossless": {"name": "lossless"}}
SMALL = 2048  # bytes per FOV of names, numbers and QC


class Ledger:
    """Takes every call of a ledger's handle and counts nothing."""

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: None)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """The run, and the batches that leave load, compress and encode."""
    folder = tmp_path_factory.mktemp("blocks")
    manifest = write_manifest(folder / "manifest.parquet", write_fields(folder / "images", count=4))
    run = Run(small_run(folder, manifest=str(manifest), codecs=CODECS))
    ledger, pool = Ledger(), Pool(1, 1, 1.0)
    record = prepare_record(run, checked_manifest(run), resolve_weights(run.config, run.storage), pool)
    work = {"row_group": np.array([0]), "rows": np.array([np.arange(4, dtype=np.int32).tobytes()], object)}
    with mock.patch.object(actors, "_report_start"):  # no actor of Ray is here
        [loaded] = LoadActor(run, ledger)(work)
        compressed = CompressActor(run, ledger)(dict(loaded))
        yield run, loaded, compressed, EncodeActor(run, record, pool, ledger)(dict(compressed))


def size(batch: dict[str, np.ndarray]) -> int:
    """The bytes of a batch: those of arrays, and the lengths of texts."""
    texts = sum(len(value or "") for values in batch.values() if values.dtype == object for value in values)
    return texts + sum(values.nbytes for values in batch.values() if values.dtype != object)


def test_a_loaded_fov_is_its_pixels_as_bytes_and_little_else(stages):
    run, loaded, *_ = stages
    image = run.config.image
    assert loaded[IMAGE].dtype == np.uint8
    assert size(loaded) <= 4 * (len(image.stains) * image.crop**2 + SMALL)


def test_a_codec_adds_its_pixels_as_bytes(stages):
    _, loaded, compressed, _ = stages
    assert size(compressed) - size(loaded) <= len(CODECS) * (loaded[IMAGE].nbytes + 4 * SMALL)
    pixels = taken(compressed, ["jpeg"], 0)["jpeg"].pixels
    assert (pixels.dtype, pixels.shape) == (np.uint8, loaded[IMAGE].shape[1:])


def test_no_pixels_leave_the_last_stage(stages):
    *_, encoded = stages
    assert not any(error for error in encoded[ERROR])
    assert all(values.dtype != np.uint8 for values in encoded.values())
    tables = sum(values.nbytes for name, values in encoded.items() if SEPARATOR in name)
    assert size(encoded) <= tables + 4 * SMALL


def test_no_codec_runs_where_the_models_are(stages, monkeypatch):
    """The codec of the encode stage is broken, and nobody notices."""
    run, _, compressed, encoded = stages
    monkeypatch.setattr(jpeg, "load", lambda **options: pytest.fail("a codec in the encode stage"))
    record = prepare_record(run, checked_manifest(run), resolve_weights(run.config, run.storage), Pool(1, 1, 1.0))
    again = EncodeActor(run, record, Pool(1, 1, 1.0), Ledger())(dict(compressed))
    for name in (name for name in encoded if name.startswith("metrics/jpeg")):
        np.testing.assert_array_equal(again[name], encoded[name])
