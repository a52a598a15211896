"""Stage between loading and encoding, on CPUs, in runs with codecs: every stain of a field of view is compressed as one image.

A file per patch would cost AVIF 58 %, JPEG XL 39 % and JPEG 27 % more bytes than a file per stain of the field. The models never
wait for a codec: they take its pixels and sizes with the batch. This module knows nothing of Ray.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from sdvae_ray import shelves
from sdvae_ray.config import RunConfig
from sdvae_ray.contracts import Codec
from sdvae_ray.engine.files.load import IMAGE, WIDE, Batch
from sdvae_ray.errors import ConfigError, one_line
from sdvae_ray.images.prepare import tile, untile
from sdvae_ray.run.cost import Cost, Costs, added
from sdvae_ray.schema import ERROR

SECONDS = "seconds_compress"


@dataclass(frozen=True)
class Compressed:
    """A field of view after a codec: pixels (P, C, S, S) of the field's dtype, and the bytes of every stain, sizes (C,) int64."""

    pixels: np.ndarray
    sizes: np.ndarray


def compress(codec: Codec, image: np.ndarray, transpose: bool = False) -> Compressed:
    """Return the stains of a field (P, C, S, S) after compression and decompression, with their sizes. transpose: rows and columns
    of every patch are exchanged before the codec and back after it."""
    field = untile(image.swapaxes(2, 3) if transpose else image)
    pixels, sizes = codec.roundtrip(field[None])
    patches = tile(pixels[0], image.shape[-1])
    return Compressed(patches.swapaxes(2, 3) if transpose else patches, sizes[0])


class Compressor:
    """The codecs of a run, called on a batch of the loader.

    The call adds two columns per codec, which `taken` reads, and `seconds_compress` (n,) float32. A field of view that a codec
    refuses keeps its row, with an `error`. transpose: image.transpose of the run. wide: the codecs that take `image_16`. costs: of
    the codecs so far, both ways.
    """

    def __init__(self, codecs: Mapping[str, Codec], transpose: bool = False, wide: Collection[str] = ()) -> None:
        self.codecs, self.transpose, self.wide = codecs, transpose, wide
        self.costs: Costs = {}

    @classmethod
    def of(cls, config: RunConfig, sides: Collection[str] | None = None) -> Self:
        """Return the stage of a run. sides: the codecs to run; None: all codecs of the run. Raises ConfigError as `load_codecs`
        does.
        """
        codecs = load_codecs(config, sides)
        return cls(codecs, config.image.transpose, [side for side in codecs if config.is_wide(side)])

    def __call__(self, batch: Batch) -> Batch:
        images, errors = batch[IMAGE], np.array(batch[ERROR], object)
        given = {side: batch[WIDE] if side in self.wide else images for side in self.codecs}
        seconds = np.zeros(len(images), np.float32)
        columns = {_pixels(side): np.zeros_like(pixels) for side, pixels in given.items()}
        columns |= {_sizes(side): np.zeros((len(images), images.shape[2]), np.int64) for side in self.codecs}
        for row in range(len(images)):
            start = time.perf_counter()
            for side, codec in self.codecs.items():
                if errors[row]:
                    break
                core_start = time.thread_time()
                try:
                    compressed = compress(codec, given[side][row], self.transpose)
                except (ValueError, RuntimeError, OSError) as error:  # errors of imagecodecs are RuntimeErrors
                    errors[row] = f"codecs.{side}: {one_line(error)}"
                else:
                    columns[_pixels(side)][row], columns[_sizes(side)][row] = compressed.pixels, compressed.sizes
                    cost = Cost(1, time.thread_time() - core_start)
                    self.costs = added([self.costs, {f"compress {side}": cost}])
            seconds[row] = time.perf_counter() - start
        return {**batch, **columns, ERROR: errors, SECONDS: seconds}


def has_wide(config: RunConfig) -> bool:
    """Return whether some codec takes the field at 16 bits beside the originals of 8."""
    return any(config.is_wide(side) for side in config.codecs)


def load_codecs(config: RunConfig, sides: Collection[str] | None = None) -> dict[str, Codec]:
    """Return some codecs of a run by name; sides None: all. Raises ConfigError for an option that a codec refuses."""
    codecs: dict[str, Codec] = {}
    for name in config.codecs if sides is None else sides:
        settings = config.codecs[name]
        try:
            codecs[name] = shelves.find("codecs", settings.name).load(**settings.options)
        except ConfigError as error:
            raise ConfigError(f"codecs.{name}: {error}") from error
    return codecs


def taken(batch: Mapping[str, np.ndarray], codecs: Collection[str], row: int) -> dict[str, Compressed]:
    """Return codec -> the compressed field of one row of a batch."""
    return {side: Compressed(batch[_pixels(side)][row], batch[_sizes(side)][row]) for side in codecs}


def without_pixels(batch: Batch) -> Batch:
    """Return the batch without the image columns of the loader and of the codecs."""
    pixels = (IMAGE, WIDE)
    return {name: values for name, values in batch.items() if name not in pixels and not name.startswith(_PREFIX)}


_PREFIX = "compressed "  # no column of a table begins so


def _pixels(side: str) -> str:
    return f"{_PREFIX}pixels of {side}"


def _sizes(side: str) -> str:
    return f"{_PREFIX}bytes of {side}"
