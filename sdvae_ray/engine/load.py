"""Stage one, on CPUs: takes rows of the manifest, gives patches of scaled integers. It knows nothing of Ray or of plates.

A FOV that cannot be read keeps its row: `error` gives the reason and its pixels are zeros, so that every block has one shape.
"""

import functools
import json
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from sdvae_ray.config import StorageConfig
from sdvae_ray.errors import StorageError, one_line
from sdvae_ray.images.decode import decode_colours, decode_illumination, decode_planes
from sdvae_ray.images.prepare import centre_crop, check_same_size, correct, resize, scale, tile
from sdvae_ray.schema import (
    COLOUR,
    ERROR,
    FOV_ID,
    METADATA,
    PIXELS,
    ROW,
    channel_column,
    divisor_column,
    illum_column,
    offset_column,
    uri_column,
)
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.storage import Storage

IMAGE = "image"
QC: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # column of fovs/ -> (C, crop, crop) scaled integers to (C,)
    "qc_mean": lambda field: field.mean((1, 2)) / np.iinfo(field.dtype).max,
    "qc_saturated": lambda field: (field == np.iinfo(field.dtype).max).mean((1, 2)),
    "qc_zero": lambda field: (field == 0).mean((1, 2)),
}
_READERS = 8  # threads that fetch the objects of one batch
_FUNCTIONS_KEPT = 16  # illumination functions held per process: three plates of five stains

Batch = dict[str, np.ndarray]


class Loader:
    """Callable on a batch of manifest rows: gives fov_id of the rows and these columns:

    row_json      text, every Metadata_* of the row as JSON
    image         (n, P, C, S, S) uint8 or uint16, zeros where `error` is set
    error         text, "" where there is none
    qc_mean       (n, C) float32, mean of the scaled pixels / maximum, in [0, 1]; NaN where `error` is set
    qc_saturated  (n, C) float32, share of pixels at the maximum, in [0, 1]; NaN where `error` is set
    qc_zero       (n, C) float32, share of pixels at zero, in [0, 1]; NaN where `error` is set
    seconds_load  (n,) float32
    load_node     text
    """

    def __init__(self, image: ImageConfig, storage: StorageConfig) -> None:
        self.image = image
        self.storage = Storage(storage)
        self.illumination = functools.lru_cache(maxsize=_FUNCTIONS_KEPT)(self._illumination)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> Batch:
        count = len(batch[FOV_ID])
        stains, patch = self.image.stains, self.image.patch
        dtype = np.uint8 if self.image.scaling.bits == 8 else np.uint16
        metadata = [name for name in batch if name.startswith(METADATA)]
        rows = [json.dumps({name: batch[name][row] for name in metadata}) for row in range(count)]
        out: Batch = {FOV_ID: np.asarray(batch[FOV_ID], object), ROW: np.array(rows, object)}
        pixels = np.zeros((count, self.image.patches, len(stains), patch, patch), dtype)
        qc = {name: np.full((count, len(stains)), np.nan, np.float32) for name in QC}
        errors = np.full(count, "", object)
        seconds = np.zeros(count, np.float32)
        with ThreadPoolExecutor(_READERS) as readers:
            fetches = [self._fetch(batch, row, readers) for row in range(count)]
            for row, fetched in enumerate(fetches):
                start = time.perf_counter()
                try:
                    field = self._field(batch, row, fetched)
                except (OSError, ValueError, StorageError) as error:
                    errors[row] = one_line(error, None)
                else:
                    tiles = tile(field, patch)
                    pixels[row] = tiles.swapaxes(2, 3) if self.image.transpose else tiles
                    for name, measure in QC.items():
                        qc[name][row] = measure(field)
                seconds[row] = time.perf_counter() - start
        node = np.full(count, socket.gethostname(), object)
        return {**out, IMAGE: pixels, ERROR: errors, **qc, "seconds_load": seconds, "load_node": node}

    def probe(self, batch: Mapping[str, np.ndarray]) -> None:
        """Loads the first row and raises its error, if any: CropError, StorageError, OSError or ValueError."""
        with ThreadPoolExecutor(_READERS) as readers:
            self._field(batch, 0, self._fetch(batch, 0, readers))

    def _fetch(
        self, batch: Mapping[str, np.ndarray], row: int, readers: ThreadPoolExecutor
    ) -> dict[str, Future[bytes]]:
        """URI -> bytes, for every URI of a row, read once for all its stains; the bytes in the row where it carries them."""
        carried = batch[PIXELS][row] if PIXELS in batch else None
        uris = dict.fromkeys(str(batch[uri_column(stain)][row]) for stain in self.image.stains)
        if isinstance(carried, bytes):
            return {uri: readers.submit(bytes, carried) for uri in uris}
        return {uri: readers.submit(self.storage.read_bytes, uri) for uri in uris}

    def _field(self, batch: Mapping[str, np.ndarray], row: int, fetched: Mapping[str, Future[bytes]]) -> np.ndarray:
        """The scaled pixels of one FOV: (C, crop, crop) uint8 or uint16."""
        decoded = functools.cache(lambda uri: self._decoded(batch, row, uri, fetched[uri].result()))
        return np.stack([self._plane(batch, row, stain, decoded) for stain in self.image.stains])

    def _decoded(self, batch: Mapping[str, np.ndarray], row: int, uri: str, data: bytes) -> dict[int, np.ndarray]:
        """Channel -> resized plane, for the channels of one file that the stains of the row use."""
        sharing = [stain for stain in self.image.stains if str(batch[uri_column(stain)][row]) == uri]
        channels = list(dict.fromkeys(_channel(batch, row, stain) for stain in sharing))
        colour = COLOUR in batch and batch[COLOUR][row] in (True,)  # null and NaN are not
        planes = (decode_colours if colour else decode_planes)(data, channels, uri)
        if (size := self.image.resize) is not None:
            planes = [resize(plane, size) for plane in planes]
        return dict(zip(channels, planes, strict=True))

    def _plane(
        self,
        batch: Mapping[str, np.ndarray],
        row: int,
        stain: str,
        decoded: Callable[[str], Mapping[int, np.ndarray]],
    ) -> np.ndarray:
        """The pixels of one stain of one FOV, cropped, corrected and scaled: (crop, crop)."""
        where = str(batch[uri_column(stain)][row])
        plane = decoded(where)[_channel(batch, row, stain)]
        uri = batch[illum_column(stain)][row] if illum_column(stain) in batch else None
        illumination = self.illumination(str(uri)) if isinstance(uri, str) and uri else None
        if illumination is not None:
            check_same_size(plane, illumination, where, str(uri))
            illumination = centre_crop(illumination, self.image.crop, where)
        corrected = correct(centre_crop(plane, self.image.crop, where), illumination)
        offset, divisor = self._scaling(batch, row, stain)
        return scale(corrected, offset, divisor, self.image.scaling.bits)

    def _scaling(self, batch: Mapping[str, np.ndarray], row: int, stain: str) -> tuple[float, float]:
        if self.image.scaling.method == "divide":
            return 0.0, self.image.scaling.divisor
        offset, divisor = batch[offset_column(stain)][row], batch[divisor_column(stain)][row]
        if offset is None or divisor is None or not float(divisor) > 0:
            raise ValueError(
                f"{stain} has the scaling offset {offset} and divisor {divisor}; both must be numbers, and the divisor above 0"
            )
        return float(offset), float(divisor)

    def _illumination(self, uri: str) -> np.ndarray:
        return decode_illumination(self.storage.read_bytes(uri), uri)


def _channel(batch: Mapping[str, np.ndarray], row: int, stain: str) -> int:
    channels = batch.get(channel_column(stain))
    return 0 if channels is None or channels[row] is None else int(channels[row])
