"""The operations between the convolutions of AutoencoderKL as Triton kernels, for channels_last activations on CUDA.

An activation is read and written as seldom as its dependencies allow: the bias of a convolution is added by the kernel that reads
the activation next, and the kernel that writes a sum takes its moments for the group normalisation that follows.

The variance is of deviations: every value loses first a reference of its group (the value of its first pixel), then pieces of an
image are merged by the formula of Chan, Golub and LeVeque (1979). A float32 E[x^2] - mean^2 would lose every digit on dark fields.
Pieces depend on the shape of one image alone, and nothing is added atomically, so an image has the same bits in every batch.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from sdvae_ray.autoencoders._kl.operations import Activation, Convolution, Moments, Norm

_TILE = 8192  # values of one tile in registers
_TILES = 8  # tiles of one piece of an image, at least
_PIECES = 256  # pieces of one image, at most
_WARPS = 8


@triton.jit
def _combine(
    one,
    other,
    bias,
    out,
    reference,
    mean,
    deviation,
    height,
    width,
    channels,
    group,
    tiles,
    SUM: tl.constexpr,
    BIAS: tl.constexpr,
    STORE: tl.constexpr,
    PAD: tl.constexpr,
    MOMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Reads one piece of an image: `one`, or with SUM `one + other`, plus the bias. Writes it (STORE) and its moments (MOMENTS).

    Every place of a tile keeps a running mean and sum of squared deviations over the tiles (Welford 1962), so that nothing is
    summed across threads before the end.
    """
    piece, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column, lane = tl.arange(0, BLOCK), tl.arange(0, ROWS)
    inside, pixels = column < channels, height * width
    start = image * pixels * channels
    added, origin = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    if BIAS:
        added += tl.load(bias + column, mask=inside, other=0.0)
    if MOMENTS:
        first = (column // group) * group
        origin += tl.load(one + start + first, mask=inside, other=0.0).to(tl.float32)
        if SUM:
            origin += tl.load(other + start + first, mask=inside, other=0.0).to(tl.float32)
        if BIAS:
            origin += tl.load(bias + first, mask=inside, other=0.0)
        if piece == 0:
            tl.store(reference + image * channels + column, origin, mask=inside)
    begin = piece * tiles * ROWS + lane
    centre, spread = tl.zeros([ROWS, BLOCK], tl.float32), tl.zeros([ROWS, BLOCK], tl.float32)
    for tile in range(tiles):
        row = begin + tile * ROWS
        mask = (row < pixels)[:, None] & inside[None, :]
        place = start + row.to(tl.int64)[:, None] * channels + column[None, :]
        value = tl.load(one + place, mask=mask, other=0.0).to(tl.float32)
        if SUM:
            value += tl.load(other + place, mask=mask, other=0.0).to(tl.float32)
        value += added[None, :]
        if STORE:
            target = row
            if PAD:
                target = (row // width) * (width + 1) + row % width
            area = (height + PAD) * (width + PAD)
            stored = value.to(out.dtype.element_ty)
            tl.store(out + image * area * channels + target.to(tl.int64)[:, None] * channels + column[None, :], stored, mask=mask)
            value = stored.to(tl.float32)
        if MOMENTS:
            shifted = value - origin[None, :]
            delta = tl.where(mask, shifted - centre, 0.0)
            centre += delta / (tile + 1)
            spread += delta * (shifted - centre)
    if MOMENTS:
        count = tl.minimum(tl.maximum((pixels - begin + ROWS - 1) // ROWS, 0), tiles).to(tl.float32)[:, None]
        total = tl.maximum(tl.sum(count), 1.0)
        whole = tl.sum(centre * count, 0) / total
        whole += tl.sum((centre - whole[None, :]) * count, 0) / total  # the mean itself was rounded
        distance = centre - whole[None, :]
        place = (image * tl.num_programs(0) + piece) * channels + column
        tl.store(mean + place, whole, mask=inside)
        tl.store(deviation + place, tl.sum(spread + distance * distance * count, 0), mask=inside)


@triton.jit
def _finalise(
    reference,
    mean,
    deviation,
    bias,
    weight,
    offset,
    scale,
    shift,
    norm_bias,
    pixels,
    piece_pixels,
    pieces,
    channels,
    group,
    eps,
    BIAS: tl.constexpr,
    PIECES: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Merges the moments of a group of channels of an image, and writes per channel: y = (x - offset) * scale + shift."""
    image = tl.program_id(1).to(tl.int64)
    piece, member = tl.arange(0, PIECES)[:, None], tl.arange(0, GROUP)[None, :]
    channel = tl.program_id(0) * group + member
    inside = member < group
    mask = (piece < pieces) & inside
    count = tl.where(piece < pieces, tl.minimum(pixels - piece * piece_pixels, piece_pixels), 0).to(tl.float32)
    place = (image * pieces + piece) * channels + channel
    means = tl.load(mean + place, mask=mask, other=0.0)
    total = (pixels * group).to(tl.float32)
    centre = tl.sum(tl.sum(means * count, 0), 0) / total
    centre += tl.sum(tl.sum(tl.where(mask, (means - centre) * count, 0.0), 0), 0) / total
    distance = tl.where(mask, means - centre, 0.0)
    spread = tl.load(deviation + place, mask=mask, other=0.0) + distance * distance * count
    inverse = 1.0 / tl.sqrt(tl.sum(tl.sum(spread, 0), 0) / total + eps)
    scales = tl.load(weight + channel, mask=inside, other=0.0) * inverse
    origin = tl.load(reference + image * channels + channel, mask=inside, other=0.0)
    if BIAS:
        origin -= tl.load(bias + channel, mask=inside, other=0.0)
    tl.store(offset + image * channels + channel, origin, mask=inside)
    tl.store(scale + image * channels + channel, scales, mask=inside)
    shifts = tl.load(norm_bias + channel, mask=inside, other=0.0) - centre * scales
    tl.store(shift + image * channels + channel, shifts, mask=inside)


@triton.jit
def _apply(
    values,
    out,
    offset,
    scale,
    shift,
    pixels,
    channels,
    SILU: tl.constexpr,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """y = (x - offset) * scale + shift, and y * sigmoid(y) with SILU."""
    image = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < channels
    offsets = tl.load(offset + image * channels + column, mask=inside, other=0.0)[None, :]
    scales = tl.load(scale + image * channels + column, mask=inside, other=0.0)[None, :]
    shifts = tl.load(shift + image * channels + column, mask=inside, other=0.0)[None, :]
    for tile in range(TILES):
        rows = ((tl.program_id(0) * TILES + tile) * ROWS + tl.arange(0, ROWS))[:, None]
        mask = (rows < pixels) & inside[None, :]
        place = image * pixels * channels + rows.to(tl.int64) * channels + column[None, :]
        result = (tl.load(values + place, mask=mask, other=0.0).to(tl.float32) - offsets) * scales + shifts
        if SILU:
            result = result * tl.sigmoid(result)
        tl.store(out + place, result.to(out.dtype.element_ty), mask=mask)


class Fused:
    """The operations with waiting biases and moments. groups: of the group normalisations, all of one number in a model."""

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
        out = _empty(one.values, batch, channels, height + pad, width + pad)  # new: every piece reads the first pixel of `one`
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
        _finalise[(norm.groups, batch)](
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
        _apply[(math.ceil(height * width / (4 * rows)), batch)](
            values, out, offset, scale, shift, height * width, channels, SILU=silu, TILES=4, ROWS=rows, BLOCK=block
        )
        return out

    def _combine(
        self, one: Tensor, other: Tensor | None, bias: Tensor | None, out: Tensor | None, pad: bool = False
    ) -> Moments | None:
        """Runs the kernel `_combine` over a batch. bias (C,) float32. Returns the moments, but for a padded sum."""
        one = one.contiguous(memory_format=torch.channels_last)
        other = one if other is None else other.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = one.shape
        rows, block = _tile(channels)
        tiles = max(_TILES, math.ceil(height * width / (rows * _PIECES)))
        pieces = math.ceil(height * width / (rows * tiles))
        mean, deviation = one.new_empty((2, batch, pieces, channels), dtype=torch.float32)
        reference = one.new_empty((batch, channels), dtype=torch.float32)
        _combine[(pieces, batch)](
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
    """The rows and columns of a tile, powers of two."""
    block = triton.next_power_of_2(channels)
    return max(1, _TILE // block), block


def _empty(like: Tensor, batch: int, channels: int, height: int, width: int, dtype: torch.dtype | None = None) -> Tensor:
    shape = (batch, channels, height, width)
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last)
