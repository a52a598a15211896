"""What the shelves promise each other: the value types and protocols between autoencoders, extractors, metrics and the engine.

Letters used in shapes everywhere: N images (patches), P patches of a field of view, C stains, T RGB passes, S patch side in
pixels, Z and s latent channels and side, G groups of an embedding, D its length, M = N * T.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
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
    posterior             of the N * T passes, pass fastest; None for a codec
    """

    image: "Tensor"
    recon: "Tensor"
    image_rgb: "Tensor"
    recon_rgb: "Tensor"
    posterior: Posterior | None


class Autoencoder(Protocol):
    """Encodes and decodes RGB images in [0, 1]; owns its own normalisation.

    stores_latents  False where a latent is no smaller than the image (the identity control): it is then not written, and not
                    rounded to float16 before it is decoded
    """

    stores_latents: bool

    def encode(self, rgb: "Tensor") -> Posterior:
        """(M, 3, S, S) in [0, 1] -> Posterior."""
        ...

    def decode(self, latent: "Tensor") -> "Tensor":
        """(M, Z, s, s) -> (M, 3, S, S) float32, clamped to [0, 1]."""
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
    """Reconstruction -> (N,), (N, C) per stain or (N, T) per RGB pass, float32; NaN where the metric does not apply."""

    def __call__(self, reconstruction: Reconstruction) -> "Tensor": ...
