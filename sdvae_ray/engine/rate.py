"""The bits of a latent on the device: as it is stored, and as an entropy coder could store it after quantisation.

`latent_file` writes a file of it, on the host.

The three planes of an RGB pass share its bits equally. A stain has the bits of its planes, so the stains add up to the whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdvae_ray.schema import BITS, CODED, ENTROPY, RATES

NOMINAL_BITS = 8  # bits per value, for the entropy of latents that are not quantised before decoding
_RANGE_BITS = 32  # the least and the largest value of a channel, both float16, stored once per FOV


def quantise(latent: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return the quantised latent, float, and the level number of every value, int64; both (M, Z, s, s) as `latent`.

    A quantised value is the centre of its level, one of 2^bits uniform levels, which span the range of a channel over all M images
    of a FOV; the ends of the range are rounded to float16, in which they are stored. A constant channel keeps its value.
    """
    low, high = (end.half().to(latent.dtype) for end in (latent.amin((0, 2, 3), True), latent.amax((0, 2, 3), True)))
    step = (high - low) / (2**bits - 1)
    symbols = ((latent - low) / step.clamp_min(torch.finfo(latent.dtype).tiny)).round().clamp(0, 2**bits - 1)
    return level_values(symbols, low, high, bits), symbols.long()


def level_values(symbols: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """Return the values of level numbers (..., Z, s, s); low and high: the ends of the range of every channel, to be broadcast."""
    return low + symbols * ((high - low) / (2**bits - 1))


def entropy_bits(symbols: Tensor, levels: int) -> Tensor:
    """Return the bits of every image, (M,) float64. symbols: (M, Z, s, s) int64 level numbers below `levels`.

    The bits are Shannon's -log2 p summed over the values, which an ideal entropy coder of order zero needs, plus the bits of the
    ranges of the channels. p is the frequency of a level in its channel over the M images.
    """
    images, channels, height, width = symbols.shape
    by_channel = symbols.transpose(0, 1).reshape(channels, -1)
    counts = torch.zeros(channels, levels, dtype=torch.int64, device=symbols.device)
    counts.scatter_add_(
        1, by_channel, torch.ones_like(by_channel)
    )  # bincount would wait for the device, channel by channel
    information = -(counts.double() / by_channel.shape[1]).log2()
    bits = information.gather(1, by_channel).view(channels, images, height, width)
    return bits.transpose(0, 1).flatten(1).sum(1) + _RANGE_BITS * channels / images


@dataclass(frozen=True)
class Coded:
    """The latents of the M passes of a FOV, before and after quantisation.

    latent   (M, Z, s, s) values
    width    bits per value as stored
    symbols  (M, Z, s, s) int64 level numbers after quantisation
    levels   the number of levels
    """

    latent: Tensor
    width: int
    symbols: Tensor
    levels: int


def stored_bits(coded: Coded) -> Tensor:
    """Return the bits of every image without compression, (M,) float64."""
    bits, device = float(coded.latent[0].numel() * coded.width), coded.latent.device
    return torch.full(coded.latent.shape[:1], bits, dtype=torch.float64, device=device)


MEASURES: dict[
    str, Callable[[Coded], Tensor]
] = {  # a rate of schema.RATES but `coded` -> the bits of every image, (M,)
    BITS: stored_bits,
    ENTROPY: lambda coded: entropy_bits(coded.symbols, coded.levels),
}


def pass_bits(latent: Tensor, width: int, levels: int) -> dict[str, Tensor]:
    """Return rate -> the bits of every pass, (M,) float64, for every rate of MEASURES; latent: (M, Z, s, s). width: bits of a
    value as stored. levels: bits of a value after quantisation. If a latent is not finite, only `bits` has a meaning."""
    _, symbols = quantise(torch.nan_to_num(latent), levels)  # a symbol is always a number of a level
    coded = Coded(latent, width, symbols, 2**levels)
    return {name: measure(coded) for name, measure in MEASURES.items()}


def without_latent(bits: Tensor, is_file: bool) -> dict[str, Tensor]:
    """Return every rate of a side that has no latent: `bits` as stored and, if that is a file, as coded; the others NaN."""
    known = {BITS, CODED} if is_file else {BITS}
    return {name: bits if name in known else torch.full_like(bits, torch.nan) for name in RATES}


def per_stain(pass_bits: Tensor, index: Sequence[Sequence[int]], stains: int) -> Tensor:
    """Return the bits of stains, (N, C) float32, from the bits of RGB passes, (N, T). index: for every pass, the stain number of
    each of its three planes."""
    total = torch.zeros(len(pass_bits), stains, dtype=torch.float64, device=pass_bits.device)
    for number, planes in enumerate(index):
        for stain in planes:
            total[:, stain] += pass_bits[:, number].double() / 3
    return total.float()
