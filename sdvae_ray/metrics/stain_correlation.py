"""Error of the correlations between stains, per stain: mean over the others of |r original - r reconstruction|, in [0, 2].

r is Pearson's, over the pixels of a patch. A stain that is constant in the original has no r: its own value is NaN, and it is left
out of the means of the other stains. A stain that is constant in the reconstruction alone has lost its correlations: its r is 0.
"""

import torch
from torch import Tensor

from sdvae_ray.contracts import Reconstruction

UNIT = ""
HIGHER_IS_BETTER = False
FORMULA = "mean over the other stains b of |r(x_a, x_b) - r(y_a, y_b)|, r Pearson's"
RANGE = "[0, 2]"
REFERENCE = "our own"


def compute(reconstruction: Reconstruction) -> Tensor:
    """Return the mean error of each stain's correlations, (N, C) float32 in [0, 2]. NaN if the stain, or every other stain, is
    constant in the original, and with fewer than two stains."""
    before, varies = reconstruction.of_image(_correlations)
    after, _ = _correlations(reconstruction.recon)
    counts = varies[:, :, None] & varies[:, None, :]
    counts &= ~torch.eye(counts.shape[1], dtype=torch.bool, device=counts.device)
    return (((before - after).abs() * counts).sum(2) / counts.sum(2)).float()


def _correlations(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Return r (N, C, C) float64, 0 for a constant stain, and a mask (N, C) of the stains that vary; planes: (N, C, S, S)."""
    values = planes.flatten(2).double()
    low, high = values.aminmax(dim=2)
    varies = high > low
    centred = (values - values.mean(2, keepdim=True)) * varies.unsqueeze(2)
    length = centred.square().sum(2, keepdim=True).sqrt()
    unit = centred / torch.where(varies.unsqueeze(2), length, 1.0)
    return (unit @ unit.mT).clamp(-1, 1), varies
