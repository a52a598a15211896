"""Peak signal-to-noise ratio per stain, in dB, of a data range of 1; infinity for an exact reconstruction."""

from torch import Tensor

from sdvae_ray.contracts import Reconstruction

UNIT = "dB"
HIGHER_IS_BETTER = True


def compute(reconstruction: Reconstruction) -> Tensor:
    """Return the PSNR of each stain in dB, (N, C) float32: -10 log10 of the mean squared error."""
    error = (reconstruction.image - reconstruction.recon).square().mean((2, 3))
    return -10 * error.log10()
