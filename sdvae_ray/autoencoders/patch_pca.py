"""The linear baseline: principal components of 8 x 8 RGB patches, four numbers each, in a latent of Stable Diffusion's shape.

It has a closed form, so the gain of a network over it is due to non-linearity and context. It has no posterior.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from sdvae_ray.contracts import Checkpoint, Posterior
from sdvae_ray.errors import WeightsError
from sdvae_ray.precision import own_precision

SOURCE = "asset:patch_pca"
SIZE = 8  # pixels
HAS_POSTERIOR = False
CHECKPOINTS = (
    Checkpoint(
        SOURCE,
        "Apache-2.0",
        "RGB, height and width multiples of 8",
        "4 x S/8 x S/8",
        960,
        note="fitted on synthetic images only",
    ),
)


class PatchPCA:
    """A linear autoencoder of 8 x 8 patches, flattened as (3, 8, 8) in [0, 1]. mean: (192,). components: (Z, 192), orthonormal
    rows."""

    def __init__(self, mean: Tensor, components: Tensor) -> None:
        self.mean, self.components = mean, components

    def to(self, device: torch.device) -> "PatchPCA":
        self.mean, self.components = self.mean.to(device), self.components.to(device)
        return self

    def encode(self, rgb: Tensor) -> Posterior:
        count, _, height, width = rgb.shape
        with own_precision(rgb.device):
            patches = functional.unfold(rgb.float(), SIZE, stride=SIZE).transpose(1, 2)  # (M, h * w, 192)
            scores = (patches - self.mean) @ self.components.T
        mean = scores.transpose(1, 2).reshape(count, -1, height // SIZE, width // SIZE)
        return Posterior(mean=mean, logvar=None)

    def decode(self, latent: Tensor) -> Tensor:
        count, channels, height, width = latent.shape
        with own_precision(latent.device):
            scores = latent.float().reshape(count, channels, height * width).transpose(1, 2)
            patches = scores @ self.components + self.mean
        size = (height * SIZE, width * SIZE)
        return functional.fold(patches.transpose(1, 2), size, SIZE, stride=SIZE).clamp(0, 1)


def load(weights: Path | None) -> PatchPCA:
    """Return the autoencoder of patch_pca.safetensors; weights: that file or its folder. Raises WeightsError for all else, and
    None.
    """
    if weights is None:
        raise WeightsError("patch_pca has no random form: it is fitted (drop `random`)")
    file = weights / "patch_pca.safetensors" if weights.is_dir() else weights
    try:
        tensors = load_file(file)
        mean, components = tensors["mean"].float(), tensors["components"].float()
    except (OSError, KeyError, SafetensorError) as error:
        raise WeightsError(f"patch_pca: {file} is not a file of `mean` and `components`: {error}") from error
    width = 3 * SIZE * SIZE
    if mean.shape != (width,) or components.ndim != 2 or components.shape[1] != width:
        raise WeightsError(
            f"patch_pca: {file} holds {tuple(mean.shape)} and {tuple(components.shape)}, not (192,), (Z, 192)"
        )
    return PatchPCA(mean, components)


def fit(patches: Tensor, components: int = 4) -> PatchPCA:
    """Return the principal components of patches (n, 192), computed in float64; the largest element of each row is positive."""
    flat = patches.double()
    mean = flat.mean(0)
    centred = flat - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    rows = vectors.flip(1).T[:components]
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return PatchPCA(mean.float(), (rows * largest.sign()).float())
