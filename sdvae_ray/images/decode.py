"""Bytes -> arrays: microscope TIFFs (LZW and the rest through imagecodecs) and CellProfiler's illumination functions (.npy)."""

import io
import struct

import numpy as np
import tifffile


class DecodeError(ValueError):
    """The bytes are not an image that can be used: truncated, corrupt, or of another kind."""


# what tifffile and imagecodecs raise on damaged data
_DAMAGE = (tifffile.TiffFileError, struct.error, ValueError, TypeError, IndexError, KeyError, EOFError, RuntimeError)


def decode_plane(data: bytes, channel: int, where: str) -> np.ndarray:
    """One plane of a TIFF, (height, width), in the file's own dtype; `channel` counts its pages or leading axis.

    Raises DecodeError, naming `where`, for anything that cannot be decoded whole.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            series = tiff.series[0]
            colour = "S" in series.axes
            if series.ndim == 2:
                planes = 1
                plane = series.asarray(maxworkers=1) if channel == 0 else None
            else:
                image = series.asarray(maxworkers=1)
                image = image.reshape(-1, *image.shape[-2:])
                planes = len(image)
                plane = image[channel] if channel < planes else None
    except _DAMAGE as error:
        raise DecodeError(f"truncated or corrupt: {where} ({len(data)} bytes): {_one_line(error)}") from error
    if colour:
        raise DecodeError(
            f"{where} is a colour image ({' x '.join(map(str, series.shape))}); one plane per stain is wanted"
        )
    if plane is None:
        raise DecodeError(f"{where} has {planes} planes, plane {channel} is wanted")
    if plane.dtype.kind not in "uf":
        raise DecodeError(f"{where} holds {plane.dtype} pixels; unsigned integers or floats are wanted")
    if plane.dtype.kind == "f" and not np.isfinite(plane).all():
        raise DecodeError(f"{where} holds pixels that are not finite")
    return np.asarray(plane)


def decode_illumination(data: bytes, where: str) -> np.ndarray:
    """An illumination function, (height, width) float64; zeros are replaced by 1e-6, as published. Read-only."""
    try:
        function = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DecodeError(f"truncated or corrupt: {where} ({len(data)} bytes): {_one_line(error)}") from error
    if function.ndim != 2 or not np.isfinite(function).all() or (function < 0).any():
        raise DecodeError(
            f"{where} is not an illumination function: {function.ndim} axes, finite values >= 0 are wanted"
        )
    function = function.astype(np.float64)
    function[function == 0] = 1e-6
    function.flags.writeable = False
    return function


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
