"""Reconstructions for the tests of metrics, and references that work plane by plane."""

from pathlib import Path

import numpy as np
import tifffile
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torch import Tensor

from sdvae_ray.contracts import Posterior, Reconstruction

PASSES = [[0, 1, 2], [2, 3, 4]]
CLOSE = {"rtol": 0, "atol": 1e-5}  # float32 sums of up to 2^16 values in [0, 1]
SKIMAGE = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}


def shapes(count: int, size: int) -> Tensor:
    """(count, 5, size, size): bright discs over a dim background, other discs for every stain, with noise of two grey levels."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    image = np.full((count, 5, size, size), 0.1)
    for plane in image.reshape(-1, size, size):
        for _ in range(6):
            cy, cx, radius = *random.uniform(0, size, 2), random.uniform(8, 20)
            plane += 0.2 * (np.hypot(y - cy, x - cx) < radius)
    noisy = gaussian_filter(image, (0, 0, 1, 1)) + random.normal(0, 2 / 255, image.shape)
    return torch.from_numpy(np.clip(noisy, 0, 1).astype(np.float32))


def reconstruction(image: Tensor, recon: Tensor | None = None) -> Reconstruction:
    """(N, 5, S, S) with two RGB passes and a random posterior; `recon` None: the image comes back exactly."""
    recon = image.clone() if recon is None else recon
    random = torch.Generator().manual_seed(1)
    moments = torch.randn(2, len(image), 2, 4, 8, 8, generator=random)
    posterior = Posterior(*moments.to(image.device).flatten(1, 2))
    return Reconstruction(image, recon, image[:, PASSES], recon[:, PASSES], posterior)


def degraded(image: Tensor) -> Reconstruction:
    """Blurred, and darker."""
    blurred = gaussian_filter(image.numpy(), (0, 0, 1.5, 1.5)) * 0.9 + 0.01
    return reconstruction(image, torch.from_numpy(blurred))


def blurred_with_noise(image: Tensor, error: float) -> Reconstruction:
    """(N, 5, S, S): blurred, with noise of standard deviation `error`; no posterior."""
    random = np.random.default_rng(4)
    blurred = gaussian_filter(image.numpy(), (0, 0, 1, 1))
    recon = torch.from_numpy(np.clip(blurred + random.normal(0, error, blurred.shape), 0, 1).astype(np.float32))
    return Reconstruction(image, recon, image[:, PASSES], recon[:, PASSES], None)


def of_noise() -> Reconstruction:
    """Two patches of uniform noise, 192 pixels."""
    return blurred_with_noise(torch.rand(2, 5, 192, 192, generator=torch.Generator().manual_seed(3)), 0.1)


def of_cells(real_field: dict[str, Path]) -> Reconstruction:
    """Three crops of 192 pixels of the real field, as a run scales them."""
    planes = np.stack([tifffile.imread(path) for path in real_field.values()]) / 256 / 255
    crops = [planes[:, y : y + 192, x : x + 192] for y, x in ((40, 40), (600, 300), (284, 796))]
    return blurred_with_noise(torch.from_numpy(np.stack(crops).astype(np.float32)), 0.01)


def whole_field(real_field: dict[str, Path]) -> Tensor:
    """(5, 1024, 1024): the centre of the real field in 8 bits, as a run scales it."""
    planes = np.stack([tifffile.imread(path)[28:1052, 28:1052] for path in real_field.values()])
    return torch.from_numpy((planes // 256).astype(np.float32) / 255)


def per_stain(reference, pair: Reconstruction) -> np.ndarray:
    """(N, C, ...) of a reference of two (S, S) float64 planes."""
    image, recon = pair.image.double().numpy(), pair.recon.double().numpy()
    return np.array([[reference(x, y) for x, y in zip(*both, strict=True)] for both in zip(image, recon, strict=True)])


def skimage_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The map of SSIM, at the windows that lie within the image."""
    return structural_similarity(x, y, full=True, **SKIMAGE)[1][5:-5, 5:-5]
