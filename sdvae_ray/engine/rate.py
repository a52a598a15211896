"""What a latent takes in bits: as it is stored, and as an entropy coder could store it once quantised.

A pass's bits are shared equally by its three planes, so a stain's are those of its planes, and stains add up to the whole.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

NOMINAL_BITS = 8  # per value, for the entropy of latents that are not quantised before they are decoded
_RANGE_BITS = 32  # least and largest value of a channel, float16 each: sent along once per FOV


def quantise(latent: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(M, Z, s, s) -> the values at the centres of 2^bits uniform levels over each channel's range, and their numbers.

    The range is that of the channel over all M images of a FOV; a constant channel keeps its value.
    """
    low, high = latent.amin((0, 2, 3), keepdim=True), latent.amax((0, 2, 3), keepdim=True)
    step = (high - low) / (2**bits - 1)
    symbols = ((latent - low) / step.clamp_min(torch.finfo(latent.dtype).tiny)).round().clamp(0, 2**bits - 1)
    return low + symbols * step, symbols.long()


def entropy_bits(symbols: Tensor) -> Tensor:
    """(M, Z, s, s) level numbers -> (M,) float64, bits of each image under its channels' own distribution over the M images.

    Shannon's -log2 p summed over the values (what an ideal entropy coder of order zero needs), and the channels' ranges.
    """
    images, channels = symbols.shape[:2]
    information = torch.empty(symbols.shape, dtype=torch.float64, device=symbols.device)
    for channel in range(channels):
        values = symbols[:, channel]
        counts = torch.bincount(values.flatten()).double()
        information[:, channel] = -(counts / values.numel()).log2()[values]
    return information.flatten(1).sum(1) + _RANGE_BITS * channels / images


def per_stain(pass_bits: Tensor, index: Sequence[Sequence[int]], stains: int) -> Tensor:
    """(N, T) bits of RGB passes -> (N, C) float32; `index`: the stain on each plane of each pass."""
    share = torch.zeros(len(index), stains, dtype=torch.float64)
    for number, planes in enumerate(index):
        for stain in planes:
            share[number, stain] += 1 / 3
    return (pass_bits.double() @ share.to(pass_bits.device)).float()
