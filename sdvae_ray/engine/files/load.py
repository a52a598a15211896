"""Stage one, on CPUs: takes rows of the manifest, gives patches of scaled integers. It knows nothing of Ray or of plates.

A FOV that cannot be read keeps its row: `error` gives the reason and its pixels are zeros, so that every block has one shape.
With a patience, storage that is away is waited for, and is no error of a row.
"""

import json
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdvae_ray.config import StorageConfig
from sdvae_ray.engine.files.illumination import IlluminationReader
from sdvae_ray.engine.files.patience import Patience, PatientStorage
from sdvae_ray.engine.files.quality import QC, RAW_QC, empty_qc
from sdvae_ray.errors import RunError, StorageAwayError, StorageDeniedError, StorageError, one_line
from sdvae_ray.images.decode import decode_colours, decode_planes
from sdvae_ray.images.prepare import centre_crop, check_same_kind, check_same_size, correct, resample, resize, tile
from sdvae_ray.images.scaling import scale_plane
from sdvae_ray.images.stored_crop import whole_planes
from sdvae_ray.run.traffic import Meter, Traffic
from sdvae_ray.schema import (
    ABSENT,
    AWAY,
    COLOUR,
    DAMAGED,
    DENIED,
    ERROR,
    ERROR_CLASS,
    FOV_ID,
    METADATA,
    PIXELS,
    ROW,
    SHARD,
    divisor_column,
    offset_column,
)
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.settings.policies import Policy
from sdvae_ray.sources.manifest.row import Row, channel_of, function_of, rows_of, stains_by_file
from sdvae_ray.sources.shards import ShardReader
from sdvae_ray.storage import Storage

IMAGE, WIDE = "image", "image_16"
_READERS = 8  # requests in flight of one process
_FUNCTIONS_KEPT = 16  # illumination functions held per process: three plates of five stains

Batch = dict[str, np.ndarray]
Planes = dict[str, np.ndarray]  # column of pixels -> the plane of one stain, (1, crop, crop) uint8 or uint16


@dataclass(frozen=True)
class Fetched:
    """The requests for the files of one row: URI -> bytes of its files, URI -> its illumination functions
    (rows may share them).
    """

    files: Mapping[str, Future[bytes]]
    functions: Mapping[str, Future[np.ndarray]]

    def cancel(self) -> None:
        """Cancel the requests that have not begun."""
        for file in self.files.values():
            file.cancel()


class Loader:
    """Loads images, called on a batch of manifest rows of one crop. It returns fov_id of the rows and these columns:

    row_json      text, every Metadata_* of the row as JSON
    image         (n, P, C, S, S) uint8 or uint16, zeros for a row with an `error`
    image_16      the same scaled to uint16, if `wide`
    error         text, "" for a usable row
    error_class   absent, damaged or denied, and away without a patience; "" for a usable row
    qc_mean       (n, C) float32, mean of the scaled pixels / maximum, in [0, 1]; NaN for a row with an `error`
    qc_saturated  (n, C) float32, share of pixels at the maximum, in [0, 1]; NaN for a row with an `error`
    qc_zero       (n, C) float32, share of pixels at zero, in [0, 1]; NaN for a row with an `error`
    qc_raw_max    (n, C) float32, largest pixel of the crop as the file has it; NaN for a row with an `error`
    qc_raw_crc32  (n, C) uint32, checksum of the crop as the file has it: equal for equal pictures; 0 for a row with an `error`
    seconds_load  (n,) float32
    load_node     text

    functions: the folder of IlluminationReader, or None. patience: waits for storage, and at its end raises StorageAwayError or
    StorageDeniedError; None: storage that does not answer is an error of the row. wide: for codecs that take 16 bits of a run of 8.
    """

    def __init__(
        self,
        image: ImageConfig,
        storage: StorageConfig,
        functions: Path | None = None,
        patience: Patience | None = None,
        wide: bool = False,
    ) -> None:
        self.image = image
        self.columns = {IMAGE: image.scaling.bits, **({WIDE: 16} if wide else {})}  # of pixels -> their bits
        self.storage = PatientStorage(storage, patience) if patience else Storage(storage)
        self._meter = self.storage.meter if isinstance(self.storage, PatientStorage) else Meter()
        self._ends_the_run = (StorageAwayError, StorageDeniedError, RunError) if patience else ()
        self.shards = ShardReader(self.storage, image.stains)
        self.illumination = IlluminationReader(self.storage, functions)
        self.readers = ThreadPoolExecutor(_READERS)
        self.functions: dict[str, Future[np.ndarray]] = {}  # URI -> its illumination function, the last used last

    def __call__(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """Return the columns of one batch."""
        return next(self.stream([batch]))

    def stream(self, batches: Iterable[Mapping[str, np.ndarray]]) -> Iterator[Batch]:
        """Yield the columns of every batch, in order. While one batch is decoded the next is fetched; no more batches are held."""
        waiting: deque[tuple[list[Row], list[Fetched]]] = deque()
        try:
            for rows in map(rows_of, batches):
                waiting.append((rows, [self.fetch(row) for row in rows]))
                if len(waiting) == 2:
                    yield self._load(*waiting.popleft())
            while waiting:
                yield self._load(*waiting.popleft())
        finally:
            for _, fetches in waiting:
                for fetched in fetches:
                    fetched.cancel()

    def taken_traffic(self) -> Traffic:
        """Return the requests and bytes since the last call; of a loader without a patience, none."""
        return self._meter.taken()

    def probe(self, batch: Mapping[str, np.ndarray]) -> None:
        """Load the first row and raise its error, if any: CropError, StorageError, OSError or ValueError."""
        row = rows_of(batch)[0]
        for _ in self._planes(row, self.fetch(row), self._empty_planes(self.image.policy_of(row).crop)):
            pass

    def packed_file(self, row: Row, uri: str) -> bytes | None:
        """Return the bytes of a file that a shard holds, or the row itself; None for a file on storage."""
        carried = row.get(PIXELS)
        if SHARD in row:
            return self.shards.files(row)[uri]
        return carried if isinstance(carried, bytes) else None

    def _load(self, rows: Sequence[Row], fetches: list[Fetched]) -> Batch:
        """Return the columns of one batch. The files of a row are released with the row."""
        count = len(rows)
        stains, patch = self.image.stains, self.image.patch
        crops = {policy.crop: policy.patches for policy in map(self.image.policy_of, rows)}
        ((crop, patches_per_fov),) = crops.items()  # a batch is one block of one shape
        metadata = [{name: row[name] for name in row if name.startswith(METADATA)} for row in rows]
        out: Batch = {
            FOV_ID: np.array([row[FOV_ID] for row in rows], object),
            ROW: np.array(list(map(json.dumps, metadata)), object),
        }
        planes = self._empty_planes(crop)
        shape = (count, patches_per_fov, len(stains), patch, patch)
        pixels = {name: np.empty(shape, plane.dtype) for name, plane in planes.items()}
        qc = empty_qc(count, len(stains))
        errors, classes = np.full(count, "", object), np.full(count, "", object)
        seconds = np.zeros(count, np.float32)
        for number, row in enumerate(rows):
            start = time.perf_counter()
            try:
                for stain, raw in self._planes(
                    row, fetches[number], planes
                ):  # one at a time stays in the processor's cache
                    for name, plane in planes.items():
                        patches = pixels[name][number].swapaxes(2, 3) if self.image.transpose else pixels[name][number]
                        tile(plane, patch, patches[:, stain : stain + 1])
                    for name, measure in QC.items():
                        qc[name][number, stain] = measure(planes[IMAGE])[0]
                    for name, measure_raw in RAW_QC.items():
                        qc[name][number, stain] = measure_raw(raw)
            except self._ends_the_run:
                raise
            except Exception as error:  # noqa: BLE001 - one damaged file must not end a run, whatever a library raises
                errors[number], classes[number] = one_line(error, None), _class_of(error)
                for values in pixels.values():
                    values[number] = 0
                for name, values in empty_qc(1, len(stains)).items():
                    qc[name][number] = values[0]
            fetches[number] = Fetched({}, {})
            seconds[number] = time.perf_counter() - start
        node = np.full(count, socket.gethostname(), object)
        timing = {"seconds_load": seconds, "load_node": node}
        return {**out, **pixels, ERROR: errors, ERROR_CLASS: classes, **qc, **timing}

    def fetch(self, row: Row) -> Fetched:
        """Request the files of a row, once for all its stains, and its functions. A row may carry the bytes of its one file."""
        carried = row.get(PIXELS)
        uris = stains_by_file(row, self.image.stains)
        if SHARD in row:
            packed = self.readers.submit(self.shards.files, row)
            files = {uri: self.readers.submit(_file, packed, uri) for uri in uris}
        elif isinstance(carried, bytes):
            files = {uri: self.readers.submit(bytes, carried) for uri in uris}
        else:
            files = {uri: self.readers.submit(self.storage.read_bytes, uri) for uri in uris}
        functions = {function_of(row, stain) for stain in self.image.stains}
        return Fetched(files, {uri: self._function(uri) for uri in functions if uri is not None})

    def _function(self, uri: str) -> Future[np.ndarray]:
        """Return the request for an illumination function; one that this process holds is not fetched again,
        one that failed is.
        """
        function = self.functions.pop(uri, None)
        if function is None or (function.done() and function.exception() is not None):
            function = self.readers.submit(self.illumination.read, uri)
        self.functions[uri] = function
        if len(self.functions) > _FUNCTIONS_KEPT:
            del self.functions[next(iter(self.functions))]
        return function

    def _empty_planes(self, crop: int) -> Planes:
        shape = (1, crop, crop)
        return {name: np.empty(shape, np.uint8 if bits == 8 else np.uint16) for name, bits in self.columns.items()}

    def _planes(self, row: Row, fetched: Fetched, out: Planes) -> Iterator[tuple[int, np.ndarray]]:
        """Write the scaled pixels of the stains of one FOV into `out`, column -> (1, crop, crop), one after the other.

        Yields the place of the stain in the run whose pixels `out` holds, and the crop before its correction. Raises ValueError
        if the planes of the field differ in size or type.
        """
        first: tuple[str, np.ndarray] | None = None
        for uri, sharing in stains_by_file(row, self.image.stains).items():
            planes = self.decoded(row, uri, sharing, fetched.files[uri].result())
            for stain in sharing:
                plane = planes[channel_of(row, stain)]
                first = first or (stain, plane)
                check_same_kind(*first, stain, plane, uri)
                yield self.image.stains.index(stain), self._scale(row, stain, uri, plane, fetched.functions, out)

    def decoded(self, row: Row, uri: str, sharing: Sequence[str], data: bytes) -> dict[int, np.ndarray]:
        """Return channel -> plane, for the channels of one file that the stains of the row use."""
        channels = list(dict.fromkeys(channel_of(row, stain) for stain in sharing))
        colour = row.get(COLOUR) in (True,)  # null and NaN are not
        planes = (decode_colours if colour else decode_planes)(data, channels, uri)
        return dict(zip(channels, whole_planes(planes, row, sharing[0], self.image), strict=True))

    def _scale(
        self,
        row: Row,
        stain: str,
        where: str,
        plane: np.ndarray,
        functions: Mapping[str, Future[np.ndarray]],
        out: Planes,
    ) -> np.ndarray:
        """Write the pixels of one stain of one FOV, resized, cropped, corrected and scaled, into the planes of `out`. Return the
        crop before the correction, in the pixels of the file.
        """
        policy = self.image.policy_of(row)
        if self.image.resize is not None:
            plane = resize(plane, self.image.resize)
        uri = function_of(row, stain)
        function = None
        if uri is not None:
            function = functions[uri].result()
            check_same_size(plane, function, where, uri)
        if policy.zoom is None:
            raw = cropped = centre_crop(plane, policy.crop, where)
            illumination = None if function is None else centre_crop(function, policy.crop, where)
        else:  # the function has the pixels of the file, so the correction comes first
            resampled = resample(correct(plane, function), policy.zoom)
            cropped = centre_crop(resampled, policy.crop, f"{where}, resampled to image.pixel_um,")
            raw = centre_crop(plane, min(policy.file_crop, *plane.shape), where)
            illumination = None
        offset, divisor = self._scaling(row, stain, policy)
        top = 2**self.image.scaling.bits - 1
        for name, bits in self.columns.items():
            share = top / (2**bits - 1)  # of the divisor: full scale stays full scale
            scale_plane(cropped, illumination, offset, divisor * share, bits, out[name][0])
        return raw

    def _scaling(self, row: Row, stain: str, policy: Policy) -> tuple[float, float]:
        if self.image.scaling.method == "divide":
            return 0.0, policy.divisor
        offset, divisor = row[offset_column(stain)], row[divisor_column(stain)]
        if offset is None or divisor is None or not float(divisor) > 0:
            raise ValueError(
                f"{stain} has the scaling offset {offset} and divisor {divisor}; both must be numbers, and the divisor above 0"
            )
        return float(offset), float(divisor)


def _class_of(error: Exception) -> str:
    """Return the class of a row's error. A place that cannot be, such as a bucket that does not exist, is absent."""
    if isinstance(error, PermissionError | StorageDeniedError):
        return DENIED
    if isinstance(error, StorageAwayError):
        return AWAY
    return ABSENT if isinstance(error, FileNotFoundError | StorageError) else DAMAGED


def _file(packed: Future[dict[str, bytes]], uri: str) -> bytes:
    return packed.result()[uri]  # its thread has begun before this one
