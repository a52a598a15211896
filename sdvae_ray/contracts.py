"""The contracts of the shelves: value types and protocols between autoencoders, extractors, metrics and the engine.

Letters used in shapes everywhere: N images (patches), P patches of a field of view, C stains, T RGB passes, S patch size in
pixels, Z latent channels, s latent size, G groups of an embedding, D its length, M = N * T.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Takes = Literal["rgb", "stains", "latent"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Posterior:
    """The posterior of M RGB images, as an encoder returns it: Z latent channels of s x s positions.

    mean    (M, Z, s, s) float32, unscaled (the model's scaling factor is not applied)
    logvar  (M, Z, s, s) float32, natural logarithm of the variance; None for a model without a posterior
    """

    mean: "Tensor"
    logvar: "Tensor | None"


class Shared:
    """Results of functions; each is computed once."""

    def __init__(self) -> None:
        self.results: dict[Any, Any] = {}

    def of(self, function: Any, compute: "Callable[[], Result]") -> Result:
        """Return the result of a function, which `compute` gives at the first call."""
        if function not in self.results:
            self.results[function] = compute()
        result: Result = self.results[function]
        return result


@dataclass(frozen=True)
class Reconstruction:
    """Originals and their reconstructions, all float32 in [0, 1].

    image, recon          (N, C, S, S), stains unpacked
    image_rgb, recon_rgb  (N, T, 3, S, S), the RGB passes of the run's image.packing: the autoencoder's input and output, or packed
                          of its stains if it has a packing of its own
    posterior             of the passes that were encoded, N times those of the autoencoder's packing, pass fastest; None for a
                          codec, and if latents were read instead of encoded
    known, known_of_pair  results of `of_image`, which the sides of a field share, and of `once`
    """

    image: "Tensor"
    recon: "Tensor"
    image_rgb: "Tensor"
    recon_rgb: "Tensor"
    posterior: Posterior | None
    known: Shared = field(default_factory=Shared, repr=False, compare=False)
    known_of_pair: Shared = field(default_factory=Shared, repr=False, compare=False)

    def of_image(self, function: "Callable[..., Result]", *before: "Callable[[Tensor], Any]") -> Result:
        """Return function(image), computed once for all metrics and sides of a field.

        function: of a module, so that metrics share its result; nobody may change that result. before: functions of the image,
        whose results are further arguments of `function`.
        """
        return self.known.of(function, lambda: function(self.image, *map(self.of_image, before)))

    def once(self, function: "Callable[[Reconstruction], Result]") -> Result:
        """Return function(reconstruction), computed once for all metrics of a side; as `of_image`."""
        return self.known_of_pair.of(function, lambda: function(self))


@dataclass(frozen=True)
class Checkpoint:
    """A model or codec that a module of a shelf can load, as `sdvae-ray models` prints it: facts from a public card.

    No computation uses them. A module lists its checkpoints in `CHECKPOINTS`; `source` is None if no weights are needed.
    """

    source: str | None  # as in a run file
    licence: str
    input: str  # the images that it takes
    output: str  # the values that it gives, per input
    parameters: int | None = None
    subfolder: str | None = None
    note: str = ""


class Autoencoder(Protocol):
    """Encodes and decodes RGB images in [0, 1]; owns its own normalisation."""

    def encode(self, rgb: "Tensor") -> Posterior:
        """Return the posterior of rgb (M, 3, S, S) in [0, 1]."""
        ...

    def decode(self, latent: "Tensor") -> "Tensor":
        """Return the images (M, 3, S, S) float32, clamped to [0, 1], of latents (M, Z, s, s)."""
        ...


class Codec(Protocol):
    """Compresses images of single stains on the CPU, and returns the decoded images with their sizes in bytes."""

    def roundtrip(self, stains: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
        """Return (the decoded stains, the bytes of each as (N, C) int64); stains: (N, C, S, S) uint8 or uint16, and so the decoded
        ones. 0 bytes: no file was written (a degradation), and the side has no rate.
        """
        ...


class Extractor(Protocol):
    """Embeds images. `takes` names its input, the table shows input and output.

    "rgb"        (N, T, 3, S, S) in [0, 1] -> (N, T, D)
    "stains"     (N, C, S, S) in [0, 1]    -> (N, C, D)
    "latent"     (N, T, Z, s, s)          -> (N, T, D), the latent that is decoded: sampled and quantised as its side is
    """

    takes: Takes

    def __call__(self, batch: "Tensor") -> "Tensor": ...


class Metric(Protocol):
    """Computes float32 numbers of a reconstruction: (N,), (N, C) per stain or (N, T) per RGB pass; NaN if it does not apply.

    A module with `BANDS` gives (N, C, len(BANDS)); one with `AGAINST_STAINS` compares every stain with every stain, (N, C, C).
    """

    def __call__(self, reconstruction: Reconstruction) -> "Tensor": ...
