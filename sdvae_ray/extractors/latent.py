"""The autoencoder's own latent as an embedding: moments of its channels over their positions, per RGB pass.

It is the latent that the side decodes: sampled, quantised and rounded as the run file says, so that a score and a rate are of one
latent.

Z means, Z standard deviations and the Z (Z - 1) / 2 covariances between channels: 14 numbers for four channels.
"""

from pathlib import Path

import torch
from torch import Tensor

from sdvae_ray.contracts import Checkpoint, Takes

TAKES_LATENT = True
CHECKPOINTS = (Checkpoint(None, "Apache-2.0", "latent of a pass", "14 per pass for four channels"),)


class Latent:
    takes: Takes = "latent"

    def to(self, device: torch.device) -> "Latent":
        return self

    def __call__(self, batch: Tensor) -> Tensor:
        """Return population moments (N, T, 2 Z + Z (Z - 1) / 2) float32 of latents (N, T, Z, s, s)."""
        values = batch.double().flatten(3)
        mean = values.mean(3)
        centred = values - mean.unsqueeze(3)
        covariance = centred @ centred.transpose(2, 3) / values.shape[3]
        rows, columns = torch.triu_indices(values.shape[2], values.shape[2], offset=1)
        variance = covariance.diagonal(dim1=2, dim2=3)
        return torch.cat([mean, variance.sqrt(), covariance[:, :, rows, columns]], 2).float()


def load(weights: Path | None) -> Latent:
    """Return the extractor. It has no weights: `weights` is None."""
    return Latent()
