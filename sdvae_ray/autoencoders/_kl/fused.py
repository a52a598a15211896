"""The operations between the convolutions of AutoencoderKL by Triton kernels, for channels_last activations on CUDA.

An activation is read and written as seldom as its dependencies allow: the bias of a convolution is added by the kernel that reads
the activation next, and the kernel that writes a sum takes its moments for the group normalisation that follows.
"""

import math
from collections.abc import Sequence

import torch
import triton
from torch import Tensor
from torch.nn import functional

from sdvae_ray.autoencoders._kl import kernels
from sdvae_ray.autoencoders._kl.operations import Activation, Convolution, Moments, Norm

_TILE = 4096  # values of one tile in registers
_TILES = 16  # tiles of one piece of an image, at least
_PIECES = 256  # pieces of one image, at most
_WARPS = 4


class Fused:
    """The operations as Triton kernels, in which biases and moments wait. groups: the number of groups of every normalisation."""

    def __init__(self, groups: int) -> None:
        self.groups = groups

    def convolve(self, values: Tensor, convolution: Convolution, stride: int = 1, padding: int = 0) -> Activation:
        result = functional.conv2d(values, convolution.weight, None, stride, padding)
        return Activation(result, convolution.bias.float())

    def project(self, activation: Activation, convolution: Convolution) -> Activation:
        result = self.convolve(activation.values, convolution)
        if activation.bias is None or result.bias is None:
            return result
        return Activation(result.values, result.bias + convolution.weight.flatten(1).float() @ activation.bias)

    def add(self, one: Activation, other: Activation, pad: bool = False) -> Activation:
        waiting = [bias for bias in (one.bias, other.bias) if bias is not None]
        bias = None if not waiting else waiting[0] if len(waiting) == 1 else waiting[0] + waiting[1]
        batch, channels, height, width = one.values.shape
        out = _empty(
            one.values, batch, channels, height + pad, width + pad
        )  # new: every piece reads the first pixel of `one`
        if pad:
            out[:, :, height].zero_()
            out[:, :, :, width].zero_()
        moments = self._combine(one.values, other.values, bias, out, pad)
        return Activation(out, None, moments)

    def upsample(self, values: Tensor, convolutions: Sequence[Convolution]) -> Activation:
        (transposed,) = convolutions
        result = functional.conv_transpose2d(values, transposed.weight, None, stride=2, padding=1)
        return Activation(result, transposed.bias.float())

    def normalise(self, activation: Activation, norm: Norm, silu: bool, dtype: torch.dtype) -> Tensor:
        values, bias, moments = activation.values, activation.bias, activation.moments
        batch, channels, height, width = values.shape
        if moments is None:
            moments = self._combine(values, None, bias, None)
        assert moments is not None
        offset, scale, shift = values.new_empty((3, batch, channels), dtype=torch.float32)
        pieces, group = moments.mean.shape[1], channels // norm.groups
        kernels.finalise[(norm.groups, batch)](
            moments.reference,
            moments.mean,
            moments.deviation,
            bias if bias is not None else norm.bias,
            norm.weight,
            offset,
            scale,
            shift,
            norm.bias,
            height * width,
            moments.piece_pixels,
            pieces,
            channels,
            group,
            norm.eps,
            BIAS=bias is not None,
            PIECES=triton.next_power_of_2(pieces),
            GROUP=triton.next_power_of_2(group),
        )
        out = _empty(values, batch, channels, height, width, dtype)
        rows, block = _tile(channels)
        kernels.apply[(math.ceil(height * width / (4 * rows)), batch)](
            values, out, offset, scale, shift, height * width, channels, SILU=silu, TILES=4, ROWS=rows, BLOCK=block
        )
        return out

    def _combine(
        self, one: Tensor, other: Tensor | None, bias: Tensor | None, out: Tensor | None, pad: bool = False
    ) -> Moments | None:
        """Run the kernel `combine` over a batch. bias: (C,) float32. Return the moments; None if the sum is padded."""
        one = one.contiguous(memory_format=torch.channels_last)
        other = one if other is None else other.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = one.shape
        rows, block = _tile(channels)
        tiles = max(_TILES, math.ceil(height * width / (rows * _PIECES)))
        pieces = math.ceil(height * width / (rows * tiles))
        mean, deviation = one.new_empty((2, batch, pieces, channels), dtype=torch.float32)
        reference = one.new_empty((batch, channels), dtype=torch.float32)
        kernels.combine[(pieces, batch)](
            one,
            other,
            bias if bias is not None else reference,
            out if out is not None else one,
            reference,
            mean,
            deviation,
            height,
            width,
            channels,
            channels // self.groups,
            tiles,
            SUM=other is not one,
            BIAS=bias is not None,
            STORE=out is not None,
            PAD=int(pad),
            MOMENTS=not pad,
            ROWS=rows,
            BLOCK=block,
            num_warps=_WARPS,
        )
        return None if pad else Moments(reference, mean, deviation, rows * tiles)


def _tile(channels: int) -> tuple[int, int]:
    """Return the number of rows and columns of a tile, powers of two."""
    block = triton.next_power_of_2(channels)
    return max(1, _TILE // block), block


def _empty(
    like: Tensor, batch: int, channels: int, height: int, width: int, dtype: torch.dtype | None = None
) -> Tensor:
    shape = (batch, channels, height, width)
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last)
