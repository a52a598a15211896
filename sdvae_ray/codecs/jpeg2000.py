"""JPEG 2000 at a given PSNR, 8 or 16 bits: the wavelet codec of medical archives.

One tile and layer, irreversible 9/7 wavelet, a raw codestream (J2K, without the 85 bytes of a JP2 file; some 150 bytes are header).
OpenJPEG cuts the code blocks where its own estimate of the error over the plane, before rounding to integers, meets the given PSNR
of full scale. The decoded plane is 0.1 to 1.7 dB worse on real patches, and at 8 bits never better than some 55 dB.
"""

from functools import partial

import numpy as np

from sdvae_ray.codecs._planes import PlaneCodec, require, run, whole
from sdvae_ray.contracts import Checkpoint

CHECKPOINTS = (Checkpoint(None, "BSD-2-Clause (OpenJPEG)", "one stain, 8 or 16 bits", "a JPEG 2000 codestream"),)


def load(*, level: int = 45) -> PlaneCodec:
    """Return the codec. level: the PSNR to reach, in dB, 10 to 100. Raises ConfigError for any other value."""
    require("jpeg2000", "JPEG2K")
    return PlaneCodec(partial(_encode, whole("jpeg2000", "level", level, 10, 100)), _decode)


def _encode(level: int, plane: np.ndarray) -> bytes:
    return bytes(run("jpeg2k_encode", plane, level=level, codecformat="j2k", reversible=False, numthreads=1))


def _decode(data: bytes, dtype: np.dtype) -> np.ndarray:
    return run("jpeg2k_decode", data, numthreads=1).astype(dtype, copy=False)
