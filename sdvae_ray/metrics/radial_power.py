"""Power of the reconstruction over that of the original, per stain and octave of wavelength: 1 kept, below lost, above invented.

Power spectra of the patch less its mean under a Hann window, averaged over the ring of 2-D frequencies whose wavelength lies in the
band (its longer end excluded). The band of 2-4 px is the finest detail, mostly noise. Power counts wherever it sits: noise in
place of texture is power kept.
"""

from itertools import pairwise

import torch
from torch import Tensor

from sdvae_ray.contracts import Reconstruction

UNIT = ""
HIGHER_IS_BETTER = None  # best at 1
FORMULA = "power of y over power of x in rings of wavelength 2-4, 4-8, ... 32-64 pixels, under a Hann window"
RANGE = "[0, inf), best at 1"
REFERENCE = "our own"
EDGES = (2, 4, 8, 16, 32, 64)  # pixels
BANDS = tuple(f"{short}-{long} px" for short, long in pairwise(EDGES))
# share of the patch's mean square: above the rounding of float32 pixels, below one grey level of 255 in one pixel
_NOTHING = 1e-12


def compute(reconstruction: Reconstruction) -> Tensor:
    """Return the ratio of power in each band, (N, C, 5) float32 >= 0, the last axis by BANDS.

    NaN if the original has no power in the band, or if the patch is smaller than two of the band's longest wavelengths: there the
    window mixes the band with the patch's mean and slope.
    """
    original, nothing = reconstruction.of_image(_original)
    return (_power(reconstruction.recon.double()) / original).masked_fill(nothing, torch.nan).float()


def _original(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the power in each band, (N, C, bands) float64, and a mask of the bands without power; planes: (N, C, H, W)."""
    image = planes.double()
    power = _power(image)
    return power, power <= _NOTHING * image.square().mean((2, 3)).unsqueeze(2)


def _power(planes: Tensor) -> Tensor:
    """Return the variance that each band adds, under the window, (N, C, bands); planes: (N, C, H, W) float64."""
    height, width = planes.shape[2:]
    rows, columns = (torch.hann_window(size, dtype=planes.dtype, device=planes.device) for size in (height, width))
    window = rows[:, None] * columns
    spectrum = torch.fft.rfft2((planes - planes.mean((2, 3), keepdim=True)) * window).abs().square()
    rings = _rings(height, width, planes.device)
    return torch.einsum("nchw,bhw->ncb", spectrum, rings) / (height * width * window.square().sum())


def _rings(height: int, width: int, device: torch.device) -> Tensor:
    """Return how often each frequency of rfft2 counts, (bands, H, W // 2 + 1) float64; NaN for a band too coarse for the patch."""
    fy = torch.fft.fftfreq(height, dtype=torch.float64, device=device)[:, None]
    fx = torch.fft.rfftfreq(width, dtype=torch.float64, device=device)
    frequency = torch.hypot(fy, fx)
    # rfft2 leaves out the mirror image of every column but those of 0 and of the Nyquist frequency
    times = torch.where((fx == 0) | (fx == 0.5), 1.0, 2.0).double()
    rings = []
    for short, long in pairwise(EDGES):
        ring = times * ((frequency > 1 / long) & (frequency <= 1 / short))
        rings.append(ring if min(height, width) >= 2 * long else torch.full_like(ring, torch.nan))
    return torch.stack(rings)
