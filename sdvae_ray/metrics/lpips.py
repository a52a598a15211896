"""Learned perceptual distance per RGB pass (LPIPS v0.1 on AlexNet, Zhang et al. 2018); 0 for equal images.

A run needs a folder with both of its weights: torchvision's AlexNet (`alexnet*.pth` or `.safetensors`) and the linear layers of the
lpips package (`alex.pth`). Trained on photographs and on what people see in them, not on cells.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from sdvae_ray.contracts import Checkpoint, Reconstruction
from sdvae_ray.errors import WeightsError, one_line
from sdvae_ray.metrics._precision import float32_convolutions
from sdvae_ray.state_dicts import DAMAGE, read_state_dict

UNIT = ""
HIGHER_IS_BETTER = False
FORMULA = (
    "sum over five layers of the mean over pixels of sum_c w_c (f_c(x) - f_c(y))^2, f of unit length along the channels"
)
RANGE = "[0, inf)"
REFERENCE = "Zhang et al. 2018, version 0.1 on AlexNet"
SMALLEST = 31  # pixels: in a smaller patch AlexNet's last layers have no output
_BACKBONE = "torchvision's AlexNet, AlexNet_Weights.IMAGENET1K_V1, published as alexnet-owt-7be5be79.pth"
_LINEAR = "the linear layers, weights/v0.1/alex.pth of the lpips package"
CHECKPOINTS = (
    Checkpoint(
        source=None,
        licence="BSD-3-Clause (torchvision), BSD-2-Clause (lpips)",
        input="RGB pass",
        output="1 per pass",
        parameters=2_470_848,
        note=f"a folder with both {_BACKBONE}, and {_LINEAR}",
    ),
)
_CHANNELS = (64, 192, 384, 256, 256)  # of the five layers compared
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and standard deviation on [-1, 1]


class Lpips:
    """The perceptual distance LPIPS: it compares the features of both images in five layers of AlexNet. features: AlexNet's
    convolutional part. linear: for each of its five ReLUs, one non-negative weight per channel."""

    def __init__(self, features: nn.Sequential, linear: list[Tensor]) -> None:
        self.features, self.linear = features, linear
        self.shift = torch.tensor(_SHIFT).view(1, 3, 1, 1)
        self.scale = torch.tensor(_SCALE).view(1, 3, 1, 1)

    def to(self, device: torch.device) -> "Lpips":
        self.features = self.features.to(device)
        self.linear = [weight.to(device) for weight in self.linear]
        self.shift, self.scale = self.shift.to(device), self.scale.to(device)
        return self

    def __call__(self, reconstruction: Reconstruction) -> Tensor:
        """Return the distance of each RGB pass, (N, T) float32 >= 0; NaN for a patch smaller than 31 pixels."""
        image, recon = reconstruction.image_rgb, reconstruction.recon_rgb
        count, passes = image.shape[:2]
        if min(image.shape[3:]) < SMALLEST:
            return torch.full((count, passes), torch.nan, device=image.device)
        distance = torch.zeros(count * passes, device=image.device)
        with float32_convolutions():
            before, after = self._layers(image.flatten(0, 1)), self._layers(recon.flatten(0, 1))
        for x, y, weight in zip(before, after, self.linear, strict=True):
            distance += ((x - y).square() * weight).sum(1).mean((1, 2))
        return distance.view(count, passes)

    def _layers(self, rgb: Tensor) -> list[Tensor]:
        """Return the features of the five ReLUs, of length 1 along the channels; rgb: (M, 3, S, S) in [0, 1]."""
        out, features = (2 * rgb - 1 - self.shift) / self.scale, []
        for layer in self.features:
            out = layer(out)
            if isinstance(layer, nn.ReLU):
                features.append(out / (out.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return features


def load(weights: Path | None, *, weights_seed: int = 0) -> Lpips:
    """Return the metric from a folder with the two files that this module names; None: random weights, for tests.

    Raises WeightsError if a file is missing or holds other tensors.
    """
    from torchvision.models import alexnet

    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # its classifier alone would be 58 million numbers
        features = alexnet(weights=None).features[:-1]
    if weights is None:
        linear = _random(features.to_empty(device="cpu"), torch.Generator().manual_seed(weights_seed))
    else:
        linear = _from_folder(features, weights)
    return Lpips(features.float().eval().requires_grad_(False), linear)


def _random(features: nn.Sequential, generator: torch.Generator) -> list[Tensor]:
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return [torch.rand(1, channels, 1, 1, generator=generator) for channels in _CHANNELS]


def _from_folder(features: nn.Sequential, folder: Path) -> list[Tensor]:
    backbone = _first(folder, ("alexnet*.safetensors", "alexnet*.pth"), _BACKBONE)
    linear = _first(folder, ("alex.pth",), _LINEAR)
    try:
        part = "features."
        state = {
            name.removeprefix(part): value for name, value in read_state_dict(backbone).items() if name.startswith(part)
        }
        features.load_state_dict(state, assign=True)
    except DAMAGE as error:
        raise WeightsError(f"lpips: {backbone} is not {_BACKBONE}: {type(error).__name__} {one_line(error)}") from error
    try:
        state = read_state_dict(linear)
        layers = [state[f"lin{number}.model.1.weight"].float() for number in range(len(_CHANNELS))]
        shapes = [tuple(layer.shape) for layer in layers]
        if shapes != [(1, channels, 1, 1) for channels in _CHANNELS]:
            raise ValueError(f"its layers have the shapes {shapes}")
    except DAMAGE as error:
        raise WeightsError(f"lpips: {linear} is not {_LINEAR}: {type(error).__name__} {one_line(error)}") from error
    return layers


def _first(folder: Path, patterns: tuple[str, ...], what: str) -> Path:
    files = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    if not files:
        raise WeightsError(f"lpips: no {' or '.join(patterns)} in {folder} (wanted: {what})")
    return files[0]
