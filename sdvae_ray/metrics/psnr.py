"""Peak signal-to-noise ratio per stain, in dB, of a data range of 1; infinity for an exact reconstruction.

The mean over patches is of their squared errors, so that one exact patch, such as a blank one, does not make it infinite.
"""

import numpy as np
from torch import Tensor

from sdvae_ray.contracts import Reconstruction

UNIT = "dB"
HIGHER_IS_BETTER = True
FORMULA = "-10 log10(mean of (x - y)^2)"
RANGE = "[0, inf]"
REFERENCE = "definition, of a data range of 1"


def compute(reconstruction: Reconstruction) -> Tensor:
    """Return the PSNR of each stain in dB, (N, C) float32: -10 log10 of the mean squared error."""
    error = (reconstruction.image - reconstruction.recon).square().mean((2, 3))
    return -10 * error.log10()


def pooled(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the PSNR in dB of all patches together, from the PSNRs of patches, (n,) float64.

    weights: (n,) numbers of patches, where a value is the PSNR of several patches together.
    """
    with np.errstate(divide="ignore"):
        return float(-10 * np.log10(np.average(10 ** (-values / 10), weights=weights)))
