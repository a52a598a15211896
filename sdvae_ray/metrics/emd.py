"""Earth mover's distance between the two intensity histograms per stain: the 1-D Wasserstein-1 distance, on [0, 1].

The mean absolute difference of the two sorted pixel lists; blind to where the pixels are.
"""

from torch import Tensor

from sdvae_ray.contracts import Reconstruction

UNIT = "fraction of full scale"
HIGHER_IS_BETTER = False
FORMULA = "mean over ranks i of |x_(i) - y_(i)|, the sorted pixels of original and reconstruction"
RANGE = "[0, 1]"
REFERENCE = "Wasserstein-1 distance in one dimension; scipy.stats.wasserstein_distance gives the same number"


def compute(reconstruction: Reconstruction) -> Tensor:
    """Return the Wasserstein-1 distance of the pixels of each stain, (N, C) float32 in [0, 1]."""
    image, recon = reconstruction.of_image(_sorted), _sorted(reconstruction.recon)
    return (image - recon).abs().mean(2)


def _sorted(planes: Tensor) -> Tensor:
    return planes.flatten(2).sort(2).values
