"""The two factors of structural similarity, window by window (Wang et al. 2004); shared by ssim, ms_ssim and foreground_ssim."""

import torch
from torch import Tensor
from torch.nn import functional

from sdvae_ray.metrics._precision import float32_convolutions

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03


def ssim_maps(image: Tensor, recon: Tensor) -> tuple[Tensor, Tensor]:
    """Return luminance and contrast-structure of each window, (N, C, S - 10, S - 10) each; their product is the map of SSIM.

    image, recon: (N, C, S, S) in [0, 1], S >= 11. The windows lie within the image; each stands at its centre.
    """
    count, stains, size, _ = image.shape
    x = image.reshape(count * stains, 1, size, size)
    y = recon.reshape(count * stains, 1, size, size)
    # windows of values shifted by the image's mean: float32 variances of bright flat regions keep their digits
    shift = x.mean((2, 3), keepdim=True)
    xs, ys = x - shift, y - shift
    with float32_convolutions():
        mean_x, mean_y, xx, yy, xy = (_blur(v) for v in (xs, ys, xs * xs, ys * ys, xs * ys))
    variance_x, variance_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    mean_x, mean_y = mean_x + shift, mean_y + shift
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return luminance.view(count, stains, *luminance.shape[2:]), structure.view(count, stains, *structure.shape[2:])


def _blur(images: Tensor) -> Tensor:
    offsets = torch.arange(WINDOW, device=images.device, dtype=images.dtype) - WINDOW // 2
    kernel = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    rows = functional.conv2d(images, kernel.view(1, 1, -1, 1))
    return functional.conv2d(rows, kernel.view(1, 1, 1, -1))
