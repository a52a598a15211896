"""Structural similarity per stain over windows centred on the foreground of the original; NaN without foreground.

The map of ssim, averaged where `images/foreground.py` finds foreground. A window reaches 5 pixels beyond its centre, so the rim of
a cell counts too.
"""

from torch import Tensor

from sdvae_ray.contracts import Reconstruction
from sdvae_ray.images.foreground import foreground
from sdvae_ray.metrics._ssim_map import WINDOW, ssim_maps

UNIT = ""
HIGHER_IS_BETTER = True
FORMULA = "mean of the SSIM map over windows centred on foreground pixels"
RANGE = "[-1, 1]"
REFERENCE = "Wang et al. 2004; foreground by Otsu 1979, with a test for blank patches of our own (images/foreground.py)"


def compute(reconstruction: Reconstruction) -> Tensor:
    """Return the mean SSIM over windows centred on foreground, (N, C) float32 in [-1, 1]; NaN without such a window."""
    margin = WINDOW // 2
    mask = reconstruction.of_image(foreground)[:, :, margin:-margin, margin:-margin]
    luminance, structure = reconstruction.once(ssim_maps)
    return (luminance * structure * mask).sum((2, 3)) / mask.sum((2, 3))
