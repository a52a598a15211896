"""A patch as pictures: every stain in grey, a colour composite, the signed difference from the original; PNG bytes."""

import io
from dataclasses import dataclass, field
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdvae_ray.config import RunConfig

LOW, HIGH = 0.5, 99.8  # percentiles of the original's patch that become black and white
GAIN = 4  # a difference of a quarter of that range has the full colour
DARKER, SAME, BRIGHTER = (
    (33, 102, 172),
    (245, 245, 242),
    (178, 24, 43),
)  # blue and red, which colour-blind readers tell apart
_STEPS = 32  # colours of a difference to either side of none
_PICTURE_BYTES = 2_500_000  # of all PNGs together, about; decides how much of a patch is shown
_BARS = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # lengths of a scale bar
_BAR_SHARE = 0.4  # of a picture's width, at most
_LEAST_LEVELS = 4  # between black and white: of an empty patch no more than its noise is there to stretch
_LEVELS = 64  # grey levels of a picture: a third of the bytes of 256, and no eye sees it
_COLOURS = {
    "DNA": (0.2, 0.35, 1.0),
    "ER": (0.0, 0.45, 0.15),
    "RNA": (0.0, 0.3, 0.3),
    "AGP": (0.5, 0.2, 0.0),
    "Mito": (0.9, 0.1, 0.3),
    "R": (1.0, 0.0, 0.0),
    "G": (0.0, 1.0, 0.0),
    "B": (0.0, 0.0, 1.0),
}
_OTHER_COLOURS = ((0.9, 0.1, 0.3), (0.0, 0.6, 0.2), (0.2, 0.35, 1.0), (0.5, 0.25, 0.0), (0.0, 0.3, 0.3))

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Pictures:
    """One row of an example. Every picture is a PNG.

    stains       one per stain
    differences  reconstruction less original, per stain; empty for the original
    difference   the mean of these over the stains
    captions     for each stain, the patch's metrics as stored in the run
    damage       mean |difference| per stain, as a share of the original's range; empty for the original
    exact        the reconstruction is the original
    """

    composite: bytes
    stains: list[bytes]
    differences: list[bytes] = field(default_factory=list)
    difference: bytes = b""
    captions: list[dict[str, float]] = field(default_factory=list)
    damage: list[float] = field(default_factory=list)
    how: str = ""
    exact: bool = False


def crop_of(config: RunConfig, examples: int) -> int:
    """Return the side, in pixels, of the square that is shown: the whole patch, or less if the page would grow too large."""
    stains = len(config.image.stains)
    names = [model.name for model in config.autoencoders.values()] + [codec.name for codec in config.codecs.values()]
    sides = sum(name not in ("identity", "lossless") for name in names)  # an exact copy is not shown again
    bytes_per_pixel = 0.7 * stains * (1 + sides) + 1.6 * (1 + sides) + 0.45 * (stains + 1) * sides
    most = (_PICTURE_BYTES / max(1, examples) / bytes_per_pixel) ** 0.5
    return min(config.image.patch, max(64, int(most) // 8 * 8))


def draw(
    config: RunConfig,
    original: Pixels,
    image: Pixels,
    crop: int,
    captions: list[dict[str, float]] | None = None,
    how: str = "",
) -> Pictures:
    """Return the pictures of an image (C, S, S), stretched by the original's percentiles; with differences unless it is the
    original.
    """
    low, spread = _stretch(config, original)
    shown = np.clip((_centre(image, crop) - low) / spread, 0, 1)
    composite, stains = _png(_composite(config, shown)), [_png(plane) for plane in shown]
    if image is original:
        return Pictures(composite, stains)
    change = (_centre(image, crop) - _centre(original, crop)) / spread
    return Pictures(
        composite,
        stains,
        [_difference(plane) for plane in change],
        _difference(change.mean(0)),
        captions or [],
        np.abs(change).mean((1, 2)).tolist(),
        how,
        bool((image == original).all()),
    )


def thumbnail(config: RunConfig, original: Pixels, image: Pixels, size: int) -> bytes:
    """Return a colour composite of an image (C, H, W) as a PNG, stretched by the original's percentiles; means over squares of
    pixels make it no larger than `size`.
    """
    low, spread = _stretch(config, original)
    factor = -(-image.shape[-1] // size)
    height, width = (length // factor for length in image.shape[1:])
    squares = image[:, : height * factor, : width * factor].reshape(len(image), height, factor, width, factor)
    return _png(_composite(config, np.clip((squares.mean((2, 4)) - low) / spread, 0, 1)))


def scale_bar(crop: int, micrometres: float | None) -> tuple[str, float]:
    """Return the words of a scale bar and its length as a share of a picture's width.

    crop: pixels that are shown. micrometres: of a pixel; None: the bar is in pixels.
    """
    width, unit = (crop, "pixels") if micrometres is None else (crop * micrometres, "µm")
    length = max([bar for bar in _BARS if bar <= _BAR_SHARE * width] or [_BARS[0]])
    return f"{length} {unit}", length / width


def _stretch(config: RunConfig, original: Pixels) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return (black, white less black), (C, 1, 1): the percentiles of an original."""
    low, high = (np.percentile(original, q, axis=(1, 2))[:, None, None] for q in (LOW, HIGH))
    return low, np.maximum(high - low, _LEAST_LEVELS / (2**config.image.scaling.bits - 1))


def _centre(image: NDArray[np.float32], crop: int) -> NDArray[np.float32]:
    start = (image.shape[-1] - crop) // 2
    return image[:, start : start + crop, start : start + crop]


def _composite(config: RunConfig, shown: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (S, S, 3) of the stains `shown` (C, S, S) in [0, 1]: every stain's light added in its colour."""
    colours = [_COLOURS.get(name, _OTHER_COLOURS[at % 5]) for at, name in enumerate(config.image.stains)]
    return np.clip(np.einsum("chw,ck->hwk", shown, np.array(colours)), 0, 1)


def _png(values: NDArray[np.float64]) -> bytes:
    """Return values (H, W) or (H, W, 3), in [0, 1], as a PNG."""
    levels = np.round(np.round(values * (_LEVELS - 1)) * (255 / (_LEVELS - 1))).astype(np.uint8)
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(levels), level=9))


def _difference(values: NDArray[np.float64]) -> bytes:
    """Return signed values (H, W) as a PNG of 2 * _STEPS + 1 colours: blue below 0, red above."""
    steps = np.round(np.clip(values * GAIN, -1, 1) * _STEPS).astype(int) + _STEPS
    picture = Image.fromarray(steps.astype(np.uint8), "P")
    picture.putpalette(_palette())
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()


def _palette() -> list[int]:
    towards = np.linspace(0, 1, _STEPS + 1)[:, None]
    darker, brighter = (np.array(SAME) * (1 - towards) + np.array(end) * towards for end in (DARKER, BRIGHTER))
    return np.round(np.concatenate([darker[:0:-1], brighter])).astype(int).ravel().tolist()
