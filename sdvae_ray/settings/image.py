"""Section `image` of a run file: the stains, the crop and its patches, the scaling, and the RGB passes."""

from typing import Literal, Self

from pydantic import Field, model_validator

from sdvae_ray.settings.packing import Packing, Triples, check_triples, pass_names, triples_of
from sdvae_ray.settings.values import Name, Section


class ScalingConfig(Section):
    """The scaling of corrected pixels to integers: clip((pixel - offset) / divisor, 0, 2^bits - 1), truncated.

    divide    offset 0 and `divisor` for every stain (published: 256)
    manifest  one offset and divisor per stain and FOV, from the columns `scale_offset_<stain>` and `scale_divisor_<stain>`
    """

    method: Literal["divide", "manifest"] = "divide"
    divisor: float = Field(256.0, gt=0, allow_inf_nan=False)
    bits: Literal[8, 16] = 8


class ImageConfig(Section):
    """The images of a run. packing: the RGB passes of metrics, extractors, and every autoencoder without a packing of its own."""

    stains: tuple[Name, ...] = Field(("Mito", "AGP", "RNA", "ER", "DNA"), min_length=1)
    resize: int | None = Field(None, gt=0)  # pixels, height and width, before the crop; for photographs
    crop: int = Field(1024, gt=0)  # pixels, centre
    patch: int = Field(256, ge=64)  # pixels; the windows and pyramids of the metrics need some room
    transpose: bool = False  # True swaps the two axes of every patch, as published
    scaling: ScalingConfig = ScalingConfig()
    packing: Packing = "published"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.crop % self.patch:
            raise ValueError(f"crop {self.crop} is not a multiple of patch {self.patch}")
        if self.patch % 8:
            raise ValueError(f"patch {self.patch} is not a multiple of 8")
        if self.resize is not None and self.resize < self.crop:
            raise ValueError(f"resize {self.resize} leaves less than the crop of {self.crop}")
        if len(set(self.stains)) != len(self.stains):
            raise ValueError(f"stains are named twice: {', '.join(self.stains)}")
        check_triples(self.triples, self.stains)
        return self

    @property
    def patches(self) -> int:
        """Return P, the number of patches of a field of view."""
        return (self.crop // self.patch) ** 2

    @property
    def triples(self) -> Triples:
        """Return the three stains of each of the T RGB passes."""
        return triples_of(self.packing, self.stains)

    @property
    def passes(self) -> list[str]:
        """Return the names of the T RGB passes."""
        return pass_names(self.triples)
