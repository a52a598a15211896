"""Places synthetic cells and gives them a shape: places, outlines, and the cell of every pixel.

Lengths are pixels of 0.6 micrometres; the numbers imitate U2OS cells at 20x (nuclei 25 to 40 px across). `texture` is the
band-passed noise with which cells and stains are drawn.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sdvae_ray.sources.synthetic.phenotypes import Look

Array = NDArray[np.float32]

MARGIN = 60  # pixels beyond the border in which cells are placed as well
ANGLES = 256  # entries of an outline's lookup table


@dataclass(frozen=True)
class Cells:
    """One row per cell. Lengths in pixels, angles in radians."""

    y: Array
    x: Array
    angle: Array  # of the long axis
    outline: Array  # (cells, ANGLES) radius of the body
    nucleus: Array  # (cells, ANGLES) radius of the nucleus
    reach: Array  # how far the thick part of the body extends beyond the nucleus
    golgi: Array  # (cells, 2) offset of the Golgi from the centre, (y, x)
    level: Array  # (cells, 5) brightness per stain, around 1
    round_up: NDArray[np.bool_]  # dividing or dying: small, round and bright


@dataclass(frozen=True)
class Geometry:
    """The cell of every pixel of a field, and the pixel's place in that cell; all (size, size)."""

    cell: NDArray[np.intp]  # index of the cell; without meaning if cover is 0
    dy: Array  # pixels from the cell's centre
    dx: Array
    cover: Array  # 0..1, body of any cell
    nucleus: Array  # 0..1, nucleus of any cell
    edge: Array  # pixels from the border of the body, towards its inside
    outside: Array  # pixels from the border of the nucleus, towards its outside, 0 within


@lru_cache(maxsize=64)
def _band(size: int, wavelength: float, octaves: float) -> Array:
    """Return the gain of a band-pass filter, (size, size // 2 + 1), Gaussian in log frequency, for noise of variance 1."""
    fy, fx = fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None]
    f = np.hypot(fy, fx)
    f[0, 0] = 1e-9
    gain = np.exp(-0.5 * (np.log2(f * wavelength) / octaves) ** 2)
    gain[0, 0] = 0
    power = np.full(gain.shape, 2.0)
    power[:, 0] = 1.0
    if size % 2 == 0:
        power[:, -1] = 1.0
    return np.asarray(gain * size / np.sqrt((power * gain**2).sum()), np.float32)


def texture(rng: np.random.Generator, size: int, wavelength: float, octaves: float = 0.4) -> Array:
    """Return Gaussian noise (size, size) of mean 0 and variance 1 around a wavelength in pixels."""
    white = rng.standard_normal((size, size), dtype=np.float32)
    return np.asarray(fft.irfft2(fft.rfft2(white) * _band(size, wavelength, octaves), s=(size, size)), np.float32)


def _outlines(rng: np.random.Generator, count: int, orders: range, amplitude: float) -> Array:
    """Return random closed curves (count, ANGLES) around radius 1: harmonics whose amplitude falls with their order."""
    theta = np.linspace(-np.pi, np.pi, ANGLES, endpoint=False)
    curve = np.ones((count, ANGLES))
    for order in orders:
        phase, size = rng.uniform(-np.pi, np.pi, (count, 1)), rng.normal(0, amplitude / order, (count, 1))
        curve += size * np.cos(order * theta + phase)
    return curve.astype(np.float32)


def _ellipse(angle: Array, aspect: Array) -> Array:
    """Return the radius of ellipses of area pi, (cells, ANGLES)."""
    theta = np.linspace(-np.pi, np.pi, ANGLES, endpoint=False)[None] - angle[:, None]
    a = np.sqrt(aspect)[:, None]
    return np.asarray(1.0 / np.hypot(np.cos(theta) / a, np.sin(theta) * a), np.float32)


def place_cells(rng: np.random.Generator, size: int, look: Look, crowding: float) -> Cells:
    """Return cells in and around a field of `size` pixels: clustered, but never with overlapping nuclei."""
    extent = size + 2 * MARGIN  # pixels
    wanted = int(rng.poisson(1.7e-4 * extent * extent * look.density * crowding))
    favour = 1 / (1 + np.exp(-2.0 * texture(rng, 64, 24.0)))  # chance of a cell, on a coarse grid over the area
    spots: list[tuple[float, float]] = []
    for y, x, chance in rng.uniform(0, 1, (wanted * 12, 3)):
        here = (y * extent - MARGIN, x * extent - MARGIN)
        far = all((here[0] - a) ** 2 + (here[1] - b) ** 2 > 34.0**2 for a, b in spots)
        if len(spots) < wanted and chance < favour[int(y * 64), int(x * 64)] and far:
            spots.append(here)
    n = len(spots)
    centre = np.array(spots, np.float32).reshape(n, 2)
    round_up = rng.uniform(0, 1, n) < 0.05
    angle = rng.uniform(-np.pi, np.pi, n).astype(np.float32)
    body = _outlines(rng, n, range(2, 6), 0.35) * _ellipse(angle, rng.uniform(1.0, 2.4, n).astype(np.float32))
    theta = np.linspace(-np.pi, np.pi, ANGLES, endpoint=False)[None]
    for _ in range(4):  # protrusions: narrow bumps of the outline
        at, wide = rng.uniform(-np.pi, np.pi, (n, 1)), rng.uniform(0.1, 0.3, (n, 1))
        away = np.abs((theta - at + np.pi) % (2 * np.pi) - np.pi)
        body = body + np.maximum(rng.normal(0.2, 0.5, (n, 1)), 0) * np.exp(-0.5 * (away / wide) ** 2)
    radius = 38.0 * look.spread * np.exp(rng.normal(0, 0.16, n))
    core = 14.5 * look.nucleus * np.exp(rng.normal(0, 0.09, n))
    nucleus = _outlines(rng, n, range(2, 4), 0.05) * _ellipse(angle, rng.uniform(1.05, 1.7, n).astype(np.float32))
    body = np.where(round_up[:, None], 18.0, np.maximum(body, 0.45) * radius[:, None])
    nucleus = nucleus * np.where(round_up, 9.0, core)[:, None]
    towards = angle + rng.normal(0, 0.5, n) + np.pi * rng.integers(0, 2, n)
    level = np.exp(rng.normal(0, 0.16, (n, 1)) + rng.normal(0, 0.1, (n, 5))) * np.where(round_up, 1.7, 1.0)[:, None]
    return Cells(
        y=centre[:, 0],
        x=centre[:, 1],
        angle=angle,
        outline=np.maximum(body, nucleus + 4).astype(np.float32),
        nucleus=nucleus.astype(np.float32),
        reach=rng.uniform(11, 20, n).astype(np.float32),
        golgi=(np.stack([np.sin(towards), np.cos(towards)], 1) * (core * 1.15)[:, None]).astype(np.float32),
        level=level.astype(np.float32),
        round_up=round_up,
    )


def locate(rng: np.random.Generator, size: int, cells: Cells) -> Geometry:
    """Return the cell of every pixel: of two bodies that overlap, a pixel goes to the relatively nearer one."""
    grid = np.arange(size, dtype=np.float32)
    warp_y = grid[:, None] + 2.2 * texture(rng, size, 40.0) + 0.7 * texture(rng, size, 14.0)
    warp_x = grid[None] + 2.2 * texture(rng, size, 40.0) + 0.7 * texture(rng, size, 14.0)
    first = np.full((size, size), 9.0, np.float32)  # distance from the centre over the radius of the body
    second = first.copy()
    radius = np.ones((size, size), np.float32)
    cell = np.zeros((size, size), np.intp)
    core = np.full((size, size), -99.0, np.float32)
    for i in range(len(cells.y)):
        reach = float(cells.outline[i].max()) * 1.3 + 12
        y0, y1 = (int(np.clip(v, 0, size)) for v in (cells.y[i] - reach, cells.y[i] + reach))
        x0, x1 = (int(np.clip(v, 0, size)) for v in (cells.x[i] - reach, cells.x[i] + reach))
        if y0 >= y1 or x0 >= x1:
            continue
        here = np.s_[y0:y1, x0:x1]
        dy, dx = warp_y[here] - cells.y[i], warp_x[here] - cells.x[i]
        spot = ((np.arctan2(dy, dx) + np.pi) * (ANGLES / (2 * np.pi))).astype(np.intp) % ANGLES
        far = np.hypot(dy, dx)
        ring = cells.outline[i][spot]
        ratio = far / ring
        true_y, true_x = grid[y0:y1, None] - cells.y[i], grid[None, x0:x1] - cells.x[i]
        spot = ((np.arctan2(true_y, true_x) + np.pi) * (ANGLES / (2 * np.pi))).astype(np.intp) % ANGLES
        inner = cells.nucleus[i][spot] - np.hypot(true_y, true_x)
        closer = np.where(
            np.maximum(inner, core[here]) > -1, inner > core[here], ratio < first[here]
        )  # nuclei stay whole
        second[here] = np.where(closer, first[here], np.minimum(second[here], ratio))
        first[here] = np.where(closer, ratio, first[here])
        radius[here] = np.where(closer, ring, radius[here])
        cell[here] = np.where(closer, i, cell[here])
        core[here] = np.where(closer, inner, core[here])
    edge = np.minimum(1 - first, np.maximum(second - first, 0) * 0.5 + 0.01) * radius
    cy, cx = np.append(cells.y, np.float32(0)), np.append(cells.x, np.float32(0))
    return Geometry(
        cell=cell,
        dy=(grid[:, None] - cy[cell]).astype(np.float32),
        dx=(grid[None] - cx[cell]).astype(np.float32),
        cover=np.clip((1 - first) * radius * 0.7 + 0.5, 0, 1),
        nucleus=np.clip(core + 0.5, 0, 1),
        edge=np.maximum(edge, 0),
        outside=np.maximum(-core, 0),
    )
