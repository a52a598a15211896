"""Finds the foreground of a stain's patch: pixels above Otsu's threshold (1979) of the smoothed patch; none of a blank patch.

A threshold splits pure noise too: of smoothed Gaussian noise, into halves whose means lie 1.6 standard deviations apart. A patch
is therefore blank unless its two classes lie more than `NOISE` standard deviations of its smoothed noise apart, and more than
`FLOOR`, which also stops the slow gradients of an empty well. Debris and haze that are brighter than that are foreground.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

SIGMA, RADIUS = 2.0, 8  # pixels: of the Gaussian, and where it is cut off
BINS = 256
NOISE = 5.0  # standard deviations of the smoothed noise
FLOOR = 2 / 255  # of full scale


def foreground(image: Tensor) -> Tensor:
    """Return the foreground mask (N, C, S, S) of images (N, C, S, S) in [0, 1], each patch and stain by itself. All False for a
    blank patch, and if S is 8 or less."""
    planes = image.flatten(0, 1)
    if min(planes.shape[1:]) <= RADIUS:
        return torch.zeros_like(image, dtype=torch.bool)
    smoothed = smooth(planes)
    threshold, difference = otsu(smoothed)
    least = (NOISE * _attenuation() * noise(planes)).clamp(min=FLOOR)
    mask = (smoothed > threshold[:, None, None]) & (difference > least)[:, None, None]
    return mask.view(image.shape)


def smooth(planes: Tensor) -> Tensor:
    """Return planes (M, H, W) after a Gaussian filter; H and W above 8. The border mirrors about the outermost pixels."""
    out = functional.pad(planes[:, None], (RADIUS,) * 4, mode="reflect")[:, 0]
    kernel = _kernel()
    # shifted sums, not a convolution: the same bits on every device and for every M, so that no pixel of a mask flips
    for axis in (1, 2):
        size = out.shape[axis] - 2 * RADIUS
        total = out.narrow(axis, RADIUS, size) * kernel[RADIUS]
        for offset in range(1, RADIUS + 1):
            pair = out.narrow(axis, RADIUS - offset, size) + out.narrow(axis, RADIUS + offset, size)
            total += pair.mul_(kernel[RADIUS + offset])
        out = total
    return out


def noise(planes: Tensor) -> Tensor:
    """Return the standard deviation of the white noise in planes (M, H, W), (M,) float64.

    The estimate takes the second difference along both axes (Immerkaer 1996), by its root mean square instead of its mean modulus:
    right for any white noise, sparse photon counts among them. Edges raise it.
    """
    rows = planes[:, 2:] - 2 * planes[:, 1:-1] + planes[:, :-2]
    both = rows[:, :, 2:] - 2 * rows[:, :, 1:-1] + rows[:, :, :-2]
    return both.double().square().mean((1, 2)).sqrt() / 6


def otsu(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Return Otsu's threshold of planes (M, H, W), and the difference of the means above and below it, both (M,) float64.

    256 bins between the least and the greatest value; the threshold is a bin's centre, as skimage.filters.threshold_otsu has it.
    The difference is not positive for a constant plane.
    """
    values = planes.flatten(1).double()
    low, high = (edge[:, None] for edge in values.aminmax(dim=1))
    span = torch.where(high > low, high - low, 1.0)
    index = ((values - low) / span * BINS).long().clamp_(max=BINS - 1)
    counts = values.new_zeros(len(values), BINS).scatter_add_(1, index, torch.ones_like(values))
    centres = low + (torch.arange(BINS, device=values.device) + 0.5) * span / BINS
    sums = counts * centres
    below, above = counts.cumsum(1)[:, :-1], counts.flip(1).cumsum(1).flip(1)[:, 1:]
    mean_below = sums.cumsum(1)[:, :-1] / below.clamp(min=1)
    mean_above = sums.flip(1).cumsum(1).flip(1)[:, 1:] / above.clamp(min=1)
    best = (below * above * (mean_below - mean_above).square()).argmax(1, keepdim=True)
    return centres.gather(1, best)[:, 0], (mean_above - mean_below).gather(1, best)[:, 0]


def _kernel() -> list[float]:
    weights = [math.exp(-(offset**2) / (2 * SIGMA**2)) for offset in range(-RADIUS, RADIUS + 1)]
    return [weight / sum(weights) for weight in weights]


def _attenuation() -> float:
    """Return the share of the standard deviation of white noise that `smooth` leaves."""
    return sum(weight**2 for weight in _kernel())
