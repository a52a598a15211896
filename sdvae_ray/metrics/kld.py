"""Kullback-Leibler divergence of the posterior from the standard normal, per RGB pass, in nats; NaN without a posterior.

0.5 * sum(mean^2 + exp(logvar) - logvar - 1) over all latent elements (Kingma and Welling 2014, appendix B).
"""

import torch
from torch import Tensor

from sdvae_ray.contracts import Reconstruction

UNIT = "nats"
HIGHER_IS_BETTER = None  # a description of the latent, not a score
FORMULA = "0.5 sum(mean^2 + exp(logvar) - logvar - 1) over the latent of a pass"
RANGE = "[0, inf)"
REFERENCE = "Kingma & Welling 2014, appendix B"
NEEDS_POSTERIOR = True


def compute(reconstruction: Reconstruction) -> Tensor:
    """Return the divergence in nats of each encoded RGB pass, (N, T) float32 >= 0; NaN without a posterior or its logvar."""
    posterior = reconstruction.posterior
    count, passes = reconstruction.image_rgb.shape[:2]
    if posterior is not None:
        passes = len(posterior.mean) // count  # of the autoencoder's own packing
    if posterior is None or posterior.logvar is None:
        return torch.full((count, passes), torch.nan, device=reconstruction.image.device)
    mean, logvar = posterior.mean.double(), posterior.logvar.double()
    divergence = 0.5 * (mean**2 + logvar.exp() - logvar - 1).flatten(1).sum(1)
    return divergence.float().view(count, passes)
