"""The TAESD family from its original files: told by the shapes of the tensors, filled strictly, equal to the layers written out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from sdvae_ray.autoencoders import _taesd, diffusers_tiny
from sdvae_ray.config import AutoencoderConfig
from sdvae_ray.errors import ConfigError, WeightsError
from sdvae_ray.storage import Storage
from sdvae_ray.weights import resolve

State = dict[str, Tensor]
# the layers of a file in order: an int is the channels of a block, a tuple (inputs, outputs, stride, bias) a convolution
_LEVEL = [(64, 64, 2, False), 64, 64, 64]
_UP: list[Any] = [64, 64, 64, "upsample", (64, 64, 1, False)]
PLAIN = [(3, 64, 1, True), 64, *_LEVEL, *_LEVEL, *_LEVEL]
LAYERS: dict[str, tuple[list[Any], list[Any]]] = {
    "taesd": ([*PLAIN, (64, 4, 1, True)], ["clamp", (4, 64, 1, True), "relu", *_UP, *_UP, *_UP, 64, (64, 3, 1, True)]),
    "taef2": ([*PLAIN, (64, 32, 1, True)], ["clamp", (32, 64, 1, True), "relu", *_UP, *_UP, *_UP, 64, (64, 3, 1, True)]),
    "taesana": (
        [(3, 32, 2, True), "relu", (32, 64, 2, True), "relu", 64, *_LEVEL, *_LEVEL, *_LEVEL, (64, 32, 1, True)],
        [
            *["clamp", (32, 256, 1, True), "relu", 256, 256, 256, "upsample", (256, 128, 1, False), 128, 128, 128, "upsample"],
            *[(128, 64, 1, False), *_UP, *_UP, *_UP, 64, (64, 3, 1, True)],
        ],
    ),
}  # fmt: skip
POOLED = {"taef2": ({11, 12, 13}, {3, 4, 5})}  # numbers of the blocks with the second branch
FACTOR = {"taesd": 8, "taef2": 8, "taesana": 32}  # pixels per latent


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def random_state(layers: list[Any], pooled: set[int]) -> State:
    draws = torch.Generator().manual_seed(2)

    def convolution(name: str, inputs: int, outputs: int, size: int, bias: bool) -> State:
        weight = torch.randn(outputs, inputs, size, size, generator=draws) / (inputs * size**2) ** 0.5
        return {f"{name}.weight": weight} | (
            {f"{name}.bias": 0.1 * torch.randn(outputs, generator=draws)} if bias else {}
        )

    state: State = {}
    for number, layer in enumerate(layers):
        if isinstance(layer, tuple):
            state |= convolution(f"{number}", layer[0], layer[1], 3, layer[3])
        elif isinstance(layer, int):
            for place in (0, 2, 4):
                state |= convolution(f"{number}.conv.{place}", layer, layer, 3, True)
            if number in pooled:
                state |= convolution(f"{number}.pool.0", layer, 4 * layer, 1, False)
                state |= {
                    f"{number}.pool.1.{part}": torch.rand(4 * layer, generator=draws) for part in ("weight", "bias")
                }
                state |= convolution(f"{number}.pool.3", 4 * layer, layer, 1, False)
    return state


def written_out(layers: list[Any], state: State, x: Tensor) -> Tensor:
    """The network, layer by layer."""
    for number, layer in enumerate(layers):
        weights = {
            name.removeprefix(f"{number}."): value for name, value in state.items() if name.startswith(f"{number}.")
        }
        if layer == "clamp":
            x = 3 * torch.tanh(x / 3)
        elif layer == "relu":
            x = x.clamp(min=0)
        elif layer == "upsample":
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        elif isinstance(layer, tuple):
            x = functional.conv2d(x, weights["weight"], weights.get("bias"), stride=layer[2], padding=1)
        else:
            if "pool.0.weight" in weights:
                wide = functional.conv2d(x, weights["pool.0.weight"])
                groups = wide.unflatten(1, (4, -1))
                mean = groups.mean((2, 3, 4), keepdim=True)
                deviation = (groups.var((2, 3, 4), unbiased=False, keepdim=True) + 1e-5).sqrt()
                scale, shift = (weights[f"pool.1.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
                wide = ((groups - mean) / deviation).flatten(1, 2) * scale + shift
                x = x + functional.conv2d(wide.clamp(min=0), weights["pool.3.weight"])
            y = x
            for place in (0, 2, 4):
                y = functional.conv2d(y, weights[f"conv.{place}.weight"], weights[f"conv.{place}.bias"], padding=1)
                y = y if place == 4 else y.clamp(min=0)
            x = (x + y).clamp(min=0)
    return x


def states(name: str) -> tuple[State, State]:
    encoder, decoder = LAYERS[name]
    pooled = POOLED.get(name, (set(), set()))
    return random_state(encoder, pooled[0]), random_state(decoder, pooled[1])


def write(
    folder: Path, name: str, suffix: str = ".safetensors", change: Callable[[State, State], None] | None = None
) -> Path:
    halves = states(name)
    if change is not None:
        change(*halves)
    for half, state in zip(("encoder", "decoder"), halves, strict=True):
        file = folder / f"{name}_{half}{suffix}"
        save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    return folder


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_pair_of_files_is_the_network_that_its_shapes_tell(name, suffix, tmp_path):
    model = diffusers_tiny.load(write(tmp_path, name, suffix))
    rgb = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    latent = model.encode(rgb).mean
    size = 64 // FACTOR[name]
    assert latent.shape == (2, 4 if name == "taesd" else 32, size, size)
    assert model.vae_scale_factor == FACTOR[name]
    assert model.scaling_factor == 1
    assert diffusers_tiny.latent_factors(tmp_path) == {"scaling_factor": 1.0}
    (encoder, decoder), parts = LAYERS[name], states(name)
    expected = written_out(encoder, parts[0], rgb)
    torch.testing.assert_close(latent, expected, atol=1e-4, rtol=1e-4)
    decoded = written_out(decoder, parts[1], latent).clamp(0, 1)
    torch.testing.assert_close(model.decode(latent), decoded, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["taef2", "taesana"])
def test_random_weights_have_the_architecture_of_the_files(name):
    own = diffusers_tiny.load(None, architecture=name).model.state_dict()
    encoder, decoder = states(name)
    files = {f"encoder.{key}": value for key, value in encoder.items()}
    files |= {f"decoder.{key}": value for key, value in decoder.items()}
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in files.items()}
    (known,) = (c for c in diffusers_tiny.CHECKPOINTS if c.note.startswith(f"a folder with {name}_"))
    assert sum(value.numel() for value in files.values()) == known.parameters
    again = diffusers_tiny.load(None, architecture=name).model.state_dict()
    assert all(torch.equal(own[key], again[key]) for key in own)


def test_an_image_of_a_batch_has_its_own_statistics(tmp_path):
    model = diffusers_tiny.load(write(tmp_path, "taef2"))
    rgb = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    latent = model.encode(rgb).mean
    for row in range(3):
        torch.testing.assert_close(model.encode(rgb[[row]]).mean, latent[[row]], atol=1e-5, rtol=1e-5)


# Refusals


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("taef2", lambda e, d: e.pop("11.pool.0.weight"), "lacks 1 tensors, such as encoder.11.pool.0.weight"),
        (
            "taef2",
            lambda e, d: d.update({"3.extra": torch.zeros(1)}),
            "has unexpected 1 tensors, such as decoder.3.extra",
        ),
        ("taef2", lambda e, d: e["0.bias"].fill_(torch.nan), "encoder.0.bias has 64 numbers that are not finite"),
        ("taesana", lambda e, d: d.update({"1.weight": torch.zeros(256, 16, 3, 3)}), "encoder.17.bias has the shape"),
        ("taesd", lambda e, d: e.pop("3.conv.0.bias"), "lacks 1 tensors, such as encoder.layers.3.conv.0.bias"),
        (
            "taesd",
            lambda e, d: e.pop("0.weight"),
            "are not the halves of a TAESD: the encoder has no convolution 0.weight",
        ),
        ("taesd", lambda e, d: e.update({"0.weight": torch.zeros(64, 4, 3, 3)}), "its encoder takes 4 planes"),
        ("taesd", lambda e, d: d.update({"1.weight": torch.zeros(64)}), "the decoder has no convolution 1.weight"),
    ],
)
def test_files_that_are_not_of_the_family_are_refused_in_one_line(name, change, words, tmp_path):
    with pytest.raises(WeightsError) as caught:
        diffusers_tiny.load(write(tmp_path, name, change=change))
    message = str(caught.value)
    assert message.startswith("diffusers_tiny: ")
    assert words in message
    assert "\n" not in message


def test_a_folder_of_several_pairs_asks_for_a_prefix(tmp_path):
    write(write(tmp_path, "taesd"), "taef2", ".pth")
    with pytest.raises(WeightsError, match="several pairs of files: taef2, taesd; prefix: NAME chooses one of them"):
        diffusers_tiny.load(tmp_path)
    assert isinstance(diffusers_tiny.load(tmp_path, prefix="taef2").model, _taesd.Taesd)
    assert diffusers_tiny.load(tmp_path, prefix="taesd").model.config["latent_channels"] == 4
    assert diffusers_tiny.latent_factors(tmp_path, prefix="taesd") == {"scaling_factor": 1.0}
    with pytest.raises(WeightsError, match="no pair taef3_encoder and taef3_decoder; did you mean 'taef2'"):
        diffusers_tiny.load(tmp_path, prefix="taef3")


def test_a_prefix_is_refused_where_there_is_nothing_to_choose(tmp_path):
    diffusers_tiny.load(None, architecture="tiny").model.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="prefix is for a folder of original files"):
        diffusers_tiny.load(tmp_path, prefix="taesd")


def test_an_architecture_that_is_not_known_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="no architecture 'taef3'; did you mean 'taef2'"):
        diffusers_tiny.load(None, architecture="taef3")


# The real weights


@pytest.fixture(scope="module")
def real_weights(shared) -> Path:
    folder = shared / "data/weights"
    if not (folder / "taef2").is_dir():
        pytest.skip(f"the weights are not at {folder}")
    return folder


@pytest.mark.parametrize(
    ("name", "channels", "decibels"),
    [("taesd", 4, 25.25), ("taesdxl", 4, 26.22), ("taesd3", 16, 30.46), ("taef1", 16, 29.21), ("taef2", 32, 32.20)],
)
def test_the_real_weights_of_the_family_reconstruct_a_photograph(name, channels, decibels, real_weights, shared):
    """The whole photograph gives 25.4, 25.7, 30.4, 28.7 dB, as the weights' own record has it, and 31.2; this is a crop."""
    from PIL import Image

    picture = np.asarray(Image.open(shared / "data/natural/astronaut.png").convert("RGB"))
    face = picture[:256, 128:384].copy()
    rgb = torch.from_numpy(face).permute(2, 0, 1)[None].float() / 255
    own_folder = (real_weights / name).is_dir()
    folder = real_weights / name if own_folder else real_weights
    model = diffusers_tiny.load(folder, prefix=None if own_folder else name)
    latent = model.encode(rgb).mean
    assert latent.shape == (1, channels, 32, 32)
    error = (model.decode(latent) - rgb).square().mean()
    assert -10 * error.log10().item() == pytest.approx(decibels, abs=0.02)


def test_a_run_file_names_the_folder_and_the_prefix(real_weights):
    settings = AutoencoderConfig.model_validate(
        {"name": "diffusers_tiny", "source": str(real_weights), "prefix": "taesd3"}
    )
    resolved = resolve(settings, None, Storage())
    assert resolved.files["taesd3_encoder.safetensors"].startswith("e5c96f3476bd26fe")
    model = diffusers_tiny.load(Path(str(resolved.path)), **settings.options)
    tensors = load_file(real_weights / "taesd3_encoder.safetensors")
    assert torch.equal(model.model.encoder.layers[0].weight, tensors["0.weight"].float())
