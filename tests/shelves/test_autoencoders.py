"""The autoencoders of diffusers: public architectures, precision, folders, and the facts of the tables."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdvae_ray import shelves
from sdvae_ray.autoencoders import diffusers_dc, diffusers_kl, diffusers_tiny, identity, patch_pca
from sdvae_ray.contracts import Checkpoint
from sdvae_ray.errors import ConfigError, WeightsError

MODULES = {"diffusers_kl": diffusers_kl, "diffusers_dc": diffusers_dc, "diffusers_tiny": diffusers_tiny}
CLASSES = {"diffusers_kl": "AutoencoderKL", "diffusers_dc": "AutoencoderDC", "diffusers_tiny": "AutoencoderTiny"}
SMALL = [
    ("diffusers_kl", "tiny", (4, 8, 8), True),
    ("diffusers_kl", "tiny16", (16, 8, 8), True),
    ("diffusers_dc", "tiny", (32, 2, 2), False),
    ("diffusers_tiny", "tiny", (4, 8, 8), False),
    ("diffusers_tiny", "taesd", (4, 8, 8), False),
    ("diffusers_tiny", "taesd3", (16, 8, 8), False),
]
SIDE = 64  # pixels
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def images(count: int, side: int = SIDE) -> Tensor:
    """[0, 1], with a flat half, so that not all is noise."""
    values = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    values[..., : side // 2] = 0.25
    return values


def network(name: str, architecture: str) -> Any:
    """On the meta device: shapes without memory."""
    import diffusers

    with torch.device("meta"):
        return getattr(diffusers, CLASSES[name])(**MODULES[name].ARCHITECTURES[architecture])


def parameters(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def save(name: str, folder: Path, architecture: str = "tiny", **changes: Any) -> Path:
    """As diffusers saves it; `changes` to its config.json, None drops a key."""
    MODULES[name].load(None, architecture=architecture, weights_seed=5).model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in {**config, **changes}.items() if key not in changes or value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# Numbers in and out


@pytest.mark.parametrize(("name", "architecture", "shape", "has_posterior"), SMALL)
def test_shapes_types_and_ranges(name, architecture, shape, has_posterior):
    model = MODULES[name].load(None, architecture=architecture).to(torch.device("cpu"))
    rgb = images(3)
    posterior = model.encode(rgb)
    assert (posterior.mean.shape, posterior.mean.dtype) == ((3, *shape), torch.float32)
    assert (posterior.logvar is not None) == has_posterior
    for latent in (posterior.mean, posterior.mean * 100):
        recon = model.decode(latent)
        assert (recon.shape, recon.dtype) == (rgb.shape, torch.float32)
        assert recon.min() >= 0
        assert recon.max() <= 1
    assert posterior.mean.std() > 1e-3
    assert not model.model.training
    assert not any(weight.requires_grad for weight in model.model.parameters())


@pytest.mark.parametrize(("name", "architecture", "shape", "has_posterior"), SMALL)
def test_an_image_is_encoded_and_decoded_by_itself_and_always_alike(name, architecture, shape, has_posterior):
    """1e-5: float32 sums of another order."""
    model = MODULES[name].load(None, architecture=architecture)
    rgb = images(3)
    latent = model.encode(rgb).mean
    assert torch.equal(model.encode(rgb).mean, latent)
    alone = torch.cat([model.encode(row).mean for row in rgb.split(1)])
    torch.testing.assert_close(alone, latent, atol=1e-5, rtol=1e-5)
    recon = model.decode(latent)
    assert torch.equal(model.decode(latent), recon)
    torch.testing.assert_close(torch.cat([model.decode(row) for row in latent.split(1)]), recon, atol=1e-5, rtol=1e-5)


def test_the_kl_is_what_diffusers_gives_in_its_own_convention():
    model = diffusers_kl.load(None, architecture="tiny16", engine="diffusers")
    rgb = images(2)
    moments = model.model.encoder(rgb * 2 - 1)  # SD3 has no quant_conv
    mean, logvar = moments.chunk(2, dim=1)
    posterior = model.encode(rgb)
    assert torch.equal(posterior.mean, mean)
    assert torch.equal(posterior.logvar, logvar.clamp(-30, 20))
    assert torch.equal(model.decode(mean), (model.model.decoder(mean) / 2 + 0.5).clamp(0, 1))


def test_the_dc_is_what_diffusers_gives_in_its_own_convention():
    model = diffusers_dc.load(None, architecture="tiny")
    rgb = images(2)
    latent = model.model.encoder(rgb * 2 - 1)
    assert torch.equal(model.encode(rgb).mean, latent)
    assert torch.equal(model.decode(latent), (model.model.decoder(latent) / 2 + 0.5).clamp(0, 1))


def test_the_tiny_one_sees_the_unit_range_that_taesd_was_trained_on():
    """Its layers take and give [0, 1]; 1e-6: the way there and back through [-1, 1], in float32."""
    model = diffusers_tiny.load(None, architecture="tiny")
    rgb = images(2)
    latent = model.model.encoder.layers(rgb)
    torch.testing.assert_close(model.encode(rgb).mean, latent, atol=1e-6, rtol=1e-5)
    decoded = model.model.decoder.layers(torch.tanh(latent / 3) * 3).clamp(0, 1)
    torch.testing.assert_close(model.decode(latent), decoded, atol=1e-6, rtol=1e-5)


def test_the_tiny_one_does_not_round_latents_to_bytes():
    model = diffusers_tiny.load(None, architecture="tiny")
    rgb = images(1)
    rounded = (model.model(rgb * 2 - 1).sample / 2 + 0.5).clamp(0, 1)
    assert not torch.equal(model.decode(model.encode(rgb).mean), rounded)


@pytest.mark.parametrize(("name", "side"), [("diffusers_kl", 60), ("diffusers_dc", 72), ("diffusers_tiny", 60)])
def test_a_side_that_does_not_divide_is_answered_with_what_is_allowed(name, side):
    model = MODULES[name].load(None, architecture="tiny")
    factor = 32 if name == "diffusers_dc" else 8
    with pytest.raises(
        ConfigError, match=rf"{name}: patches of {side} x {side} pixels \(allowed: multiples of {factor}\)"
    ):
        model.encode(images(1, side))
    assert model.encode(images(1, 3 * factor)).mean.shape[-1] == 3


# Scaling factors


@pytest.mark.parametrize(
    ("name", "architecture", "scaling", "shift"),
    [
        ("diffusers_kl", "tiny", 0.18215, None),
        ("diffusers_kl", "tiny16", 1.5305, 0.0609),
        ("diffusers_dc", "tiny", 0.41407, None),
        ("diffusers_tiny", "tiny", 1.0, 0.0),
    ],
)
def test_factors_are_those_of_the_config_and_do_not_touch_the_latent(name, architecture, scaling, shift, tmp_path):
    model = MODULES[name].load(None, architecture=architecture, weights_seed=5)
    assert (model.scaling_factor, model.shift_factor) == (scaling, shift)
    other = MODULES[name].load(save(name, tmp_path, architecture, scaling_factor=2.5))
    assert other.scaling_factor == 2.5
    assert torch.equal(other.encode(images(1)).mean, model.encode(images(1)).mean)


@pytest.mark.parametrize(
    ("architecture", "scaling", "shift", "latent_channels", "side", "upcast"),
    [
        ("sd1", 0.18215, None, 4, 512, False),
        ("sdxl", 0.13025, None, 4, 1024, True),
        ("sd3", 1.5305, 0.0609, 16, 1024, True),
        ("flux", 0.3611, 0.1159, 16, 1024, True),
    ],
)
def test_the_public_configs(architecture, scaling, shift, latent_channels, side, upcast):
    model = network("diffusers_kl", architecture)
    config = model.config
    assert (config.scaling_factor, config.shift_factor) == (scaling, shift)
    assert (config.latent_channels, config.sample_size, config.force_upcast) == (latent_channels, side, upcast)
    assert (model.quant_conv is None) == (model.post_quant_conv is None) == (latent_channels == 16)
    assert model.encoder.mid_block.attentions[0] is not None


# Precision


class Types(TorchDispatchMode):
    """The dtype of what every convolution gives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if "conv" in str(function):
            self.seen.add(result.dtype)
        return result


def dtypes(model: Any, autocast: torch.dtype) -> set[torch.dtype]:
    with Types() as types, torch.autocast("cpu", autocast):
        posterior = model.encode(images(1))
        recon = model.decode(posterior.mean)
        assert torch.is_autocast_enabled("cpu")  # left as it was found
    assert posterior.mean.dtype == recon.dtype == torch.float32
    return types.seen


@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["tiny", "tiny16"])
@pytest.mark.parametrize("engine", diffusers_kl.ENGINES)
def test_force_upcast_computes_in_float32_where_float16_was_asked_for(engine, architecture, autocast):
    model = diffusers_kl.load(None, architecture=architecture, engine=engine)
    assert model.force_upcast == (architecture == "tiny16")
    upcast = model.force_upcast and autocast == torch.float16
    expected = {torch.float32 if upcast else autocast}
    posterior = {torch.float32} if engine == "fast" else set()  # its last convolution, and the first of the decoder
    assert dtypes(model, autocast) == expected | posterior


def test_force_upcast_gives_the_numbers_of_float32():
    model = diffusers_kl.load(None, architecture="tiny16")
    rgb = images(2)
    expected = model.encode(rgb)
    recon = model.decode(expected.mean)
    with torch.autocast("cpu", torch.float16):
        posterior = model.encode(rgb)
        assert torch.equal(posterior.mean, expected.mean)
        assert torch.equal(posterior.logvar, expected.logvar)
        assert torch.equal(model.decode(expected.mean), recon)
        stored = expected.mean.half()
        assert torch.equal(model.decode(stored), model.decode(stored.float()))


def test_what_overflows_in_float16_is_finite_with_force_upcast():
    """Weights of a layer 1e6 times as large, as SDXL's activations grow: inf in float16, sound in float32."""
    for upcast, finite in ((False, False), (True, True)):
        model = diffusers_kl.load(None, architecture="tiny", force_upcast=upcast)
        model.model.encoder.conv_in.weight.mul_(1e6)
        with torch.autocast("cpu", torch.float16):
            assert bool(torch.isfinite(model.encode(images(1)).mean).all()) == finite


@pytest.mark.parametrize(
    ("said", "option", "expected"),
    [(True, None, True), (False, None, False), (None, None, False), (None, True, True), (True, False, False)],
)
def test_force_upcast_is_what_config_json_says_unless_overruled(said, option, expected, tmp_path):
    """Not the class's default of true where it says nothing, as Stable Diffusion 1.x's config does."""
    folder = save("diffusers_kl", tmp_path, force_upcast=said)
    assert ("force_upcast" in json.loads((folder / "config.json").read_text())) == (said is not None)
    assert diffusers_kl.load(folder, force_upcast=option).force_upcast == expected


def test_a_wrong_force_upcast_is_refused():
    with pytest.raises(ConfigError, match=r"force_upcast is 'yes' \(allowed: true, false\)"):
        diffusers_kl.load(None, architecture="tiny", force_upcast="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["diffusers_dc", "diffusers_tiny"])
def test_models_without_force_upcast_run_in_what_was_asked_for(name, autocast):
    model = MODULES[name].load(None, architecture="tiny")
    assert not model.force_upcast
    assert autocast in dtypes(model, autocast)


# Folders


@pytest.mark.parametrize(("name", "architecture", "shape", "has_posterior"), SMALL[:4])
def test_a_saved_model_gives_the_same_numbers(name, architecture, shape, has_posterior, tmp_path):
    original = MODULES[name].load(None, architecture=architecture, weights_seed=7)
    original.model.save_pretrained(tmp_path)
    loaded = MODULES[name].load(tmp_path)
    rgb = images(2)
    latent = original.encode(rgb).mean
    assert torch.equal(loaded.encode(rgb).mean, latent)
    assert torch.equal(loaded.decode(latent), original.decode(latent))
    assert (loaded.scaling_factor, loaded.shift_factor) == (original.scaling_factor, original.shift_factor)


def refusal(name: str, folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        MODULES[name].load(folder)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert str(folder) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("diffusers_kl", "decoder."),
        ("diffusers_kl", "encoder.conv_in.bias"),
        ("diffusers_dc", "decoder."),
        ("diffusers_dc", "encoder.conv_in.bias"),
        ("diffusers_tiny", "decoder."),
        ("diffusers_tiny", "encoder.layers.0.bias"),
    ],
)
def test_a_missing_tensor_is_refused_and_not_filled_at_random(name, lost, tmp_path):
    from safetensors.torch import load_file, save_file

    file = save(name, tmp_path) / WEIGHTS
    tensors = load_file(file)
    kept = {key: value for key, value in tensors.items() if not key.startswith(lost)}
    assert len(kept) < len(tensors)
    save_file(kept, file)
    assert f"lacks {len(tensors) - len(kept)} tensors, such as {lost}" in refusal(name, tmp_path)


@pytest.mark.parametrize("holds", MODULES)
@pytest.mark.parametrize("name", MODULES)
def test_a_folder_of_another_class_is_refused_in_one_line(name, holds, tmp_path):
    save(holds, tmp_path)
    if name == holds:
        assert MODULES[name].load(tmp_path).name == name
    else:
        message = refusal(name, tmp_path)
        assert f"class {CLASSES[holds]}, not {CLASSES[name]} (use {holds})" in message


def test_a_folder_of_an_unknown_class_is_refused_in_one_line(tmp_path):
    save("diffusers_kl", tmp_path, _class_name="VQModel")
    assert refusal("diffusers_kl", tmp_path).endswith("class VQModel, not AutoencoderKL")


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_folder_without_a_config_is_refused_in_one_line(name, content, tmp_path):
    folder = save(name, tmp_path)
    (folder / "config.json").unlink() if content is None else (folder / "config.json").write_text(content)
    refusal(name, folder)


@pytest.mark.parametrize("name", MODULES)
def test_an_unknown_architecture_is_answered_with_the_nearest(name):
    with pytest.raises(ConfigError, match=rf"{name}: no architecture 'tinny'; did you mean 'tiny'.*\(allowed: "):
        MODULES[name].load(None, architecture="tinny")


# The tables

ARCHITECTURE = {
    "CompVis/stable-diffusion-v1-4": "sd1",
    "stabilityai/sd-vae-ft-ema": "sd1",
    "stabilityai/sd-vae-ft-mse": "sd1",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "stabilityai/stable-diffusion-3-medium-diffusers": "sd3",
    "black-forest-labs/FLUX.1-schnell": "flux",
    "mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers": "f32c32",
    "mit-han-lab/dc-ae-f32c32-in-1.0-diffusers": "f32c32_in",
    "madebyollin/taesd": "taesd",
    "madebyollin/taesdxl": "taesd",
    "madebyollin/taesd3": "taesd3",
    "madebyollin/taef1": "taesd3",
}


@pytest.mark.parametrize(
    ("name", "checkpoint"),
    [(name, checkpoint) for name, module in MODULES.items() for checkpoint in module.CHECKPOINTS if checkpoint.source],
)
def test_the_parameters_of_a_checkpoint_are_those_of_its_architecture(name, checkpoint):
    if checkpoint.source.startswith("asset:"):
        from sdvae_ray.config import AutoencoderConfig
        from sdvae_ray.storage import Storage
        from sdvae_ray.weights import resolve

        path = resolve(AutoencoderConfig(name=name, source=checkpoint.source), None, Storage()).path
        model, channels = MODULES[name].load(Path(str(path))).model, 4
    else:
        model = network(name, ARCHITECTURE[checkpoint.source])
        channels = model.config.latent_channels
    assert parameters(model) == checkpoint.parameters
    side = 32 if name == "diffusers_dc" else 8
    assert checkpoint.output == f"{channels} x S/{side} x S/{side}"


# bytes of the published files, in units of their listings
@pytest.mark.parametrize(
    ("name", "architecture", "bytes_per_value", "size"),
    [
        ("diffusers_kl", "sdxl", 4, 335e6),
        ("diffusers_kl", "sd3", 2, 167.67e6),
        ("diffusers_dc", "f32c32", 4, 1.25e9),
        ("diffusers_dc", "f32c32_in", 4, 1.29e9),
        ("diffusers_tiny", "taesd", 4, 9.8e6),
    ],
)
def test_an_architecture_has_the_size_of_the_published_file(name, architecture, bytes_per_value, size):
    """Within 0.5 %: the listings are rounded."""
    assert parameters(network(name, architecture)) * bytes_per_value == pytest.approx(size, rel=0.005)


@pytest.mark.parametrize("name", shelves.names("autoencoders"))
def test_every_autoencoder_lists_its_checkpoints(name):
    checkpoints = shelves.find("autoencoders", name).CHECKPOINTS
    assert isinstance(checkpoints, tuple)
    assert checkpoints
    for checkpoint in checkpoints:
        assert isinstance(checkpoint, Checkpoint)
        assert checkpoint.licence
        assert checkpoint.input
        assert checkpoint.output
        assert checkpoint.parameters is not None


def test_the_tables_of_the_controls():
    from importlib.resources import files

    (own,) = patch_pca.CHECKPOINTS
    assert own.source == patch_pca.SOURCE
    model = patch_pca.load(Path(str(files("sdvae_ray"))) / "assets" / "patch_pca")
    assert model.mean.numel() + model.components.numel() == own.parameters
    assert identity.CHECKPOINTS[0].source is None
