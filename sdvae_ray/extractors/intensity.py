"""A baseline without weights: every stain's patch by its intensities and band energies.

Per stain: mean, standard deviation, five percentiles of the pixels, the standard deviation in five octave bands (a Gaussian
pyramid's differences: 1, 2, 4, 8 and 16 pixels), and the correlation with every stain.
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from sdvae_ray.contracts import Checkpoint, Takes

CHECKPOINTS = (Checkpoint(None, "Apache-2.0", "stain", "12 + stains, per stain"),)
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
BANDS = 5
_KERNEL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # binomial, the pyramid of Burt and Adelson (1983)


class Intensity:
    takes: Takes = "stains"

    def to(self, device: torch.device) -> "Intensity":
        return self

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the features (N, C, 12 + C) float32 of stains (N, C, S, S) in [0, 1]."""
        images = batch.float()
        flat = images.flatten(2)
        mean, std = flat.mean(2), flat.std(2, unbiased=False)
        ordered = flat.sort(2).values
        last = flat.shape[2] - 1
        quantiles = torch.stack([ordered[:, :, round(q * last)] for q in QUANTILES], 2)
        centred = flat - mean.unsqueeze(2)
        scale = std.clamp_min(1e-6)
        correlation = centred @ centred.transpose(1, 2) / flat.shape[2] / (scale.unsqueeze(2) * scale.unsqueeze(1))
        return torch.cat([mean.unsqueeze(2), std.unsqueeze(2), quantiles, _bands(images), correlation], 2)


def _bands(images: Tensor) -> Tensor:
    """Return the standard deviation of each level of the Laplacian pyramid, (N, C, BANDS), of images (N, C, S, S)."""
    count, stains, size, _ = images.shape
    level = images.reshape(count * stains, 1, size, size)
    kernel = _kernel(images.device)
    energies = []
    for _ in range(BANDS):
        smooth = functional.conv2d(functional.pad(level, (2, 2, 2, 2), mode="reflect"), kernel)
        energies.append((level - smooth).flatten(1).std(1, unbiased=False))
        level = smooth[:, :, ::2, ::2]
    return torch.stack(energies, 1).view(count, stains, BANDS)


@cache
def _kernel(device: torch.device) -> Tensor:
    """Return the kernel (1, 1, 5, 5) on the device. It is cached: a copy on every call would wait for the device."""
    kernel = torch.tensor(_KERNEL, device=device)
    return (kernel[:, None] * kernel[None, :])[None, None]


def load(weights: Path | None) -> Intensity:
    """Return the extractor. It has no weights: `weights` is None."""
    return Intensity()
