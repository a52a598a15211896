"""Structural similarity per stain (Wang et al. 2004), in [-1, 1], higher is better.

Gaussian window of 11 pixels, sigma 1.5, k1 0.01, k2 0.03, data range 1, valid windows only. The published pipeline plots
1 - SSIM under the same name; we store SSIM.
"""

from torch import Tensor

from sdvae_ray.contracts import Reconstruction
from sdvae_ray.metrics._ssim_map import ssim_maps

UNIT = ""
HIGHER_IS_BETTER = True
FORMULA = "mean over windows of (2 mx my + c1)(2 cov + c2) / ((mx^2 + my^2 + c1)(vx + vy + c2))"
RANGE = "[-1, 1]"
REFERENCE = "Wang et al. 2004; c1 = 0.01^2, c2 = 0.03^2, Gaussian window of 11 pixels, sigma 1.5"


def compute(reconstruction: Reconstruction) -> Tensor:
    """Return the mean SSIM over the windows of each stain, (N, C) float32 in [-1, 1]."""
    luminance, structure = reconstruction.once(ssim_maps)
    return (luminance * structure).mean((2, 3))
