"""What the shelves promise each other: the value types and protocols between autoencoders, extractors, metrics and the engine.

Letters used in shapes everywhere: N images (patches), P patches of a field of view, C stains, T RGB passes, S patch side in
pixels, Z and s latent channels and side, G groups of an embedding, D its length, M = N * T.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Takes = Literal["rgb", "stains", "posterior"]


@dataclass(frozen=True)
class Posterior:
    """What an encoder says of M RGB images.

    mean    (M, Z, s, s) float32, unscaled (the model's scaling factor is not applied)
    logvar  (M, Z, s, s) float32, natural logarithm of the variance; None where the model has no posterior
    """

    mean: "Tensor"
    logvar: "Tensor | None"


@dataclass(frozen=True)
class Reconstruction:
    """Originals beside what came back, all float32 in [0, 1].

    image, recon          (N, C, S, S), stains unpacked
    image_rgb, recon_rgb  (N, T, 3, S, S), what the autoencoder saw and gave
    posterior             of the N * T passes, pass fastest; None for a codec, and where it was not computed again
    """

    image: "Tensor"
    recon: "Tensor"
    image_rgb: "Tensor"
    recon_rgb: "Tensor"
    posterior: Posterior | None


@dataclass(frozen=True)
class Checkpoint:
    """What a shelf offers under one name, for `sdvae-ray models`: facts of a public card, used in no computation.

    A module of a shelf of models lists them in `CHECKPOINTS`; `source` is None where no weights are needed.
    """

    source: str | None  # as in a run file
    licence: str
    input: str  # what it sees
    output: str  # values per what it sees
    parameters: int | None = None
    subfolder: str | None = None
    note: str = ""


class Autoencoder(Protocol):
    """Encodes and decodes RGB images in [0, 1]; owns its own normalisation."""

    def encode(self, rgb: "Tensor") -> Posterior:
        """(M, 3, S, S) in [0, 1] -> Posterior."""
        ...

    def decode(self, latent: "Tensor") -> "Tensor":
        """(M, Z, s, s) -> (M, 3, S, S) float32, clamped to [0, 1]."""
        ...


class Codec(Protocol):
    """Compresses single-stain images on the CPU and gives them back, with the bytes that it took."""

    def roundtrip(self, stains: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
        """(N, C, S, S) uint8 or uint16 -> (the same shape and dtype, (N, C) int64 bytes)."""
        ...


class Extractor(Protocol):
    """Embeds images. `takes` says what it is given:

    "rgb"        (N, T, 3, S, S) in [0, 1] -> (N, T, D)
    "stains"     (N, C, S, S) in [0, 1]    -> (N, C, D)
    "posterior"  (N, T, Z, s, s), the mean -> (N, T, D)
    """

    takes: Takes

    def __call__(self, batch: "Tensor") -> "Tensor": ...


class Metric(Protocol):
    """Reconstruction -> (N,), (N, C) per stain or (N, T) per RGB pass, float32; NaN where the metric does not apply.

    A module with `BANDS` gives (N, C, len(BANDS)).
    """

    def __call__(self, reconstruction: Reconstruction) -> "Tensor": ...
