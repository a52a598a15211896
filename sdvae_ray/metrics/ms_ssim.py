"""Multi-scale structural similarity per stain, in [0, 1] (Wang, Simoncelli and Bovik 2003); NaN below 176 pixels.

Five scales with the published exponents; the window of ssim at each; each scale is the mean of 2 x 2 pixels of the one before
(an odd last row or column is dropped). Contrast-structure at every scale, luminance at the coarsest only, each averaged over the
valid windows before its exponent. A negative average counts as 0, since it has no real power. monai computes the same number;
torchmetrics (normalize="relu") differs: its coarsest scale also averages over windows across the reflected edge.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sdvae_ray.contracts import Reconstruction
from sdvae_ray.metrics._ssim_map import WINDOW, maps, ssim_maps, window_moments

UNIT = ""
HIGHER_IS_BETTER = True
FORMULA = "product over scales j = 1..5 of (contrast-structure)_j^w_j, times luminance at the coarsest"
RANGE = "[0, 1]"
REFERENCE = "Wang, Simoncelli & Bovik 2003"
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST = WINDOW * 2 ** (len(WEIGHTS) - 1)  # pixels: one window at the coarsest scale


def compute(reconstruction: Reconstruction) -> Tensor:
    """Return the multi-scale SSIM of each stain, (N, C) float32 in [0, 1]; NaN for a patch smaller than 176 pixels."""
    image, recon = reconstruction.image, reconstruction.recon
    result = torch.ones(image.shape[:2], device=image.device)
    if min(image.shape[2:]) < SMALLEST:
        return result.fill_(torch.nan)
    luminance, structure = reconstruction.once(ssim_maps)
    for weight in WEIGHTS[:-1]:
        result *= structure.mean((2, 3)).clamp(min=0) ** weight
        image, recon = functional.avg_pool2d(image, 2), functional.avg_pool2d(recon, 2)
        luminance, structure = maps(window_moments(image), recon)
    return result * (luminance * structure).mean((2, 3)).clamp(min=0) ** WEIGHTS[-1]
