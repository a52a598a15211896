"""How much of a stain's error is the fine texture of another stain: the correlation of the two where cells are, in [-1, 1].

An autoencoder packs three stains into one image, and its decoder can draw the texture of one stain into another. No distance of a
stain by itself shows that. The error is the reconstruction less the original; the fine detail of a stain is the original less its
mean over 9 x 9 pixels. r is Pearson's, over the foreground of any stain. Above 0 the other stain's texture is drawn in, below 0 it
is taken away. Stains share edges, so that r is seldom 0 without a leak: compare it with r of the same stains packed alone.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sdvae_ray.contracts import Reconstruction
from sdvae_ray.images.foreground import foreground

UNIT = ""
HIGHER_IS_BETTER = None  # best at 0
FORMULA = "Pearson's r of y_a - x_a and x_b - (mean of x_b over 9 x 9 pixels), over the foreground of any stain"
RANGE = "[-1, 1], best at 0"
REFERENCE = "our own"
AGAINST_STAINS = True
WINDOW = 9  # pixels
_NOTHING = 1e-7  # root mean square below which a plane of numbers in [0, 1] is the rounding of float32


def compute(reconstruction: Reconstruction) -> Tensor:
    """Return r of each stain's error and each stain's detail, (N, C, C) float32: first the stain of the error, then that of the
    detail. NaN of a stain with itself, of a patch without foreground, and where the error or the detail is nothing."""
    image = reconstruction.image
    mask = reconstruction.of_image(foreground).any(1, keepdim=True).flatten(2)
    error, has_error = _unit((reconstruction.recon - image).flatten(2), mask)
    detail, has_detail = reconstruction.of_image(_unit_detail, foreground)
    other = ~torch.eye(image.shape[1], dtype=torch.bool, device=image.device)
    is_known = has_error[:, :, None] & has_detail[:, None] & other
    correlation = (error @ detail.mT).clamp(-1, 1)
    return correlation.masked_fill(~is_known, torch.nan).float()


def _unit_detail(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return `_unit` of the detail of an image over the foreground of any stain; image, mask: (N, C, S, S)."""
    return _unit(_detail(image).flatten(2), mask.any(1, keepdim=True).flatten(2))


def _detail(planes: Tensor) -> Tensor:
    """Return planes (N, C, S, S) less their mean over 9 x 9 pixels; the border mirrors about the outermost pixels."""
    padded = functional.pad(planes, (WINDOW // 2,) * 4, mode="reflect")
    return planes - functional.avg_pool2d(padded, WINDOW, stride=1)


def _unit(planes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return planes (N, C, pixels) less their mean over the mask, of length 1 and 0 outside it, float64; and a mask (N, C) of the
    planes that vary. mask: (N, 1, pixels)."""
    count = mask.sum(2, keepdim=True).clamp(min=1)
    values = planes.double() * mask
    centred = (values - values.sum(2, keepdim=True) / count) * mask
    length = centred.square().sum(2, keepdim=True).sqrt()
    varies = length > _NOTHING * count.sqrt()
    return centred / torch.where(varies, length, 1.0), varies.squeeze(2)
