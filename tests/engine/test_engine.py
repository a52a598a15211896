"""The engine: a row's numbers depend on its own pixels, key and seed alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdvae_ray.codecs import jpeg
from sdvae_ray.config import RunConfig
from sdvae_ray.contracts import Posterior
from sdvae_ray.distributions.fid import frechet_distance, moments
from sdvae_ray.engine.compress import Compressor, compress
from sdvae_ray.engine.encode import Encoder, auto_micro_batch
from sdvae_ray.engine.files.load import IMAGE, Batch
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import Models, check_names, load_models, resolve_weights
from sdvae_ray.engine.sides import Sides
from sdvae_ray.errors import ConfigError
from sdvae_ray.images.packing import Packing
from sdvae_ray.images.prepare import tile, untile
from sdvae_ray.schema import ERROR, FOV_ID, RATES, column, embeddings_table, latents_table, metrics_table
from sdvae_ray.storage import Storage

CPU = torch.device("cpu")
NOT_RESULTS = ("seconds_encode", "seconds_compress", "micro_batch")


def models_of(config: RunConfig) -> Models:
    return load_models(config, resolve_weights(config, Storage()), CPU)


def encoder(config: RunConfig, models: Models | None = None, micro_batch: int = 8) -> Encoder:
    return Encoder(config, models or models_of(config), Forward(CPU, "float32"), micro_batch)


def fovs(config: RunConfig, count: int, bad: tuple[int, ...] = ()) -> Batch:
    """What the loader and the codecs give for `count` FOVs: edges and texture; an error and zeros in those of `bad`."""
    image = config.image
    kind, top = (np.uint8, 256) if image.scaling.bits == 8 else (np.uint16, 65536)
    shape = (image.patches, len(image.stains), image.patch, image.patch)
    pixels = np.stack([np.random.default_rng(row).integers(0, top, shape).astype(kind) for row in range(count)])
    pixels[..., : image.patch // 2, :] //= 4
    errors = np.array(["no such object: x.tiff" if row in bad else "" for row in range(count)], object)
    pixels[list(bad)] = 0
    names = np.array([f"s/b/P1/A{row:02d}/1" for row in range(count)], object)
    batch = {FOV_ID: names, IMAGE: pixels, ERROR: errors}
    return Compressor.of(config)(batch) if config.codecs else batch


def rows(batch: Batch, chosen: list[int]) -> Batch:
    return {name: values[chosen] for name, values in batch.items()}


def results(out: Batch) -> list[str]:
    """Names of the columns of the data tables."""
    return sorted(name for name in out if ":" in name)


def assert_same_bytes(one: Batch, other: Batch) -> None:
    assert one.keys() == other.keys()
    for name in one.keys() - set(NOT_RESULTS):
        if one[name].dtype == object:
            assert one[name].tolist() == other[name].tolist(), name
        else:
            assert one[name].tobytes() == other[name].tobytes(), name
            assert (one[name].dtype, one[name].shape) == (other[name].dtype, other[name].shape), name


# What comes out


def test_every_table_of_the_run_has_its_columns_with_their_shapes(small_run_config):
    config = small_run_config(extractors={"intensity": {"keep_patches": 3}})
    out = encoder(config)(fovs(config, 1))
    shapes = {name: (out[name].shape[1:], out[name].dtype) for name in results(out)}
    expected = {column(latents_table("tiny"), "latent"): ((4, 2, 4, 8, 8), np.float16)}
    for side in ("tiny", "identity"):
        per_stain = ("foreground_ssim", "foreground_mae", "mae", "ssim", "emd", "psnr", *RATES)
        per_metric = {"kld": (4, 2), **dict.fromkeys(per_stain, (4, 5))}
        expected |= {column(metrics_table(side), name): (shape, np.float32) for name, shape in per_metric.items()}
    groups = {"latent": (2, 14), "intensity": (5, 17)}
    for name, shape in groups.items():
        kept = min(4, config.extractors[name].keep_patches)
        for side in ("image", "tiny", "identity"):
            if name == "latent" and side == "image":
                continue  # an original has no latent
            each = (2, 9) if (name, side) == ("latent", "identity") else shape  # three channels have nine moments
            expected[column(embeddings_table(name, side), "embedding")] = (each, np.float16)
            expected[column(embeddings_table(name, side), "patches")] = ((kept, *each), np.float16)
    assert shapes == {name: (shape, np.dtype(kind)) for name, (shape, kind) in expected.items()}
    assert set(out) - set(results(out)) == {FOV_ID, ERROR, "seconds_encode", "device", "encode_node", "micro_batch"}


@pytest.mark.parametrize("bits", [8, 16])
def test_the_identity_reconstructs_exactly_and_stores_no_latents(small_run_config, bits):
    config = small_run_config(autoencoders={"tiny": None}, image={"scaling": {"bits": bits}})
    out = encoder(config)(fovs(config, 2))
    assert (out["metrics/identity:mae"] == 0).all()
    assert (out["metrics/identity:emd"] == 0).all()
    assert (out["metrics/identity:ssim"] == 1).all()
    assert np.isposinf(out["metrics/identity:psnr"]).all()
    assert np.isnan(out["metrics/identity:kld"]).all()
    assert not [name for name in results(out) if name.startswith("latents/")]
    for name in ("embedding", "patches"):
        original = out[f"embeddings/intensity/image:{name}"]
        np.testing.assert_array_equal(out[f"embeddings/intensity/identity:{name}"], original)


def test_what_is_stored_is_what_was_decoded(small_run_config):
    config = small_run_config(autoencoders={"identity": None})
    models, batch = models_of(config), fovs(config, 1)
    out = encoder(config, models)(batch)
    latent = torch.from_numpy(out["latents/tiny:latent"][0]).float().flatten(0, 1)
    with torch.inference_mode():
        decoded = models.autoencoders["tiny"].decode(latent).view(4, 2, 3, 64, 64)
    mito = torch.from_numpy(batch[IMAGE][0][:, 0]).float() / 255
    mae = (decoded[:, 0, 0] - mito).abs().mean((1, 2))
    np.testing.assert_allclose(out["metrics/tiny:mae"][0, :, 0], mae, atol=1e-6)


def test_latents_can_be_left_out_or_kept_against_the_models_own_habit(small_run_config):
    config = small_run_config(autoencoders={"tiny": {"store_latents": False}, "identity": {"store_latents": True}})
    out = encoder(config)(fovs(config, 1))
    assert [name for name in results(out) if name.startswith("latents/")] == ["latents/identity:latent"]
    assert out["latents/identity:latent"].shape == (1, 4, 2, 3, 64, 64)
    assert (out["metrics/identity:mae"] < 5e-4).all()  # rounded to float16 before it is decoded
    assert (out["metrics/identity:mae"] > 0).all()


def test_the_embedding_is_the_mean_over_all_patches(small_run_config):
    config = small_run_config(extractors={"intensity": {"keep_patches": 16}})
    out = encoder(config)(fovs(config, 2))
    for side in ("image", "tiny"):
        patches = out[f"embeddings/intensity/{side}:patches"].astype(np.float64)
        np.testing.assert_allclose(out[f"embeddings/intensity/{side}:embedding"], patches.mean(1), atol=2e-3)


@pytest.mark.parametrize(("asked", "kept"), [(0, 0), (1, 1), (3, 3), (4, 4), (16, 4)])
def test_as_many_patches_are_kept_as_are_asked_for_and_there_are(small_run_config, asked, kept):
    config = small_run_config(extractors={"intensity": {"keep_patches": asked}})
    out = encoder(config)(fovs(config, 1))
    name = "embeddings/intensity/image:patches"
    assert (name in out) == (kept > 0)
    assert "embeddings/intensity/image:embedding" in out
    if kept:
        assert out[name].shape == (1, kept, 5, 17)


def test_the_same_patches_are_kept_of_the_original_and_of_the_reconstruction(small_run_config):
    config = small_run_config(autoencoders={"tiny": None}, extractors={"intensity": {"keep_patches": 1}})
    out = encoder(config)(fovs(config, 12))
    original, reconstructed = (out[f"embeddings/intensity/{side}:patches"] for side in ("image", "identity"))
    np.testing.assert_array_equal(original, reconstructed)
    every = encoder(small_run_config(autoencoders={"tiny": None}, extractors={"intensity": {"keep_patches": 4}}))
    patches = every(fovs(config, 12))["embeddings/intensity/image:patches"]
    places = [int(np.flatnonzero((one == all_).all((1, 2)))[0]) for one, all_ in zip(original, patches, strict=True)]
    assert len(set(places)) > 1  # not always the same corner


def test_the_choice_of_patches_depends_on_the_seed_and_the_fov(small_run_config):
    def kept(seed: int, fov_id: str) -> bytes:
        config = small_run_config(seed=seed, autoencoders={"tiny": None}, extractors={"intensity": {"keep_patches": 2}})
        batch = fovs(config, 1) | {FOV_ID: np.array([fov_id], object)}
        return encoder(config)(batch)["embeddings/intensity/image:patches"].tobytes()

    assert kept(0, "a") == kept(0, "a")
    assert len({kept(0, f"fov {number}") for number in range(8)}) > 1
    assert len({kept(seed, "a") for seed in range(8)}) > 1


# A row depends on itself alone


@pytest.fixture
def sampling_run(small_run_config: Callable[..., RunConfig]) -> RunConfig:
    """The small run with a sampled latent beside the mean, so that whatever depends on order would show."""
    drawn = {"name": "diffusers_kl", "random": True, "architecture": "tiny", "latent": "sample"}
    return small_run_config(autoencoders={"drawn": drawn})


@pytest.mark.parametrize("micro_batch", [3, 8])  # with and without padding
def test_no_number_depends_on_the_batch_or_the_order_not_even_its_last_bit(sampling_run, micro_batch):
    models, batch = models_of(sampling_run), fovs(sampling_run, 4, bad=(2,))
    together = encoder(sampling_run, models, micro_batch)(batch)
    one = encoder(sampling_run, models, micro_batch)
    for row in (3, 2, 1, 0):
        assert_same_bytes(one(rows(batch, [row])), rows(together, [row]))
    for order in ([3, 1, 2, 0], [2, 0]):
        assert_same_bytes(encoder(sampling_run, models, micro_batch)(rows(batch, order)), rows(together, order))


def test_a_failed_fov_in_the_middle_keeps_its_error_has_zeros_and_changes_no_other_row(small_run_config):
    config = small_run_config()
    models = models_of(config)
    whole, broken = encoder(config, models)(fovs(config, 3)), encoder(config, models)(fovs(config, 3, bad=(1,)))
    assert broken[ERROR].tolist() == ["", "no such object: x.tiff", ""]
    assert_same_bytes(rows(broken, [0, 2]), rows(whole, [0, 2]))
    assert results(broken) == results(whole)
    for name in results(broken):
        assert not broken[name][1].any()
        assert broken[name].shape == whole[name].shape


def test_a_batch_of_failures_alone_has_the_columns_of_any_other(small_run_config):
    config = small_run_config()
    whole, broken = encoder(config)(fovs(config, 2)), encoder(config)(fovs(config, 2, bad=(0, 1)))
    assert results(broken) == results(whole)
    for name in results(broken):
        assert (broken[name].shape, broken[name].dtype) == (whole[name].shape, whole[name].dtype)
        assert not broken[name].any()
    assert broken[ERROR].tolist() == ["no such object: x.tiff"] * 2


@pytest.mark.parametrize("micro_batch", [1, 3, 5, 13])
def test_the_micro_batch_changes_no_shape_and_numbers_by_rounding_only(small_run_config, micro_batch):
    config = small_run_config()
    models, batch = models_of(config), fovs(config, 1)
    usual = encoder(config, models, 8)(batch)
    other = encoder(config, models, micro_batch)(batch)
    assert results(other) == results(usual)
    assert other["micro_batch"].tolist() == [micro_batch]
    for name in results(usual):
        assert other[name].shape == usual[name].shape
        tolerance = 2e-3 if usual[name].dtype == np.float16 else 1e-4
        finite = np.isfinite(usual[name])
        np.testing.assert_allclose(
            other[name][finite], usual[name][finite], rtol=tolerance, atol=tolerance, err_msg=name
        )


def test_a_second_pair_of_models_gives_the_same_bytes(sampling_run):
    batch = fovs(sampling_run, 2)
    assert_same_bytes(encoder(sampling_run)(batch), encoder(sampling_run)(batch))


def test_the_engine_leaves_its_input_as_it_was(small_run_config):
    config = small_run_config()
    batch = fovs(config, 2, bad=(1,))
    before = {name: values.copy() for name, values in batch.items()}
    for values in batch.values():
        values.flags.writeable = False  # as arrays from shared memory are
    encoder(config)(batch)
    for name, values in before.items():
        np.testing.assert_array_equal(batch[name], values)


# Sampling


def latents(config: RunConfig, fov_ids: list[str]) -> np.ndarray:
    batch = rows(fovs(config, 1), [0] * len(fov_ids)) | {FOV_ID: np.array(fov_ids, object)}
    return encoder(config, micro_batch=2)(batch)["latents/drawn:latent"]


def test_noise_is_a_function_of_the_seed_and_the_fov(sampling_run, small_run_config):
    one, two, again = latents(sampling_run, ["a", "b", "a"])
    assert one.tobytes() == again.tobytes()
    assert one.tobytes() != two.tobytes()
    other = sampling_run.model_copy(update={"seed": 1})
    assert latents(other, ["a"])[0].tobytes() != one.tobytes()


class Knows:
    """An autoencoder whose posterior is the same for every image: mean 0.5, variance exp(-3)."""

    def encode(self, rgb: Tensor) -> Posterior:
        mean = torch.full((len(rgb), 4, 8, 8), 0.5)
        return Posterior(mean, torch.full_like(mean, -3.0))

    def decode(self, latent: Tensor) -> Tensor:
        return torch.zeros(len(latent), 3, 64, 64)


def test_samples_have_the_mean_and_the_spread_of_the_posterior(small_run_config):
    config = small_run_config(autoencoders={"tiny": {"latent": "sample"}, "identity": None}, metrics=["mae"])
    models = models_of(config)
    out = encoder(config, Models({"tiny": Knows()}, models.extractors, models.metrics))(fovs(config, 6))
    z = (out["latents/tiny:latent"].astype(np.float64) - 0.5) / np.exp(-1.5)
    assert abs(z.mean()) < 0.03  # of 12,288 draws
    assert z.std() == pytest.approx(1, abs=0.03)
    assert np.unique(z).size > 1000
    np.testing.assert_allclose(
        np.corrcoef(z.reshape(12, -1)), np.eye(12), atol=0.15
    )  # no two of them are the same draws


def test_the_noise_of_a_sample_is_float16_where_the_run_is(small_run_config):
    config = small_run_config(autoencoders={"tiny": {"latent": "sample"}})
    half = config.model_copy(update={"precision": "float16"})
    mean = torch.zeros(2, 4, 8, 8)
    posterior = Posterior(mean, torch.zeros_like(mean))
    forward = Forward(torch.device("cpu"), "float32")
    whole_noise, half_noise = (Sides(run, forward)._sample(posterior, "tiny", "a") for run in (config, half))
    np.testing.assert_array_equal(half_noise, whole_noise.half().float())
    assert (half_noise != whole_noise).any()


@pytest.mark.parametrize("name", ["identity", "patch_pca", "diffusers_dc", "diffusers_tiny"])
def test_what_has_no_posterior_cannot_be_sampled_from(small_run_config, name):
    config = small_run_config(autoencoders={"tiny": None, "identity": None, "x": {"name": name, "latent": "sample"}})
    with pytest.raises(ConfigError, match="no posterior to sample from"):
        check_names(config)


# Numbers that must not be stored


Act = Callable[[Tensor], Tensor]


class Paints:
    """An autoencoder with known answers: the latent is the mean of the red plane; two acts may spoil it."""

    def __init__(self, spoil_latent: Act = lambda z: z, spoil: Act = lambda x: x) -> None:
        self.spoil_latent, self.spoil = spoil_latent, spoil

    def encode(self, rgb: Tensor) -> Posterior:
        mean = rgb[:, :1].mean((2, 3), keepdim=True)
        return Posterior(self.spoil_latent(mean), None)

    def decode(self, latent: Tensor) -> Tensor:
        return self.spoil(latent.expand(-1, 3, 64, 64).clamp(0, 1).contiguous())


def painted(small_run_config: Callable[..., RunConfig], fake: Any) -> tuple[RunConfig, Models]:
    config = small_run_config(autoencoders={"tiny": None, "identity": {"store_latents": True}})
    models = models_of(config)
    return config, Models({"identity": fake}, models.extractors, models.metrics)


def bright(threshold: float, value: float) -> Act:
    """Spoils the values above the threshold, which a bright FOV alone has."""
    return lambda values: torch.where(values > threshold, value, values)


def one_bright(config: RunConfig) -> Batch:
    batch = fovs(config, 3)
    batch[IMAGE][1] = 255
    return batch


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (Paints(spoil_latent=bright(0.9, 1e6)), ("latent", "float16")),
        (Paints(spoil_latent=bright(0.9, float("nan"))), ("latent", "float16")),
        (Paints(spoil=bright(0.9, float("nan"))), ("reconstruction", "not finite")),
        (Paints(spoil=bright(0.9, float("inf"))), ("reconstruction", "not finite")),
    ],
    ids=["latent overflows", "latent is nan", "reconstruction is nan", "reconstruction is infinite"],
)
def test_numbers_that_cannot_be_stored_make_an_error_row_and_spare_the_others(small_run_config, fake, words):
    config, models = painted(small_run_config, fake)
    batch = one_bright(config)
    out = encoder(config, models)(batch)
    assert out[ERROR][[0, 2]].tolist() == ["", ""]
    for word in (*words, "identity"):
        assert word in out[ERROR][1]
    for name in results(out):
        assert not out[name][1].any()
        if not name.endswith((":kld", ":bits_coded", ":bits_entropy")):  # identity has neither
            assert np.isfinite(out[name]).all()
    sound = encoder(config, Models({"identity": Paints()}, models.extractors, models.metrics))(batch)
    assert_same_bytes(rows(out, [0, 2]), rows(sound, [0, 2]))


class Shouts:
    """An extractor whose numbers are too large for float16 where an image is bright."""

    takes = "rgb"

    def __call__(self, batch: Tensor) -> Tensor:
        return bright(0.9, 1e6)(batch.mean((3, 4)))


def test_an_embedding_that_does_not_fit_makes_an_error_row(small_run_config):
    config = small_run_config(autoencoders={"tiny": None}, extractors={"latent": None})
    models = models_of(config)
    loud = Models(models.autoencoders, {"intensity": Shouts()}, models.metrics)
    out = encoder(config, loud)(one_bright(config))
    assert out[ERROR][[0, 2]].tolist() == ["", ""]
    assert "embedding of intensity" in out[ERROR][1]


# Sizes


def test_the_micro_batch_is_a_whole_fov_on_a_gpu_and_a_few_passes_on_a_cpu(small_run_config):
    published = small_run_config(image={"crop": 1024, "patch": 256})
    assert auto_micro_batch(published, on_gpu=True) == 32
    assert auto_micro_batch(published, on_gpu=False) == 2
    assert auto_micro_batch(small_run_config(), on_gpu=False) == 8  # never more than a FOV has
    assert auto_micro_batch(small_run_config(image={"crop": 1024, "patch": 1024}), on_gpu=False) == 1


# Unusual runs


def test_a_first_batch_in_which_nothing_can_be_stored_keeps_its_rows(small_run_config):
    config, models = painted(small_run_config, Paints(spoil_latent=lambda mean: mean + 1e6))
    out = encoder(config, models)(fovs(config, 2))
    assert ["float16" in error for error in out[ERROR]] == [True, True]


@pytest.mark.parametrize("stain", [0, 4])
def test_the_identity_is_exact_where_passes_are_grey(small_run_config, stain):
    stains = ("Mito", "AGP", "RNA", "ER", "DNA")
    config = small_run_config(autoencoders={"tiny": None}, image={"packing": [[name] * 3 for name in stains]})
    out = encoder(config)(fovs(config, 1))
    assert (out["metrics/identity:mae"][0, :, stain] == 0).all()


@pytest.mark.parametrize("patch", [8, 16, 32])
def test_a_patch_that_is_too_small_for_a_model_or_metric_is_refused_or_works(small_run_config, patch):
    try:
        config = small_run_config(image={"crop": 2 * patch, "patch": patch})
        out = encoder(config)(fovs(config, 1))
    except ConfigError as error:
        message = str(error)
    else:
        message = "patch" if out[ERROR].tolist() == [""] else "an error row"
    assert "patch" in message


# Codecs and bits


def test_the_lossless_codec_and_the_identity_change_nothing_and_the_distance_is_zero(small_run_config):
    config = small_run_config(autoencoders={"tiny": None}, codecs={"lossless": {"name": "lossless"}})
    out = encoder(config)(fovs(config, 6))
    for side in ("lossless", "identity"):
        assert not out[f"metrics/{side}:mae"].any()
        assert (out[f"metrics/{side}:ssim"] == 1).all()
        table = f"embeddings/intensity/{side}"
        np.testing.assert_array_equal(out[f"{table}:patches"], out["embeddings/intensity/image:patches"])
        original, found = (
            moments(out[f"embeddings/intensity/{name}:patches"][:, :, 0].reshape(-1, 17).astype(np.float64))
            for name in ("image", side)
        )
        assert frechet_distance(original, found) == pytest.approx(0, abs=1e-9)
    assert not [name for name in results(out) if name.startswith(("latents/lossless", "embeddings/latent/lossless"))]


def test_a_codecs_numbers_are_those_of_its_bytes(small_run_config):
    config = small_run_config(
        autoencoders={"tiny": None, "identity": None}, codecs={"j": {"name": "jpeg", "quality": 20}}
    )
    batch = fovs(config, 2)
    out = encoder(config)(batch)
    field = untile(batch[IMAGE][1])
    recon, sizes = jpeg.load(quality=20).roundtrip(field[None])
    recon = tile(recon[0], config.image.patch)
    np.testing.assert_allclose(out["metrics/j:bits"][1], np.broadcast_to(sizes[0] * 8 / len(recon), (len(recon), 5)))
    error = np.abs(recon.astype(np.float64) - batch[IMAGE][1]).mean((2, 3)) / 255
    np.testing.assert_allclose(out["metrics/j:mae"][1], error, atol=1e-6)
    assert np.isnan(out["metrics/j:bits_entropy"]).all()
    assert np.isnan(out["metrics/j:kld"]).all()


def test_the_variance_of_the_posterior_is_stored_on_request(small_run_config):
    kl = {"name": "diffusers_kl", "random": True, "architecture": "tiny", "store_logvar": True}
    config = small_run_config(autoencoders={"tiny": None, "identity": None, "kl": kl})
    batch, models = fovs(config, 1), models_of(config)
    out = encoder(config, models)(batch)
    stored = out["latents/kl:logvar"][0]
    assert stored.dtype == np.float16
    assert stored.shape == out["latents/kl:latent"][0].shape
    stains = torch.from_numpy(batch[IMAGE][0]).float() / 255
    rgb = Packing(config.image.stains, config.image.triples).pack(stains)
    posterior = models.autoencoders["kl"].encode(rgb.flatten(0, 1))
    assert posterior.logvar is not None
    np.testing.assert_allclose(stored.reshape(posterior.logvar.shape), posterior.logvar.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"name": "patch_pca", "store_logvar": True}, "patch_pca has no posterior, so there is no store_logvar"),
        (
            {"name": "diffusers_kl", "random": True, "store_latents": False, "store_logvar": True},
            "diffusers_kl stores no latents, so there is no store_logvar",
        ),
    ],
)
def test_a_variance_that_is_not_there_is_refused(small_run_config, settings, why):
    with pytest.raises(ConfigError, match=why):
        check_names(small_run_config(autoencoders={"tiny": None, "x": settings}))


class Waits(TorchDispatchMode):
    """Counts the operations whose result the host must know before it goes on: on a GPU it would wait for the whole queue."""

    NAMES = ("_local_scalar_dense", "is_nonzero", "nonzero", "bincount", "masked_select", "unique", "equal", "item")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        by_mask = name in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in self.NAMES or by_mask:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device_while_a_batch_is_queued(small_run_config):
    """With every metric that needs no weights, a quantised latent, a sampled one, and extractors of all three kinds."""
    config = small_run_config(
        autoencoders={
            "tiny": {"latent_bits": 4, "latent": "sample"},
            "kl": {"name": "diffusers_kl", "random": True, "architecture": "tiny"},
        },
        codecs={"j": {"name": "jpeg"}},
        extractors={"pixels": {"name": "intensity"}, "own": {"name": "latent"}},
        metrics=[
            "kld",
            "mae",
            "mse",
            "ssim",
            "ms_ssim",
            "emd",
            "psnr",
            "radial_power",
            "stain_correlation",
            "foreground_mae",
            "foreground_ssim",
        ],
    )
    batch, ready = fovs(config, 3, bad=(1,)), encoder(config)
    ready(batch)
    with Waits() as waits:
        out = ready(batch)
    assert out[ERROR].tolist() == ["", "no such object: x.tiff", ""]
    assert waits.seen == []
    with Waits() as waits:
        assert torch.ones(3)[torch.ones(3) > 0].sum().item() == 3
    assert waits.seen


class Refusing:
    """A codec that cannot take a bright field."""

    def roundtrip(self, stains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if stains.max() > 200:
            raise RuntimeError("too bright")
        return stains, np.full(stains.shape[:2], 10)


def test_a_field_that_a_codec_refuses_keeps_its_row_with_the_reason(small_run_config):
    config = small_run_config(autoencoders={"tiny": None, "identity": None}, codecs={"j": {"name": "jpeg"}})
    batch = {name: values for name, values in fovs(config, 2).items() if name in (FOV_ID, IMAGE, ERROR)}
    batch[IMAGE][1] //= 2
    out = encoder(config)(Compressor({"j": Refusing()})(batch))
    assert out[ERROR].tolist() == ["codecs.j: too bright", ""]
    assert (out["metrics/j:bits"][1] == 10 * 8 / 4).all()
    assert not out["metrics/j:bits"][0].any()


def test_a_codec_sees_the_field_as_it_was_photographed(small_run_config):
    """Also where the run exchanges the rows and columns of every patch."""

    class Seen:
        def roundtrip(self, stains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            self.field = stains[0].copy()
            return stains, np.zeros(stains.shape[:2], np.int64)

    field = np.random.default_rng(0).integers(0, 256, (5, 128, 128), np.uint8)
    for transpose in (False, True):
        patches = tile(field, 64)
        image = patches.swapaxes(2, 3) if transpose else patches
        codec = Seen()
        np.testing.assert_array_equal(compress(codec, image, transpose).pixels, image)
        np.testing.assert_array_equal(codec.field, field)


def test_the_encoder_runs_no_codec(small_run_config, monkeypatch):
    """Whole batches with a codec pass through it while every codec of the package is out of order."""
    config = small_run_config(autoencoders={"tiny": None, "identity": None}, codecs={"j": {"name": "jpeg"}})
    batch, ready = fovs(config, 2), encoder(config)
    monkeypatch.setattr("sdvae_ray.codecs._planes.PlaneCodec.roundtrip", None)
    assert ready(batch)[ERROR].tolist() == ["", ""]


def test_bits_of_a_latent_are_those_that_are_stored_and_shared_by_planes(small_run_config):
    config = small_run_config()
    out = encoder(config)(fovs(config, 1))
    stored = out["latents/tiny:latent"][0]  # (P, T, Z, s, s)
    bits = out["metrics/tiny:bits"][0]
    np.testing.assert_allclose(bits.sum(1), stored[0].size * 16)
    np.testing.assert_allclose(bits[:, 2], 2 * bits[:, 0])  # RNA lies in both passes
    np.testing.assert_array_equal(out["metrics/identity:bits"][0], np.full((4, 5), 64**2 * 8))
    entropy = out["metrics/tiny:bits_entropy"][0]
    expected = 0.0
    for channel in range(4):  # the slow way: levels counted over the FOV, channel by channel
        values = stored[:, :, channel].astype(np.float32)
        levels = np.rint((values - values.min()) / ((values.max() - values.min()) / 255))
        counts = np.unique(levels, return_counts=True)[1]
        expected += -(counts * np.log2(counts / counts.sum())).sum() + 32
    assert entropy.sum() == pytest.approx(expected, rel=1e-5)
    assert entropy.sum() < bits.sum() / 1.5


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_a_quantised_latent_has_so_many_levels_and_is_what_is_decoded(small_run_config, bits):
    config = small_run_config(autoencoders={"tiny": {"latent_bits": bits}, "identity": None})
    models, batch = models_of(config), fovs(config, 1)
    out = encoder(config, models)(batch)
    stored = out["latents/tiny:latent"][0]
    for channel in range(4):
        assert len(np.unique(stored[:, :, channel])) <= 2**bits
    with torch.inference_mode():
        decoded = (
            models.autoencoders["tiny"].decode(torch.from_numpy(stored).float().flatten(0, 1)).view(4, 2, 3, 64, 64)
        )
    mito = torch.from_numpy(batch[IMAGE][0][:, 0]).float() / 255
    np.testing.assert_allclose(
        out["metrics/tiny:mae"][0][:, 0], (decoded[:, 0, 0] - mito).abs().mean((1, 2)), rtol=1e-4
    )
    assert out["metrics/tiny:bits_entropy"][0].sum() <= bits * stored.size + 32 * 4 + 1


@pytest.mark.parametrize("settings", [{}, {"latent_bits": 2}, {"latent": "sample"}])
def test_the_latent_extractor_sees_the_latent_that_is_decoded(small_run_config, settings):
    """Not the posterior's mean: the score, the rate and the distortion of a side are of one latent."""
    config = small_run_config(autoencoders={"tiny": settings, "identity": None})
    models, batch = models_of(config), fovs(config, 1)
    out = encoder(config, models)(batch)
    stored = torch.from_numpy(out["latents/tiny:latent"][0]).float()
    expected = models.extractors["latent"](stored).mean(0).half()
    np.testing.assert_array_equal(out["embeddings/latent/tiny:embedding"][0], expected)
    plain = encoder(small_run_config(autoencoders={"identity": None}))(batch)["embeddings/latent/tiny:embedding"][0]
    assert (plain != out["embeddings/latent/tiny:embedding"][0]).any() == bool(settings)


def test_grey_passes_hold_one_stain_each(small_run_config):
    config = small_run_config(image={"packing": "grey"})
    out = encoder(config)(fovs(config, 1))
    assert out["latents/tiny:latent"].shape == (1, 4, 5, 4, 8, 8)
    assert out["metrics/tiny:kld"].shape == (1, 4, 5)
    assert not out["metrics/identity:mae"].any()
    np.testing.assert_allclose(out["metrics/tiny:bits"][0], np.full((4, 5), 4 * 64 * 16))


def test_means_of_half_features_are_those_of_the_published_pipeline(small_run_config):
    whole = small_run_config(autoencoders={"tiny": None})
    half = small_run_config(autoencoders={"tiny": None}, extractors={"intensity": {"half_mean": True}})
    batch = fovs(whole, 1)
    one, other = (encoder(config)(batch)["embeddings/intensity/image:embedding"][0] for config in (whole, half))
    models = models_of(whole)
    with torch.inference_mode():
        features = models.extractors["intensity"](torch.from_numpy(batch[IMAGE][0]).float() / 255)
    np.testing.assert_array_equal(one, features.mean(0).half())
    np.testing.assert_array_equal(other, features.half().mean(0))
    assert (one != other).any()
