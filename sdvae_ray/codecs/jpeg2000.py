"""JPEG 2000 at a given PSNR, 8 or 16 bits: the wavelet codec of medical archives.

One tile and layer, irreversible 9/7 wavelet, a raw codestream (J2K, without the 85 bytes of a JP2 file; some 150 bytes are header).
OpenJPEG cuts the code blocks where its own estimate of the error over the plane, before rounding to integers, meets the given PSNR
of full scale. The decoded plane is 0.1 to 1.7 dB worse on real patches, and at 8 bits never better than some 55 dB.
"""

import numpy as np

from sdvae_ray.codecs import _planes
from sdvae_ray.contracts import Checkpoint

CHECKPOINTS = (
    Checkpoint(
        source=None, licence="BSD-2-Clause (OpenJPEG)", input="one stain, 8 or 16 bits", output="a JPEG 2000 codestream"
    ),
)


class Jpeg2000:
    """level 10 to 100: the PSNR to reach, in dB."""

    def __init__(self, level: int) -> None:
        self.level = level

    def encode(self, plane: np.ndarray) -> bytes:
        from imagecodecs import jpeg2k_encode

        return bytes(jpeg2k_encode(plane, level=self.level, codecformat="j2k", reversible=False, numthreads=1))

    def decode(self, data: bytes, dtype: np.dtype) -> np.ndarray:
        from imagecodecs import jpeg2k_decode

        return jpeg2k_decode(data, numthreads=1).astype(dtype, copy=False)

    def roundtrip(self, stains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _planes.roundtrip(self, stains)


def load(*, level: int = 45) -> Jpeg2000:
    """`level` is 10 to 100, the PSNR to reach, in dB; ConfigError for another."""
    _planes.require("jpeg2000", "JPEG2K")
    return Jpeg2000(_planes.whole("jpeg2000", "level", level, 10, 100))
