"""Mean absolute error per stain over the foreground of the original, on [0, 1]; NaN without foreground.

The error over a whole patch is mostly the error of its empty background; this metric takes only the pixels with cells.
`images/foreground.py` says which pixels are foreground.
"""

from torch import Tensor

from sdvae_ray.contracts import Reconstruction
from sdvae_ray.images.foreground import foreground

UNIT = "fraction of full scale"
HIGHER_IS_BETTER = False
FORMULA = "mean over foreground pixels of |x - y|"
RANGE = "[0, 1]"
REFERENCE = "foreground by Otsu 1979, with a test for blank patches of our own (images/foreground.py)"


def compute(reconstruction: Reconstruction) -> Tensor:
    """Return the mean absolute error over foreground pixels, (N, C) float32 in [0, 1]; NaN if the original's patch is blank."""
    mask = reconstruction.of_image(foreground)
    error = (reconstruction.image - reconstruction.recon).abs()
    return (error * mask).sum((2, 3)) / mask.sum((2, 3))
