"""Runs the Triton kernels of AutoencoderKL on a CPU, with TRITON_INTERPRET=1, beside plain torch in float64. Not a test by itself.

The interpreter executes the kernels' own code, not what a GPU makes of it.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sdvae_ray.autoencoders._kl import fused
from sdvae_ray.autoencoders._kl.fused import Fused
from sdvae_ray.autoencoders._kl.operations import Activation, Convolution, Norm

CHANNELS, GROUPS, HEIGHT, WIDTH = 12, 3, 5, 7  # no power of two: every mask matters
fused._TILE, fused._TILES = 64, 2  # several tiles and pieces in a small image


def image(mean: float, deviation: float, dtype: torch.dtype) -> Tensor:
    values = mean + deviation * torch.randn(2, CHANNELS, HEIGHT, WIDTH)
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


def exact(values: Tensor, bias: Tensor | None, norm: Norm, silu: bool) -> Tensor:
    whole = values.double() + (0 if bias is None else bias.double()[:, None, None])
    normalised = functional.group_norm(whole, norm.groups, norm.weight.double(), norm.bias.double(), norm.eps)
    return functional.silu(normalised) if silu else normalised


def check(values: Tensor, expected: Tensor, tolerance: float) -> int:
    difference = (values.double() - expected.double()).abs().max().item()
    assert difference <= tolerance, (difference, tolerance)
    return 1


def main() -> None:
    torch.manual_seed(0)
    operations, checks = Fused(GROUPS), 0
    norm = Norm(GROUPS, 1e-6, torch.randn(CHANNELS), torch.randn(CHANNELS))
    for dtype, mean, deviation in ((torch.bfloat16, 0.0, 1.0), (torch.float32, 3.0, 0.01)):
        one, other = image(mean, deviation, dtype), image(mean, deviation, dtype)
        one[0, :, 0, 0] = 50.0  # a hot first pixel: the reference of every group is far from the rest
        bias = deviation * torch.randn(CHANNELS)
        normalised = operations.normalise(Activation(one, bias), norm, True, torch.float32)
        checks += check(normalised, exact(one, bias, norm, True), 1e-4)
        whole = one.double() + other.double() + bias[:, None, None]
        total = operations.add(Activation(one, bias), Activation(other))
        checks += check(total.values, whole, 0.3 if dtype == torch.bfloat16 else 1e-5)
        again = operations.normalise(total, norm, False, torch.float32)
        checks += check(again, exact(total.values, None, norm, False), 1e-5)
        padded = operations.add(Activation(one, bias), Activation(other), pad=True).values
        checks += check(padded, functional.pad(total.values, (0, 1, 0, 1)), 0)
        weight = torch.randn(CHANNELS, CHANNELS, 4, 4).to(dtype)
        upsampled = operations.upsample(one, [Convolution(weight, bias.to(dtype))])
        assert upsampled.bias is not None
        checks += check(
            operations.normalise(upsampled, norm, True, torch.float32),
            exact(upsampled.values, upsampled.bias, norm, True),
            1e-4,
        )
        mixing = Convolution(torch.randn(CHANNELS, CHANNELS, 1, 1).to(dtype), bias.to(dtype))
        projected = operations.project(Activation(one, bias), mixing)
        assert projected.bias is not None
        expected = functional.conv2d(
            one.double() + bias.double()[:, None, None], mixing.weight.double(), mixing.bias.double()
        )
        checks += check(
            projected.values.double() + projected.bias.double()[:, None, None],
            expected,
            1 if dtype == torch.bfloat16 else 1e-3,
        )
    print(checks, "checks")


main()
