"""Decoding: the picture is the reconstruction that the run scored, it lies as the original does, and its file says what it is."""

import io
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import torch
from field_files import write_fields
from run_files import copied, small_run

from sdvae_ray.config import RunConfig
from sdvae_ray.engine.encode import Encoder
from sdvae_ray.engine.files.load import IMAGE, Loader
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import autoencoder_engines, load_models, resolve_weights
from sdvae_ray.engine.sides import Field
from sdvae_ray.errors import ConfigError, DataError, RunError, SdvaeRayError, WeightsError
from sdvae_ray.images.prepare import centre_crop, scale, untile
from sdvae_ray.queries.decode import Decoder, checked_side, decode_fov, ome_tiff
from sdvae_ray.run import record as provenance
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.commits import read_fovs
from sdvae_ray.run.stored.tables import read_column, write_rows
from sdvae_ray.schema import ERROR, FOV_ID, latents_table, uri_column
from sdvae_ray.storage import Storage

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")
STORAGE = Storage()
CPU = torch.device("cpu")
FOV = "source_1/batch 1/P1/A01/1"
FAILED = "source_1/batch 1/P1/A03/1"
MICRO_BATCH = 3  # of 8 passes: the last forward is padded

Batch = dict[str, np.ndarray]


def encoded(config: RunConfig, batch: Batch, precision: str = "float32") -> Batch:
    """A run of these FOVs, its tables and its record written, without Ray; gives what the engine gave."""
    resolved = resolve_weights(config, STORAGE)
    encoder = Encoder(config, load_models(config, resolved, CPU), Forward(CPU, precision), MICRO_BATCH)
    loaded = Loader(config.image, config.storage)(batch)
    out = encoder(loaded)
    write_rows(config.output, "all", out, STORAGE)
    weights = {name: found.record() for name, found in resolved.items()}
    manifest = {"uri": config.manifest, "fovs": len(batch[FOV_ID]), "sha256": "0" * 64}
    record = provenance.new_record(
        config, manifest, weights, MICRO_BATCH, precision, engines=autoencoder_engines(config, resolved, None)
    )
    provenance.write_record(config.output, record, STORAGE)
    return out | {IMAGE: loaded[IMAGE]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[RunConfig, Batch]]:
    """finished(precision, settings) -> (run, what the engine gave): A01 and A02 usable, A03 truncated. Each is encoded once."""

    @cache
    def encoded_once(precision: str, settings: str) -> tuple[RunConfig, Batch]:
        folder = tmp_path_factory.mktemp("finished")
        config = small_run(folder, **json.loads(settings))
        batch = write_fields(folder / "images", 3)
        broken = Path(batch[uri_column("ER")][2])
        broken.write_bytes(broken.read_bytes()[:500])
        return config, encoded(config, batch, precision)

    return encoded_once


@pytest.fixture
def make(finished: Callable[..., tuple[RunConfig, Batch]], tmp_path: Path) -> Callable[..., tuple[RunConfig, Batch]]:
    """make(precision, **changes) -> a copy of that run, which the test may change. Also `pca`, and no extractor but one."""

    def run(precision: str = "float32", **changes: Any) -> tuple[RunConfig, Batch]:
        autoencoders = {"pca": {"name": "patch_pca"}, **changes.pop("autoencoders", {})}
        settings = {"autoencoders": autoencoders, "extractors": {"latent": None}, "metrics": ["mae"], **changes}
        return copied(finished(precision, json.dumps(settings)), tmp_path)

    return run


@pytest.fixture
def run(make: Callable[..., Any]) -> RunConfig:
    return make()[0]


# What comes back


def decode_patches(run: Run, fov_id: str, side: str) -> tuple[torch.Tensor, dict[str, Any]]:
    """The patches of one field and the facts about them."""
    decoder = Decoder(run, side)
    return decoder.patches(decoder.row(fov_id))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("side", ["tiny", "pca"])
def test_the_patches_are_the_reconstruction_that_was_scored(make, side, precision):
    config, out = make(precision)
    patches, facts = decode_patches(Run(config), FOV, side)
    assert (tuple(patches.shape), patches.dtype) == ((4, 5, 64, 64), torch.float32)
    original = torch.from_numpy(out[IMAGE][0]).float() / 255
    # both are means of the same 4096 float32 differences, summed here in float64
    mae = (patches.double() - original).abs().mean((2, 3))
    np.testing.assert_allclose(out[f"metrics/{side}:mae"][0], mae, rtol=1e-5)
    assert mae.min() > 0.001  # not the original
    assert (facts["precision"], facts["micro_batch"], facts["device"]) == (precision, MICRO_BATCH, "cpu")


@pytest.mark.parametrize(
    "settings", [{}, {"latent": "sample"}, {"latent_bits": 3}, {"packing": "grey", "unpack": "last"}]
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_patches_are_the_engines_own_to_the_last_bit(make, precision, settings):
    config, out = make(precision, autoencoders={"tiny": settings, "identity": None})
    models = load_models(config, resolve_weights(config, STORAGE), CPU)
    encoder = Encoder(config, models, Forward(CPU, precision), MICRO_BATCH)
    stains = torch.from_numpy(out[IMAGE][1]).float() / 255
    field = Field("source_1/batch 1/P1/A02/1", stains, encoder.sides.packing.pack(stains))
    with torch.inference_mode():
        made = encoder.sides.by_autoencoder("tiny", models.autoencoders["tiny"], field, MICRO_BATCH)
    assert torch.equal(decode_patches(Run(config), field.fov_id, "tiny")[0], made.result.recon)


def test_the_picture_is_the_slow_obvious_one(make):
    """Every pass of every patch decoded alone, every stain taken from its first pass, every patch put in its place."""
    config, _ = make(image={"transpose": True, "packing": "grey"})
    fovs = read_fovs(config.output, STORAGE).filter(pl.col(FOV_ID) == FOV)
    _, latent = read_column(config.output, latents_table("pca"), "latent", fovs, STORAGE)
    model = load_models(config, resolve_weights(config, STORAGE), CPU).autoencoders["pca"]
    picture = np.zeros((5, 128, 128))
    for patch in range(4):
        for stain in range(5):
            red, green, blue = model.decode(torch.from_numpy(latent[0, patch, stain][None]).float())[0].double().numpy()
            top, left = 64 * (patch // 2), 64 * (patch % 2)
            picture[stain, top : top + 64, left : left + 64] = ((red + green + blue) / 3).T
    stains, _ = decode_fov(Run(config), FOV, "pca")
    assert (stains.shape, stains.dtype) == ((5, 128, 128), np.uint8)
    # half a level of rounding, and float32 sums in batches of another size
    assert np.abs(stains - 255 * picture).max() <= 0.5 + 255 * 1e-5


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(("bits", "most"), [(8, 0), (16, 16)])
def test_the_control_comes_back_as_the_field_lies(make, tmp_path, transpose, bits, most):
    """Of 16 bits a float16 latent keeps 11: 65535 * 2^-12 is its largest error."""
    scaling = {"bits": bits, "divisor": 256 if bits == 8 else 1}
    config, _ = make(
        autoencoders={"tiny": None, "pca": None, "identity": {"store_latents": True}},
        image={"transpose": transpose, "scaling": scaling},
    )
    stains, facts = decode_fov(Run(config), FOV, None)
    batch = write_fields(tmp_path / "images", 1)
    for at, stain in enumerate(STAINS):
        plane = tifffile.imread(batch[uri_column(stain)][0])
        expected = scale(centre_crop(plane.astype(np.float64), 128, stain), 0, scaling["divisor"], bits)
        assert stains[at].dtype == expected.dtype
        assert np.abs(stains[at].astype(int) - expected.astype(int)).max() <= most
        assert expected.std() > 0
    assert f"scaled integers 0 to {2**bits - 1}, not raw camera counts" in facts["scaling"]
    assert f"/ {scaling['divisor']}, 0, " in facts["scaling"]


def test_a_real_field_comes_back_in_its_place(small_run_config, real_field):
    changes = {"extractors": {"latent": None}, "metrics": ["mae"], "image": {"crop": 512, "patch": 256}}
    changes["autoencoders"] = {"tiny": None, "identity": None, "pca": {"name": "patch_pca"}}
    config = small_run_config(**changes)
    batch = {uri_column(stain): np.array([str(path)], object) for stain, path in real_field.items()}
    out = encoded(config, {FOV_ID: np.array([FOV], object), "Metadata_Plate": np.array(["P"], object), **batch})
    stains, _ = decode_fov(Run(config), FOV, None)
    original = untile(out[IMAGE][0])
    for decoded, plane in zip(stains.astype(float), original.astype(float), strict=True):
        assert np.corrcoef(decoded.ravel(), plane.ravel())[0, 1] > 0.7
        assert np.corrcoef(decoded.T.ravel(), plane.ravel())[0, 1] < 0.7


def test_a_run_of_another_device_is_decoded_in_small_forwards(run):
    path = next(Path(run.output, "fovs").glob("*.parquet"))
    table = pq.read_table(path)
    at = table.column_names.index("micro_batch")
    table = table.set_column(at, "micro_batch", pa.array([10_000] * 3, pa.int32()))
    pq.write_table(table, path)
    assert decode_patches(Run(run), FOV, "pca")[1]["micro_batch"] == 10_000
    at = table.column_names.index("device")
    pq.write_table(table.set_column(at, "device", pa.array(["NVIDIA H100"] * 3)), path)
    assert decode_patches(Run(run), FOV, "pca")[1]["micro_batch"] == 8


# The file


def test_the_file_says_what_it_is(run):
    stains, facts = decode_fov(Run(run), FOV, "tiny")
    data = ome_tiff(stains, run.image.stains, facts)
    assert data == ome_tiff(stains, run.image.stains, facts)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert file.is_ome
        (series,) = file.series
        assert (series.axes, series.shape, series.dtype) == ("CYX", (5, 128, 128), np.uint8)
        np.testing.assert_array_equal(series.asarray(), stains)
        assert {page.compression for page in file.pages} == {tifffile.COMPRESSION.ADOBE_DEFLATE}
        image = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
    assert image["Name"] == FOV
    assert [channel["Name"] for channel in image["Pixels"]["Channel"]] == list(STAINS)
    said = json.loads(image["Description"])
    assert said == facts
    assert (said["fov_id"], said["side"], said["source"], said["random_weights"]) == (
        FOV,
        "tiny",
        "random weights",
        True,
    )


def test_the_file_of_published_weights_names_them(run):
    _, facts = decode_fov(Run(run), FOV, "pca")
    assert (facts["autoencoder"], facts["source"], facts["random_weights"]) == ("patch_pca", "asset:patch_pca", False)
    record = provenance.read_record(run.output, STORAGE)
    record["weights"]["autoencoders.pca"] |= {"source": "someone/vae", "revision": "0123abc"}
    provenance.write_record(run.output, record, STORAGE)
    _, facts = decode_fov(Run(run), FOV, "pca")
    assert (facts["source"], facts["revision"]) == ("someone/vae", "0123abc")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_any_number_of_stains_of_any_name_is_one_channel_each(count, kind):
    stains = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (count, 32, 32)).astype(kind)
    names = [f'<"{number}"> & µ' for number in range(count)]
    facts = {"fov_id": 's/"b" <1>/{P}/ü/1'}
    with tifffile.TiffFile(io.BytesIO(ome_tiff(stains, names, facts))) as file:
        assert (file.is_ome, len(file.pages), file.series[0].dtype) == (True, count, kind)
        np.testing.assert_array_equal(file.asarray().reshape(stains.shape), stains)
        image = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
    channels = image["Pixels"]["Channel"]
    assert [channel["Name"] for channel in (channels if count > 1 else [channels])] == names
    assert json.loads(image["Description"]) == facts


# What cannot be decoded


def refused(kind: type[SdvaeRayError], config: RunConfig, fov_id: str, side: str | None) -> str:
    with pytest.raises(kind) as caught:
        decode_fov(Run(config), fov_id, side)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_field_is_answered_with_the_nearest(run):
    assert refused(DataError, run, "source_1/batch 1/P1/A1/1", "pca").endswith(f"; did you mean {FOV!r}?")
    assert f"did you mean {FOV!r}" in refused(DataError, run, "source_1/batch_1/P1/A01/1", "pca")
    assert f"; one of them is {FOV!r}" in refused(DataError, run, "?", "pca")
    record = provenance.read_record(run.output, STORAGE)
    record["manifest"]["fovs"] = 9
    provenance.write_record(run.output, record, STORAGE)
    assert refused(DataError, run, "?", "pca").endswith("; 3 of 9 are encoded, `sdvae-ray encode` goes on")


def test_a_field_that_failed_has_its_reason(run):
    reason = read_fovs(run.output, STORAGE).filter(pl.col(FOV_ID) == FAILED)[ERROR][0]
    assert refused(DataError, run, FAILED, "pca") == f"{FAILED} has nothing to decode, it failed: {reason}"


def test_a_run_that_is_not_encoded_is_said(run):
    shutil.rmtree(Path(run.output, "fovs"))
    assert "no fields of view yet" in refused(DataError, run, FOV, "pca")
    shutil.rmtree(run.output)
    assert "no run at" in refused(DataError, run, FOV, "pca")


@pytest.mark.parametrize(
    ("side", "said"),
    [
        (None, r"--side is wanted, this run has several \(allowed: pca, tiny\)"),
        ("image", r"the originals, which no autoencoder encoded \(allowed: pca, tiny\)"),
        ("jpeg", r"a codec, of which the run keeps sizes and no files \(allowed: pca, tiny\)"),
        ("identity", r"its latents are not stored, being no smaller than the image \(allowed: pca, tiny\)"),
        ("lean", r"its latents are not stored, being left out by store_latents: false \(allowed: pca, tiny\)"),
        ("tinny", r"no such side; did you mean 'tiny'\? \(allowed: pca, tiny\)"),
    ],
)
def test_a_side_that_cannot_be_decoded_says_why(small_run_config, side, said):
    lean = {"name": "patch_pca", "store_latents": False}
    autoencoders = {"pca": {"name": "patch_pca"}, "lean": lean}
    config = small_run_config(autoencoders=autoencoders, codecs={"jpeg": {"name": "jpeg"}})
    with pytest.raises(ConfigError, match=said):
        checked_side(Run(config), side)


def test_the_only_side_with_latents_need_not_be_named(small_run_config):
    assert checked_side(Run(small_run_config()), None) == "tiny"
    none = small_run_config(autoencoders={"tiny": None})
    for side, said in ((None, "no autoencoder of it has store_latents"), ("identity", "allowed: none, this run")):
        with pytest.raises(ConfigError, match=said):
            checked_side(Run(none), side)


def test_other_weights_than_the_runs_are_refused(run):
    record = provenance.read_record(run.output, STORAGE)
    record["weights"]["autoencoders.pca"]["files"] = {"patch_pca.safetensors": "0" * 64}
    provenance.write_record(run.output, record, STORAGE)
    assert "autoencoders.pca: the weights at asset:patch_pca are not those" in refused(WeightsError, run, FOV, "pca")


def test_the_same_weights_elsewhere_will_do(run, tmp_path):
    import sdvae_ray

    shutil.copytree(Path(sdvae_ray.__path__[0], "assets", "patch_pca"), tmp_path / "moved")
    moved = run.autoencoders["pca"].model_copy(update={"source": str(tmp_path / "moved")})
    elsewhere = run.model_copy(update={"autoencoders": {"pca": moved}, "metrics": {}})
    stains, facts = decode_fov(Run(elsewhere), FOV, None)
    np.testing.assert_array_equal(stains, decode_fov(Run(run), FOV, "pca")[0])
    assert facts["source"] == "asset:patch_pca"  # what the run was made with


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"image": {"patch": 128}}, "image.patch = 64"),
        ({"image": {"packing": "grey"}}, "image.packing"),
        ({"precision": "float16"}, "precision = 'auto'"),
        ({"autoencoders": {"tiny": {"weights_seed": 5}}}, "autoencoders.tiny.weights_seed"),
    ],
)
def test_a_run_file_of_another_run_is_refused(run, small_run_config, changes, key):
    other = small_run_config(**changes)
    assert f"holds a run with {key}" in refused(ConfigError, other, FOV, "tiny")


def test_a_side_or_a_field_that_is_still_to_be_added_is_said(run):
    new = run.autoencoders | {"more": run.autoencoders["pca"]}
    more = run.model_copy(update={"autoencoders": new})
    assert refused(ConfigError, more, FOV, "more").endswith("has no more yet: `sdvae-ray encode --extend` adds it")
    record = provenance.read_record(run.output, STORAGE)
    record["config"] = more.model_dump(mode="json")  # extended, and stopped before this field
    provenance.write_record(run.output, record, STORAGE)
    assert "has no latent of more yet" in refused(DataError, more, FOV, "more")


def test_a_reconstruction_that_is_not_finite_is_an_error(run, monkeypatch):
    class Spoilt:
        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            return torch.full((len(latent), 3, 64, 64), torch.nan)

    monkeypatch.setattr("sdvae_ray.queries.decode.load_autoencoder", lambda *_: Spoilt())
    assert "the reconstruction of pca is not finite on cpu" in refused(RunError, run, FOV, "pca")


def test_a_model_that_leaves_the_unit_interval_saturates(run, monkeypatch):
    class Wide:
        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            return torch.tensor([-0.1, 0.5, 1.1]).view(1, 3, 1, 1).expand(len(latent), 3, 64, 64).contiguous()

    monkeypatch.setattr("sdvae_ray.queries.decode.load_autoencoder", lambda *_: Wide())
    stains, _ = decode_fov(Run(run), FOV, "pca")  # (Mito, AGP, RNA), (RNA, ER, DNA); 127.5 is rounded to even
    assert [np.unique(plane).tolist() for plane in stains] == [[0], [128], [255], [128], [255]]
