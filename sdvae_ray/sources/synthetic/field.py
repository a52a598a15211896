"""Draws one synthetic Cell Painting field: five stains of the same cells, as a camera would have counted them.

Numpy and scipy only; no files are read or written. A field is a pure function of its generator, which callers key by
(seed, plate, well, site), so any field can be drawn alone, in any order, in any process.

The order of work follows the sample: place cells and grow their outlines until they touch (`anatomy.py`), draw every stain inside
the outlines (`specimen`), then blur, light, count photons and digitise (`microscope.py`).
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sdvae_ray.sources.synthetic.anatomy import ANGLES, Cells, Geometry, locate, place_cells, texture
from sdvae_ray.sources.synthetic.microscope import BatchEffect, expose
from sdvae_ray.sources.synthetic.phenotypes import Look, look_of

Array = NDArray[np.float32]


def _mitochondria(rng: np.random.Generator, size: int, look: Look, thick: Array) -> Array:
    """Return filaments along the zero lines of band-passed noise; fragmentation trades them for dots of equal total light."""
    noise = texture(rng, size, 9.5, 0.5)
    gy, gx = np.gradient(noise)
    away = np.abs(noise) / (np.hypot(gy, gx) + 0.05)  # pixels from the nearest filament
    gate = np.clip(0.45 + 0.75 * texture(rng, size, 12.0, 0.7), 0, 1.6)  # filaments end and thicken
    lines = np.exp(-0.5 * (away / 0.85) ** 2) * gate
    dots = np.clip(texture(rng, size, 6.5, 0.3) - 0.8, 0, 1.0)
    dots *= lines.mean() / max(float(dots.mean()), 1e-6)
    shape = (1 - look.fragmentation) * lines + look.fragmentation * dots
    return np.asarray(shape * thick * look.mito, np.float32)


def _spots(rng: np.random.Generator, size: int, at: Array, sigma: tuple[float, float], value: Array) -> Array:
    """Return the sum of round spots, (size, size), centred on `at` (spots, 2), of brightness `value`;
    sigma is drawn from a range.
    """
    out = np.zeros((size, size), np.float32)
    for (y, x), v in zip(at, value, strict=True):
        s, r = rng.uniform(*sigma), 7
        y0, x0 = round(float(y)), round(float(x))
        if -r < y0 < size + r and -r < x0 < size + r:
            ys, xs = np.arange(max(y0 - r, 0), min(y0 + r + 1, size)), np.arange(max(x0 - r, 0), min(x0 + r + 1, size))
            bump = np.exp(-0.5 * (((ys - y) / s) ** 2)[:, None] - 0.5 * (((xs - x) / s) ** 2)[None])
            out[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] += (v * np.minimum(1.5 * bump, 1)).astype(np.float32)
    return out


def _nucleoli(rng: np.random.Generator, size: int, cells: Cells) -> Array:
    """Return three to seven bright bodies inside every nucleus, about 5 px across."""
    counts = rng.integers(3, 8, len(cells.y))
    owner = np.repeat(np.arange(len(cells.y)), counts)
    theta, far = rng.uniform(-np.pi, np.pi, len(owner)), np.sqrt(rng.uniform(0, 0.45, len(owner)))
    radius = cells.nucleus[owner, ((theta + np.pi) * ANGLES / (2 * np.pi)).astype(int) % ANGLES] * far
    at = np.stack([cells.y[owner] + radius * np.sin(theta), cells.x[owner] + radius * np.cos(theta)], 1)
    return _spots(rng, size, at.astype(np.float32), (1.3, 2.3), rng.uniform(0.7, 1.2, len(owner)).astype(np.float32))


def _golgi(rng: np.random.Generator, size: int, cells: Cells, geometry: Geometry, look: Look) -> Array:
    """Return bright grains in one cluster beside the nucleus, or scattered over the whole body."""
    centre = np.append(cells.golgi, np.zeros((1, 2), np.float32), 0)[geometry.cell]
    away = np.hypot(geometry.dy - centre[..., 0], geometry.dx - centre[..., 1])
    cluster = np.exp(-0.5 * (away / 6.5) ** 2)
    scattered = 0.5 * np.exp(-geometry.outside / 22)
    place = (1 - look.golgi_spread) * cluster + look.golgi_spread * scattered
    return np.asarray(place * np.clip(0.35 + 0.8 * texture(rng, size, 6.0), 0, 2.5), np.float32)


def _fibres(rng: np.random.Generator, cells: Cells, geometry: Geometry) -> Array:
    """Return stress fibres: stripes along the long axis of each cell, 3 to 5 px apart, from one row of noise per cell."""
    length = 256
    rows = np.stack(
        [ndimage.gaussian_filter1d(rng.standard_normal(length), 1.1, mode="wrap") for _ in cells.y]
        or [np.zeros(length)]
    )
    angle = np.append(cells.angle, np.float32(0))[geometry.cell]
    across = geometry.dy * np.cos(angle) - geometry.dx * np.sin(angle) + length / 2
    low = np.floor(across).astype(np.intp)
    part = (across - low).astype(np.float32)
    cell = np.minimum(geometry.cell, len(rows) - 1)
    value = rows[cell, low % length] * (1 - part) + rows[cell, (low + 1) % length] * part
    return np.asarray(np.maximum(value, 0) * 1.6, np.float32)


def specimen(rng: np.random.Generator, size: int, look: Look, crowding: float = 1.0) -> Array:
    """Return the fluorescence before the microscope, (5, size, size), 0 to about 1, in the order of `STAINS`."""
    cells = place_cells(rng, size, look, crowding)
    g = locate(rng, size, cells)
    reach = np.append(cells.reach, np.float32(15))[g.cell]
    level = np.append(cells.level, np.ones((1, 5), np.float32), 0)[g.cell]
    round_up = np.append(cells.round_up, False)[g.cell]
    thick = np.where(round_up, 1.0, np.exp(-g.outside / reach)) * np.clip(0.35 + g.edge / 8, 0, 1) * g.cover
    grain, coarse, cloud = texture(rng, size, 5.0), texture(rng, size, 9.0), texture(rng, size, 26.0)
    body = thick * (1 + 0.18 * cloud)
    nucleoli = _nucleoli(rng, size, cells) * g.nucleus * ~round_up
    cytoplasm = g.cover * (1 - g.nucleus)
    holes = look.vacuoles * 0.75 / (1 + np.exp(-5 * (texture(rng, size, 10.0, 0.3) - 0.9))) * cytoplasm

    mito = _mitochondria(
        rng, size, look, np.exp(-g.outside / (0.75 * reach)) * (1 - g.nucleus) * np.clip(g.edge / 4, 0, 1)
    )
    mito = 0.85 * mito + g.cover * (0.03 + 0.04 * body) + 0.05 * g.nucleus + 0.03 * nucleoli + 0.25 * round_up * g.cover
    er = look.er * (g.cover * 0.05 + 0.36 * body * (1 + 0.11 * grain + 0.10 * coarse)) * (1 - holes)
    er = er * (1 - 0.12 * g.nucleus) + 0.13 * nucleoli * look.nucleoli
    rna = g.cover * 0.045 + 0.30 * body * (1 + 0.08 * grain + 0.06 * coarse) * (1 - 0.4 * holes)
    rna = rna * (1 - 0.1 * g.nucleus) + 0.42 * nucleoli * look.nucleoli
    rim = np.exp(-0.5 * ((g.edge - 1.5) / 1.2) ** 2) * g.cover * np.clip(0.6 + 0.5 * cloud, 0.1, 2)
    fibres = _fibres(rng, cells, g) * cytoplasm * np.clip(0.5 + 0.5 * cloud, 0, 1.5)
    agp = g.cover * (0.12 + 0.02 * grain) + 0.13 * body + 0.09 * look.edge * rim + 0.07 * look.fibres * fibres
    agp = agp + 0.55 * _golgi(rng, size, cells, g, look) * cytoplasm * ~round_up
    chromatin = 1 + look.chromatin * (0.11 * grain + 0.07 * coarse)
    dna = g.nucleus * (0.42 * look.dna) * chromatin * (1 - 0.16 * nucleoli) * np.where(round_up, 1.2, 1.0)
    stack = np.stack([mito, agp, rna, er, dna]) * np.moveaxis(level, -1, 0)
    return np.asarray(np.maximum(stack, 0), np.float32)


def render_field(
    rng: np.random.Generator,
    size: int,
    phenotype: str = "none",
    strength: float = 0.0,
    batch: BatchEffect | None = None,
) -> NDArray[np.uint16]:
    """Return the camera counts of one field, (5, size, size) uint16, stains in the order of `STAINS`.

    strength: in [0, 1], from untreated to the full phenotype. Raises KeyError for an unknown phenotype.
    """
    batch = batch or BatchEffect()
    return expose(rng, specimen(rng, size, look_of(phenotype, strength), batch.density), batch)
