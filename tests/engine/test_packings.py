"""An autoencoder with a packing of its own, beside others in one run: the numbers of a run whose image.packing is that packing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdvae_ray.config import RunConfig
from sdvae_ray.contracts import Posterior, Takes
from sdvae_ray.engine.columns import side_columns
from sdvae_ray.engine.encode import Encoder
from sdvae_ray.engine.files.load import IMAGE, Batch
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import Models, load_models, resolve_weights
from sdvae_ray.images.packing import Packing
from sdvae_ray.schema import ERROR, FOV_ID, LATENT, column, latents_table
from sdvae_ray.storage import Storage

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")
MIXED = [["Mito", "ER", "DNA"], ["DNA", "AGP", "RNA"]]  # DNA stands in both
TINY: dict[str, Any] = {"name": "diffusers_kl", "random": True, "architecture": "tiny"}
METRICS = ["kld", "mae", "ssim", "psnr"]


class Planes:
    """An extractor of RGB passes with known answers: the mean of every plane, (N, T, 3)."""

    takes: Takes = "rgb"

    def __call__(self, batch: Tensor) -> Tensor:
        return batch.mean((3, 4))


def models_of(config: RunConfig, rgb: str = "") -> Models:
    models = load_models(config, resolve_weights(config, Storage()), torch.device("cpu"))
    return Models(models.autoencoders, models.extractors | ({rgb: Planes()} if rgb else {}), models.metrics)


def encoder(config: RunConfig, models: Models | None = None) -> Encoder:
    return Encoder(config, models or models_of(config), Forward(torch.device("cpu"), "float32"), 8)


def fovs(count: int) -> Batch:
    pixels = np.random.default_rng(3).integers(0, 256, (count, 4, 5, 64, 64)).astype(np.uint8)
    pixels[..., :32, :] //= 4
    names = np.array([f"s/b/P1/A{row:02d}/1" for row in range(count)], object)
    return {FOV_ID: names, IMAGE: pixels, ERROR: np.array([""] * count, object)}


def of_side(out: Batch, config: RunConfig, side: str) -> dict[str, np.ndarray]:
    """The columns of one side, under the names of a side called x."""
    return {name.replace(f"/{side}:", "/x:"): out[name] for name in side_columns(config, side)}


@pytest.fixture
def beside(small_run_config: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    """beside(**autoencoders): a small run of these autoencoders alone."""

    def make(packing: Any = "published", **autoencoders: Any) -> RunConfig:
        none = {"tiny": None, "identity": None}
        return small_run_config(autoencoders={**none, **autoencoders}, metrics=METRICS, image={"packing": packing})

    return make


@pytest.mark.parametrize("packing", ["grey", MIXED])
@pytest.mark.parametrize("latent", [{}, {"latent_bits": 4}, {"store_latents": False}])
def test_a_side_with_a_packing_has_the_numbers_of_a_run_with_that_packing(beside, packing, latent):
    together = beside(plain={**TINY, **latent}, packed={**TINY, **latent, "packing": packing})
    alone = beside(packing, packed={**TINY, **latent})
    both, one = encoder(together)(fovs(2)), encoder(alone)(fovs(2))
    for name in side_columns(alone, "packed"):
        assert both[name].shape == one[name].shape, name
        assert both[name].tobytes() == one[name].tobytes(), name
    plain = beside(plain={**TINY, **latent})
    unpacked = encoder(plain)(fovs(2))
    for name in side_columns(plain, "plain"):
        assert both[name].tobytes() == unpacked[name].tobytes(), name


class Counted:
    """An autoencoder that counts the passes that it encodes."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.encoded = inner, 0

    def encode(self, rgb: Tensor) -> Posterior:
        self.encoded += len(rgb)
        return self.inner.encode(rgb)

    def decode(self, latent: Tensor) -> Tensor:
        return self.inner.decode(latent)


def test_sides_of_one_model_that_differ_in_their_latent_alone_encode_a_field_once(beside):
    latents = {"plain": {}, "coarse": {"latent_bits": 3}, "drawn": {"latent": "sample"}, "grey": {"packing": "grey"}}
    config = beside(**{side: {**TINY, **settings} for side, settings in latents.items()})
    models = models_of(config)
    (autoencoder,) = {id(model): model for model in models.autoencoders.values()}.values()
    counted = Counted(autoencoder)
    out = encoder(config, Models(dict.fromkeys(latents, counted), models.extractors, models.metrics))(fovs(3))
    assert counted.encoded == 3 * (8 + 24)  # fields; 4 patches of 2 and of 5 passes, padded to micro-batches of 8
    for side, settings in latents.items():
        alone = beside(**{side: {**TINY, **settings}})
        one = encoder(alone)(fovs(3))
        assert all(one[name].tobytes() == out[name].tobytes() for name in side_columns(alone, side)), side


def test_shapes_and_bits_follow_the_packing(beside):
    out = encoder(beside(plain=TINY, grey={**TINY, "packing": "grey"}))(fovs(1))
    assert out["latents/plain:latent"].shape == (1, 4, 2, 4, 8, 8)
    assert out["latents/grey:latent"].shape == (1, 4, 5, 4, 8, 8)
    assert out["metrics/grey:kld"].shape == (1, 4, 5)
    assert out["metrics/plain:kld"].shape == (1, 4, 2)
    assert out["embeddings/latent/grey:embedding"].shape == (1, 5, 14)
    latent_bits = 4 * 8 * 8 * 16  # of a pass
    assert (out["metrics/grey:bits"] == latent_bits).all()  # a pass of one stain is charged to it
    np.testing.assert_allclose(out["metrics/plain:bits"].sum(2), 2 * latent_bits)


@pytest.mark.parametrize("name", ["identity", "patch_pca"])
def test_an_autoencoder_without_a_posterior_has_no_divergence_in_any_packing(beside, name):
    out = encoder(beside(x={"name": name, "packing": "grey"}))(fovs(1))
    assert out["metrics/x:kld"].shape == (1, 4, 5)
    assert np.isnan(out["metrics/x:kld"]).all()


def test_the_identity_returns_every_stain_in_any_packing(beside):
    out = encoder(beside(grey={"name": "identity", "packing": "grey"}, mixed={"name": "identity", "packing": MIXED}))(
        fovs(1)
    )
    assert (out["metrics/grey:mae"] == 0).all()
    assert (out["metrics/mixed:mae"] == 0).all()


def test_no_number_depends_on_the_batch_with_several_packings(beside):
    config = beside(
        drawn={**TINY, "latent": "sample", "packing": MIXED, "unpack": "last"},
        grey={**TINY, "packing": "grey"},
        plain=TINY,
    )
    models, batch = models_of(config), fovs(3)
    together = encoder(config, models)(batch)
    for row in range(3):
        alone = encoder(config, models)({name: values[[row]] for name, values in batch.items()})
        for name in (name for name in together if ":" in name):
            assert alone[name].tobytes() == together[name][[row]].tobytes(), name


def test_an_extractor_of_passes_sees_those_of_the_originals_on_every_side(beside, small_run_config):
    identity = {"name": "identity"}
    config = beside(plain=identity, grey={**identity, "packing": "grey"}, mixed={**identity, "packing": MIXED})
    config = config.model_copy(update={"extractors": {"planes": config.extractors["intensity"]}})
    models = models_of(config.model_copy(update={"extractors": {}}), rgb="planes")
    out = encoder(config, models)(fovs(1))
    for side in ("plain", "grey", "mixed"):
        np.testing.assert_array_equal(
            out[f"embeddings/planes/{side}:embedding"], out["embeddings/planes/image:embedding"], err_msg=side
        )


class Shifts:
    """An autoencoder whose decoder adds 1/8 to the first pass of a patch and nothing to the second."""

    def encode(self, rgb: Tensor) -> Any:
        raise AssertionError("the latents are stored")

    def decode(self, latent: Tensor) -> Tensor:
        shift = torch.tensor([0.125, 0.0]).repeat(len(latent) // 2).view(-1, 1, 1, 1)
        return torch.full((len(latent), 3, 64, 64), 0.25) + shift


@pytest.mark.parametrize(("unpack", "errors"), [("first", [1, 1, 1, 0, 0]), ("last", [1, 1, 0, 0, 0])])
def test_a_stain_of_two_triples_is_read_back_from_the_first_or_the_last(beside, unpack, errors):
    config = beside(x={**TINY, "unpack": unpack})
    models = models_of(config)
    one = Encoder(
        config,
        Models({"x": Shifts()}, models.extractors, models.metrics),
        Forward(torch.device("cpu"), "float32"),
        8,
        {"metrics/x:mae"},
    )
    batch = fovs(1)
    batch[IMAGE][:] = 64  # 64 / 255
    stored = {str(batch[FOV_ID][0]): {"x": np.zeros((4, 2, 4, 8, 8), np.float16)}}
    exact = abs(0.25 - 64 / 255)
    expected = [abs(0.375 - 64 / 255) if error else exact for error in errors]
    np.testing.assert_allclose(one(batch, stored)["metrics/x:mae"], np.tile(expected, (1, 4, 1)), atol=1e-6)


def test_the_rgb_passes_keep_the_decoders_own_triples_whichever_is_read_back(beside):
    """The second pass of the published packing keeps its own RNA, as published."""
    packing = Packing(STAINS, [["Mito", "AGP", "RNA"], ["RNA", "ER", "DNA"]], "last")
    passes = torch.rand(2, 2, 3, 8, 8)
    stains = packing.unpack(passes)
    torch.testing.assert_close(stains[:, 2], passes[:, 1, 0])
    torch.testing.assert_close(stains[:, 3:], passes[:, 1, 1:])


def test_two_packings_of_one_autoencoder_share_its_weights(beside):
    config = beside(plain=TINY, grey={**TINY, "packing": "grey"}, other={**TINY, "weights_seed": 1})
    autoencoders: dict[str, Any] = models_of(config).autoencoders
    assert autoencoders["plain"] is autoencoders["grey"]
    assert autoencoders["plain"] is not autoencoders["other"]
    assert isinstance(autoencoders["plain"].model, nn.Module)


def test_stored_latents_are_decoded_in_their_packing(beside):
    config = beside(grey={**TINY, "packing": "grey", "unpack": "last"})
    models, batch = models_of(config), fovs(1)
    whole = encoder(config, models)(batch)
    stored = {str(batch[FOV_ID][0]): {"grey": whole[column(latents_table("grey"), LATENT)][0]}}
    wanted = {
        "metrics/grey:mae",
        "metrics/grey:bits_coded",
        "metrics/grey:bits_entropy",
        "embeddings/intensity/grey:embedding",
    }
    again = Encoder(config, models, Forward(torch.device("cpu"), "float32"), 8, wanted)(batch, stored)
    for name in wanted:
        assert again[name].tobytes() == whole[name].tobytes(), name
