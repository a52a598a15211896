"""The operations between the convolutions of AutoencoderKL, in plain torch: for every device and precision.

`fused.py` has the same operations as Triton kernels. There the bias of a convolution is not added at once: it waits in the
activation (`Activation.bias`) until the next kernel reads the activation anyway.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Convolution:
    """A convolution: weight (C_out, C_in, k, k) and bias (C_out,), both of the type of the activations."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Norm:
    """A group normalisation: weight and bias (C,) in the type of the statistics."""

    groups: int
    eps: float
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Moments:
    """The moments of an activation (N, C, H, W), float32, over pieces of `piece_pixels` pixels in memory order.

    reference     (N, C), a value of the channel's group, subtracted from every value first
    mean          (N, pieces, C)
    deviation     (N, pieces, C), the sum of squared deviations from that mean
    """

    reference: Tensor
    mean: Tensor
    deviation: Tensor
    piece_pixels: int


@dataclass(frozen=True)
class Activation:
    """An activation of the network.

    values   (N, C, H, W)
    bias     (C,) float32, still to be added to the values; None: the values are complete
    moments  of complete values; None if they have not been computed
    """

    values: Tensor
    bias: Tensor | None = None
    moments: Moments | None = None


class Operations(Protocol):
    """The operations of an inference form, all except attention."""

    def convolve(self, values: Tensor, convolution: Convolution, stride: int = 1, padding: int = 0) -> Activation:
        """Return the activation of C_out channels; values: (N, C_in, H, W)."""
        ...

    def add(self, one: Activation, other: Activation, pad: bool = False) -> Activation:
        """Return the sum; it may overwrite the values of `one`. pad: add one row of zeros below and one column at the right."""
        ...

    def normalise(self, activation: Activation, norm: Norm, silu: bool, dtype: torch.dtype) -> Tensor:
        """Return the group normalisation y, or with `silu` y * sigmoid(y): (N, C, H, W) of type `dtype`."""
        ...

    def project(self, activation: Activation, convolution: Convolution) -> Activation:
        """Return a 1 x 1 convolution of an activation whose bias may wait."""
        ...

    def upsample(self, values: Tensor, convolutions: Sequence[Convolution]) -> Activation:
        """Return the activation (N, C_out, 2H, 2W) of values (N, C, H, W), by the convolutions of `KLInference._folded`."""
        ...


class Plain:
    """The operations in plain torch. No bias waits: a convolution adds its own."""

    def convolve(self, values: Tensor, convolution: Convolution, stride: int = 1, padding: int = 0) -> Activation:
        return Activation(functional.conv2d(values, convolution.weight, convolution.bias, stride, padding))

    def project(self, activation: Activation, convolution: Convolution) -> Activation:
        return self.convolve(activation.values, convolution)

    def add(self, one: Activation, other: Activation, pad: bool = False) -> Activation:
        values = one.values.add_(other.values)
        return Activation(functional.pad(values, (0, 1, 0, 1)) if pad else values)

    def normalise(self, activation: Activation, norm: Norm, silu: bool, dtype: torch.dtype) -> Tensor:
        values = activation.values.to(norm.weight.dtype)
        if values.is_contiguous():
            normalised = functional.group_norm(values, norm.groups, norm.weight, norm.bias, norm.eps)
        else:
            normalised = _group_norm(values, norm)
        return (functional.silu(normalised, inplace=True) if silu else normalised).to(dtype)

    def upsample(self, values: Tensor, convolutions: Sequence[Convolution]) -> Activation:
        batch, _, height, width = values.shape
        layout = torch.contiguous_format if values.is_contiguous() else torch.channels_last
        shape = (batch, len(convolutions[0].bias), 2 * height, 2 * width)
        whole = torch.empty(shape, dtype=values.dtype, device=values.device, memory_format=layout)
        for number, phase in enumerate(convolutions):  # number 2a + b gives the pixels (2i + a, 2j + b)
            image = functional.conv2d(values, phase.weight, phase.bias, padding=1)
            top, left = divmod(number, 2)
            whole[:, :, top::2, left::2] = image[:, :, top : top + height, left : left + width]
        return Activation(whole)


def _group_norm(values: Tensor, norm: Norm) -> Tensor:
    """Return the group normalisation of channels_last values. The variance is that of deviations from the mean, so that dark
    images keep their digits."""
    batch, channels, height, width = values.shape
    rows = values.permute(0, 2, 3, 1).reshape(batch, height * width, norm.groups, channels // norm.groups)
    deviation = rows - rows.mean((1, 3), keepdim=True)
    deviation -= deviation.mean((1, 3), keepdim=True)  # the mean itself is rounded
    variance = deviation.square().mean((1, 3), keepdim=True)
    normalised = (deviation * (variance + norm.eps).rsqrt()).view(batch, height, width, channels)
    return (normalised * norm.weight + norm.bias).permute(0, 3, 1, 2)
