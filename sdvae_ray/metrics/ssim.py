"""Structural similarity per stain (Wang et al. 2004), in [-1, 1], higher is better.

Gaussian window of 11 pixels, sigma 1.5, k1 0.01, k2 0.03, data range 1, valid windows only. The published pipeline plots
1 - SSIM under the same name; we store SSIM.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sdvae_ray.contracts import Reconstruction

UNIT = ""
HIGHER_IS_BETTER = True
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03


def compute(reconstruction: Reconstruction) -> Tensor:
    """(N, C) float32."""
    image, recon = reconstruction.image, reconstruction.recon
    count, stains, side, _ = image.shape
    x = image.reshape(count * stains, 1, side, side)
    y = recon.reshape(count * stains, 1, side, side)
    # windows of values shifted by the image's mean: float32 variances of bright flat regions keep their digits
    shift = x.mean((2, 3), keepdim=True)
    xs, ys = x - shift, y - shift
    mean_x, mean_y, xx, yy, xy = (_blur(v) for v in (xs, ys, xs * xs, ys * ys, xs * ys))
    variance_x, variance_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    mean_x, mean_y = mean_x + shift, mean_y + shift
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean((1, 2, 3)).view(count, stains)


def _blur(images: Tensor) -> Tensor:
    offsets = torch.arange(WINDOW, device=images.device, dtype=images.dtype) - WINDOW // 2
    kernel = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    rows = functional.conv2d(images, kernel.view(1, 1, -1, 1))
    return functional.conv2d(rows, kernel.view(1, 1, 1, -1))
