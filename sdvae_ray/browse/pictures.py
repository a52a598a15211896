"""Pictures of fields on demand: the original from its files, reconstructions from the stored latents; the last ones are kept."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.engine.columns import stores_latents
from sdvae_ray.errors import DataError, SdvaeRayError
from sdvae_ray.queries.decode import Decoder
from sdvae_ray.report.pictures.draw import Pixels, thumbnail
from sdvae_ray.report.pictures.pixels import load_pixels, on_unit, whole_field
from sdvae_ray.run.run import Run

SIZE = 256  # pixels of a picture's side, at most
_KEPT = 512  # pictures, of some 100 kB each

Picture = bytes | str  # a PNG, or the reason why there is none


class FieldPictures:
    """Pictures of the fields of one run. Not for several threads at once.

    sides: the autoencoders whose reconstructions can be decoded, since the run stores their latents.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.sides = [name for name in run.config.autoencoders if stores_latents(run.config, name)]
        self._decoders: dict[str, Decoder] = {}
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()  # the oldest first

    def of(self, fov_id: str, sides: Sequence[str]) -> dict[str, Picture]:
        """Return side -> a PNG of the whole field, a colour composite stretched by the original's percentiles, or by its own where
        the original cannot be read; or the reason why there is none."""
        original: Pixels | str | None = None
        pictures: dict[str, Picture] = {}
        for side in sides:
            if (kept := self._kept.get((fov_id, side))) is not None:
                pictures[side] = kept
                continue
            original = self._stains(fov_id, IMAGE_SIDE) if original is None else original
            image = original if side == IMAGE_SIDE else self._stains(fov_id, side)
            if isinstance(image, str):
                pictures[side] = image
            else:
                by = image if isinstance(original, str) else original
                pictures[side] = self._kept[fov_id, side] = thumbnail(self.run.config, by, image, SIZE)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return pictures

    def _stains(self, fov_id: str, side: str) -> Pixels | str:
        """Return (C, H, W) of a field on [0, 1], or the reason why it cannot be had now."""
        try:
            stains = self._original(fov_id) if side == IMAGE_SIDE else self._decoded(fov_id, side)
        except (SdvaeRayError, OSError) as error:
            return str(error)
        return on_unit(self.run.config, stains)

    def _original(self, fov_id: str) -> np.ndarray:
        pixels, notes = load_pixels(self.run, [fov_id])
        if fov_id not in pixels:
            raise DataError(notes[0] if notes else f"{fov_id} has no pixels")
        return whole_field(self.run.config, pixels[fov_id])

    def _decoded(self, fov_id: str, side: str) -> np.ndarray:
        if side not in self._decoders:
            self._decoders[side] = Decoder(self.run, side)
        decoder = self._decoders[side]
        return decoder.stains(decoder.row(fov_id))[0]
