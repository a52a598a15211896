"""Mean absolute error per stain on [0, 1]."""

from torch import Tensor

from sdvae_ray.contracts import Reconstruction

UNIT = "fraction of full scale"
HIGHER_IS_BETTER = False
FORMULA = "mean of |x - y|"
RANGE = "[0, 1]"
REFERENCE = "definition"


def compute(reconstruction: Reconstruction) -> Tensor:
    """Return the mean absolute error of each stain, (N, C) float32 in [0, 1]."""
    return (reconstruction.image - reconstruction.recon).abs().mean((2, 3))
