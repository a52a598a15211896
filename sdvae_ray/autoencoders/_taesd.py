"""The forms of TAESD that diffusers' AutoencoderTiny lacks, and which form the tensors of two original files have.

pooled  TAEF2, of FLUX.2's latents: the blocks of the coarsest level have a second branch with a group normalisation over the image
f32     TAESANA, of DC-AE's latents: 32 pixels per latent, and wider levels in the decoder

Architectures of madebyollin/taesd (MIT). Layers are numbered as there, so that its files fill them under their own names.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

PLAIN, POOLED, F32 = "plain", "pooled", "f32"
_BLOCKS = 3  # of every level but the finest
_WIDTHS = {
    POOLED: (64, 64, 64, 64),
    F32: (256, 128, 64, 64, 64, 64),
}  # channels of the decoder's levels, coarsest first
_CHANNELS = 64
_LIMIT = 3.0  # of a latent that the decoder sees


def form_of(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> tuple[str, int]:
    """Return the form of a TAESD and its latent channels, as the tensors of its two files tell them. Raises ValueError for
    other files."""
    for half, state, first in (("encoder", encoder, "0.weight"), ("decoder", decoder, "1.weight")):
        if first not in state or state[first].ndim != 4:
            raise ValueError(f"the {half} has no convolution {first}")
    channels, latent = encoder["0.weight"].shape[1], decoder["1.weight"].shape[1]
    if channels != 3:
        raise ValueError(f"its encoder takes {channels} planes, and an RGB image has 3")
    if any(".pool." in name for name in encoder):
        return POOLED, latent
    return (F32 if encoder["0.weight"].shape[0] == _CHANNELS // 2 else PLAIN), latent


class Taesd(nn.Module):
    """A TAESD of the form `pooled` or `f32`, with the interface of diffusers' AutoencoderTiny: images in [-1, 1]."""

    def __init__(self, form: str, latent_channels: int) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"scaling_factor": 1.0, "latent_channels": latent_channels}
        self.encoder = nn.Sequential(*_encoder(form, latent_channels))
        self.decoder = nn.Sequential(*_decoder(_WIDTHS[form], latent_channels, pooled=form == POOLED))
        self.vae_scale_factor = 2 ** (len(_WIDTHS[form]) - 1)

    def encode(self, signed: Tensor) -> SimpleNamespace:
        """Return `latents` (M, Z, s, s) of images (M, 3, S, S) in [-1, 1]."""
        return SimpleNamespace(latents=self.encoder((signed + 1) / 2))

    def decode(self, latent: Tensor) -> SimpleNamespace:
        """Return `sample` (M, 3, S, S), about [-1, 1], of latents (M, Z, s, s)."""
        return SimpleNamespace(sample=self.decoder(latent) * 2 - 1)


class _SoftClamp(nn.Module):
    def forward(self, latent: Tensor) -> Tensor:
        return torch.tanh(latent / _LIMIT) * _LIMIT


class _Block(nn.Module):
    """A residual block of three convolutions; `pooled` adds a branch that sees the statistics of the whole image."""

    def __init__(self, channels: int, pooled: bool = False) -> None:
        super().__init__()
        convolutions = [_convolution(channels, channels) for _ in range(3)]
        self.conv = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])
        self.pool = _statistics_branch(channels) if pooled else None

    def forward(self, values: Tensor) -> Tensor:
        if self.pool is not None:
            values = values + self.pool(values)
        return torch.relu(self.conv(values) + values)


def _statistics_branch(channels: int) -> nn.Sequential:
    wide = 4 * channels
    into, back = (nn.Conv2d(*sizes, 1, bias=False) for sizes in ((channels, wide), (wide, channels)))
    return nn.Sequential(into, nn.GroupNorm(4, wide), nn.ReLU(), back)


def _convolution(inputs: int, outputs: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def _encoder(form: str, latent_channels: int) -> list[nn.Module]:
    if form == F32:
        half = _CHANNELS // 2
        layers = [_convolution(3, half, stride=2), nn.ReLU(), _convolution(half, _CHANNELS, stride=2), nn.ReLU()]
    else:
        layers = [_convolution(3, _CHANNELS)]
    layers.append(_Block(_CHANNELS))
    for level in range(3):
        layers.append(_convolution(_CHANNELS, _CHANNELS, stride=2, bias=False))
        layers += [_Block(_CHANNELS, pooled=form == POOLED and level == 2) for _ in range(_BLOCKS)]
    return [*layers, _convolution(_CHANNELS, latent_channels)]


def _decoder(widths: Sequence[int], latent_channels: int, pooled: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [_SoftClamp(), _convolution(latent_channels, widths[0]), nn.ReLU()]
    for level, (width, following) in enumerate(pairwise(widths)):
        layers += [_Block(width, pooled=pooled and level == 0) for _ in range(_BLOCKS)]
        layers += [nn.Upsample(scale_factor=2), _convolution(width, following, bias=False)]
    return [*layers, _Block(widths[-1]), _convolution(widths[-1], 3)]
