"""The bits of a latent: as it is stored, and as an entropy coder could store it after quantisation.

The three planes of an RGB pass share its bits equally. A stain has the bits of its planes, so the stains add up to the whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdvae_ray.schema import BITS, ENTROPY, RATES

NOMINAL_BITS = 8  # bits per value, for the entropy of latents that are not quantised before decoding
_RANGE_BITS = 32  # the least and the largest value of a channel, both float16, stored once per FOV


def quantise(latent: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(M, Z, s, s) -> the values at the centres of 2^bits uniform levels, and the int64 numbers of the levels; both (M, Z, s, s).

    The levels span the range of a channel over all M images of a FOV. A constant channel keeps its value.
    """
    low, high = latent.amin((0, 2, 3), keepdim=True), latent.amax((0, 2, 3), keepdim=True)
    step = (high - low) / (2**bits - 1)
    symbols = ((latent - low) / step.clamp_min(torch.finfo(latent.dtype).tiny)).round().clamp(0, 2**bits - 1)
    return low + symbols * step, symbols.long()


def entropy_bits(symbols: Tensor) -> Tensor:
    """(M, Z, s, s) level numbers -> (M,) float64, the bits of every image.

    The bits are Shannon's -log2 p summed over the values, which an ideal entropy coder of order zero needs, plus the bits of the
    ranges of the channels. p is the frequency of a level in its channel over the M images.
    """
    images, channels = symbols.shape[:2]
    information = torch.empty(symbols.shape, dtype=torch.float64, device=symbols.device)
    for channel in range(channels):
        values = symbols[:, channel]
        counts = torch.bincount(values.flatten()).double()
        information[:, channel] = -(counts / values.numel()).log2()[values]
    return information.flatten(1).sum(1) + _RANGE_BITS * channels / images


@dataclass(frozen=True)
class Coded:
    """The latents of the M passes of a FOV.

    latent   (M, Z, s, s) values
    width    bits per value as stored
    symbols  (M, Z, s, s) int64 numbers of the levels after quantisation
    """

    latent: Tensor
    width: int
    symbols: Tensor


def stored_bits(coded: Coded) -> Tensor:
    """(M,) float64, the bits of every image without compression."""
    return torch.full(coded.latent.shape[:1], float(coded.latent[0].numel() * coded.width), dtype=torch.float64)


MEASURES: dict[str, Callable[[Coded], Tensor]] = {  # a rate of schema.RATES -> the bits of every image, (M,)
    BITS: stored_bits,
    ENTROPY: lambda coded: entropy_bits(coded.symbols),
}


def pass_bits(latent: Tensor, width: int, levels: int) -> dict[str, Tensor]:
    """Every rate of the latents (M, Z, s, s), (M,) float64; NaN, but for `bits`, where a latent is not finite.

    width: bits of a value as stored; levels: bits of a value after quantisation.
    """
    if not torch.isfinite(latent).all():  # happens only where numbers give shapes alone
        return stored_alone(stored_bits(Coded(latent, width, latent)))
    coded = Coded(latent, width, quantise(latent, levels)[1])
    return {name: measure(coded) for name, measure in MEASURES.items()}


def stored_alone(bits: Tensor) -> dict[str, Tensor]:
    """Every rate of a side that has no latent: `bits` as stored, the others NaN."""
    return {name: bits if name == BITS else torch.full_like(bits, torch.nan) for name in RATES}


def per_stain(pass_bits: Tensor, index: Sequence[Sequence[int]], stains: int) -> Tensor:
    """(N, T) bits of RGB passes -> (N, C) float32 bits of stains. index: the number of the stain on every plane of every pass."""
    share = torch.zeros(len(index), stains, dtype=torch.float64)
    for number, planes in enumerate(index):
        for stain in planes:
            share[number, stain] += 1 / 3
    return (pass_bits.double() @ share.to(pass_bits.device)).float()
