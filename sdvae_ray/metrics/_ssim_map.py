"""The two factors of structural similarity, window by window (Wang et al. 2004); shared by ssim, ms_ssim and foreground_ssim."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sdvae_ray.contracts import Reconstruction
from sdvae_ray.metrics._precision import float32_convolutions

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03


@dataclass(frozen=True)
class Moments:
    """The moments of the windows of an image whose M planes are shifted by their means: float32 variances of bright flat regions
    then keep their digits.

    shift           (M, 1, 1, 1), the means
    shifted         (M, 1, S, S)
    mean, variance  (M, 1, S - 10, S - 10), of the shifted planes
    """

    shift: Tensor
    shifted: Tensor
    mean: Tensor
    variance: Tensor


def window_moments(image: Tensor) -> Moments:
    """Return the moments of the windows of an image (N, C, S, S) in [0, 1]."""
    x = image.reshape(-1, 1, *image.shape[2:])
    shift = x.mean((2, 3), keepdim=True)
    shifted = x - shift
    with float32_convolutions():
        mean, square = _blur(shifted), _blur(shifted * shifted)
    return Moments(shift, shifted, mean, square - mean**2)


def ssim_maps(reconstruction: Reconstruction) -> tuple[Tensor, Tensor]:
    """Return the `maps` of a reconstruction."""
    return maps(reconstruction.of_image(window_moments), reconstruction.recon)


def maps(image: Moments, recon: Tensor) -> tuple[Tensor, Tensor]:
    """Return luminance and contrast-structure of each window, (N, C, S - 10, S - 10) each; their product is the map of SSIM.

    recon: (N, C, S, S) in [0, 1], S >= 11. The windows lie within the image; each stands at its centre.
    """
    count, stains = recon.shape[:2]
    ys = recon.reshape(image.shifted.shape) - image.shift
    with float32_convolutions():
        mean_y, yy, xy = (_blur(v) for v in (ys, ys * ys, image.shifted * ys))
    variance_y, covariance = yy - mean_y**2, xy - image.mean * mean_y
    mean_x, mean_y = image.mean + image.shift, mean_y + image.shift
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (image.variance + variance_y + c2)
    return luminance.view(count, stains, *luminance.shape[2:]), structure.view(count, stains, *structure.shape[2:])


def _blur(images: Tensor) -> Tensor:
    offsets = torch.arange(WINDOW, device=images.device, dtype=images.dtype) - WINDOW // 2
    kernel = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    rows = functional.conv2d(images, kernel.view(1, 1, -1, 1))
    return functional.conv2d(rows, kernel.view(1, 1, 1, -1))
