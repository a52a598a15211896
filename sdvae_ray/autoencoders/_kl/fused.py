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
_ONE, _SUM, _PHASES = 0, 1, 2  # what `_combine` reads: an activation, two to be added, or four phases to be interleaved


@triton.jit
def _read(a, b, c, d, image, rows, columns, mask, height, width, channels, MODE: tl.constexpr):
    """The float32 values [rows, columns] of an image of height x width pixels (of the result), before a bias."""
    if MODE == 2:
        y, x = rows // width, rows % width
        wide = width // 2 + 1  # a phase was convolved with a border of one pixel around the small image
        place = (y // 2 + y % 2) * wide + x // 2 + x % 2
        offset = image * (height // 2 + 1) * wide * channels + place.to(tl.int64) * channels + columns
        phase = 2 * (y % 2) + x % 2
        value = tl.load(a + offset, mask=mask & (phase == 0), other=0.0).to(tl.float32)
        value += tl.load(b + offset, mask=mask & (phase == 1), other=0.0).to(tl.float32)
        value += tl.load(c + offset, mask=mask & (phase == 2), other=0.0).to(tl.float32)
        value += tl.load(d + offset, mask=mask & (phase == 3), other=0.0).to(tl.float32)
    else:
        offset = image * height * width * channels + rows.to(tl.int64) * channels + columns
        value = tl.load(a + offset, mask=mask, other=0.0).to(tl.float32)
        if MODE == 1:
            value += tl.load(b + offset, mask=mask, other=0.0).to(tl.float32)
    return value


@triton.jit
def _combine(
    a,
    b,
    c,
    d,
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
    MODE: tl.constexpr,
    BIAS: tl.constexpr,
    STORE: tl.constexpr,
    PAD: tl.constexpr,
    MOMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Reads one piece of an image, adds the bias, writes the result (STORE) and its moments about the reference (MOMENTS)."""
    piece, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < channels
    columns, pixels = column[None, :], height * width
    added = tl.zeros([BLOCK], tl.float32)
    if BIAS:
        added += tl.load(bias + column, mask=inside, other=0.0)
    origin = tl.zeros([1, BLOCK], tl.float32)
    if MOMENTS:
        first = (column // group) * group
        nought = tl.zeros([1, 1], tl.int32)
        origin += _read(a, b, c, d, image, nought, first[None, :], inside[None, :], height, width, channels, MODE)
        if BIAS:
            origin += tl.load(bias + first, mask=inside, other=0.0)[None, :]
        if piece == 0:
            tl.store(reference + image * channels + columns, origin, mask=inside[None, :])
    count = 0.0
    centre, spread = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for tile in range(tiles):
        rows = ((piece * tiles + tile) * ROWS + tl.arange(0, ROWS))[:, None]
        mask = (rows < pixels) & inside[None, :]
        value = _read(a, b, c, d, image, rows, columns, mask, height, width, channels, MODE) + added[None, :]
        if STORE:
            place = rows
            if PAD:
                place = (rows // width) * (width + 1) + rows % width
            area = (height + PAD) * (width + PAD)
            stored = value.to(out.dtype.element_ty)
            tl.store(out + image * area * channels + place.to(tl.int64) * channels + columns, stored, mask=mask)
            value = stored.to(tl.float32)
        if MOMENTS:
            here = tl.maximum(tl.minimum(pixels - (piece * tiles + tile) * ROWS, ROWS), 0).to(tl.float32)
            shifted = tl.where(mask, value - origin, 0.0)
            tile_centre = tl.sum(shifted, 0) / tl.maximum(here, 1.0)
            rest = tl.where(mask, shifted - tile_centre[None, :], 0.0)
            tile_centre += tl.sum(rest, 0) / tl.maximum(here, 1.0)
            rest = tl.where(mask, shifted - tile_centre[None, :], 0.0)
            total = tl.maximum(count + here, 1.0)
            step = tile_centre - centre
            spread += tl.sum(rest * rest, 0) + step * step * (count * here / total)
            centre += step * (here / total)
            count += here
    if MOMENTS:
        place = (image * tl.num_programs(0) + piece) * channels + column
        tl.store(mean + place, centre, mask=inside)
        tl.store(deviation + place, spread, mask=inside)


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
        moments = self._combine(_SUM, [one.values, other.values], bias, (height, width), out, pad, moments=not pad)
        return Activation(out, None, moments)

    def upsample(self, values: Tensor, phases: Sequence[Convolution]) -> Activation:
        batch, _, height, width = values.shape
        images = [functional.conv2d(values, phase.weight, None, padding=1) for phase in phases]
        out = _empty(values, batch, images[0].shape[1], 2 * height, 2 * width)
        moments = self._combine(_PHASES, images, phases[0].bias.float(), (2 * height, 2 * width), out)
        return Activation(out, None, moments)

    def normalise(self, activation: Activation, norm: Norm, silu: bool, dtype: torch.dtype) -> Tensor:
        values, bias, moments = activation.values, activation.bias, activation.moments
        batch, channels, height, width = values.shape
        if moments is None:
            moments = self._combine(_ONE, [values], bias, (height, width), None)
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
        self,
        mode: int,
        sources: Sequence[Tensor],
        bias: Tensor | None,
        size: tuple[int, int],
        out: Tensor | None,
        pad: bool = False,
        moments: bool = True,
    ) -> Moments | None:
        """Runs the kernel `_combine` over a batch of images of height x width = size. bias (C,) float32."""
        (height, width), first = size, sources[0]
        batch, channels = first.shape[:2]
        sources = [source.contiguous(memory_format=torch.channels_last) for source in sources]
        rows, block = _tile(channels)
        tiles = max(_TILES, math.ceil(height * width / (rows * _PIECES)))
        pieces = math.ceil(height * width / (rows * tiles))
        wide = (batch, pieces, channels)
        mean, deviation = first.new_empty((2, *wide), dtype=torch.float32) if moments else (first, first)
        reference = first.new_empty((batch, channels), dtype=torch.float32) if moments else first
        four = [sources[min(number, len(sources) - 1)] for number in range(4)]
        _combine[(pieces, batch)](
            *four,
            bias if bias is not None else first,
            out if out is not None else first,
            reference,
            mean,
            deviation,
            height,
            width,
            channels,
            channels // self.groups,
            tiles,
            MODE=mode,
            BIAS=bias is not None,
            STORE=out is not None,
            PAD=int(pad),
            MOMENTS=moments,
            ROWS=rows,
            BLOCK=block,
        )
        return Moments(reference, mean, deviation, rows * tiles) if moments else None


def _tile(channels: int) -> tuple[int, int]:
    """The rows and columns of a tile, powers of two."""
    block = triton.next_power_of_2(channels)
    return max(1, _TILE // block), block


def _empty(like: Tensor, batch: int, channels: int, height: int, width: int, dtype: torch.dtype | None = None) -> Tensor:
    shape = (batch, channels, height, width)
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last)
