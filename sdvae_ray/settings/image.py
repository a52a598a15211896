"""Section `image` of a run file: the stains, the crop and its patches, the scaling, and the RGB passes."""

from typing import Literal, Self

from pydantic import Field, model_validator

from sdvae_ray.errors import did_you_mean
from sdvae_ray.settings.values import Name, Section

Triples = tuple[tuple[str, str, str], ...]
PUBLISHED_TRIPLES: Triples = (("Mito", "AGP", "RNA"), ("RNA", "ER", "DNA"))
WHOLE = "all"  # the part where a patch has one number


class ScalingConfig(Section):
    """The scaling of corrected pixels to integers: clip((pixel - offset) / divisor, 0, 2^bits - 1), truncated.

    divide    offset 0 and `divisor` for every stain (published: 256)
    manifest  one offset and divisor per stain and FOV, from the columns `scale_offset_<stain>` and `scale_divisor_<stain>`
    """

    method: Literal["divide", "manifest"] = "divide"
    divisor: float = Field(256.0, gt=0, allow_inf_nan=False)
    bits: Literal[8, 16] = 8


class ImageConfig(Section):
    """The images of a run. `packing` gives the RGB passes as a list of triples of stains, or by name.

    published  (Mito, AGP, RNA) and (RNA, ER, DNA)
    grey       every stain alone, on all three planes
    """

    stains: tuple[Name, ...] = Field(("Mito", "AGP", "RNA", "ER", "DNA"), min_length=1)
    resize: int | None = Field(None, gt=0)  # pixels, height and width, before the crop; for photographs
    crop: int = Field(1024, gt=0)  # pixels, centre
    patch: int = Field(256, ge=64)  # pixels; the windows and pyramids of the metrics need some room
    transpose: bool = False  # True swaps the two axes of every patch, as published
    scaling: ScalingConfig = ScalingConfig()
    packing: Literal["published", "grey"] | Triples = "published"

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
        packed = {stain for triple in self.triples for stain in triple}
        if unknown := packed - set(self.stains):
            name = sorted(unknown)[0]
            raise ValueError(f"packing names a stain that is not in stains: {name!r}{did_you_mean(name, self.stains)}")
        if missing := [stain for stain in self.stains if stain not in packed]:
            raise ValueError(f"packing leaves out {', '.join(missing)}: every stain must be in a triple")
        return self

    @property
    def patches(self) -> int:
        """Return P, the number of patches of a field of view."""
        return (self.crop // self.patch) ** 2

    @property
    def triples(self) -> Triples:
        """Return the three stains of each of the T RGB passes."""
        if self.packing == "published":
            return PUBLISHED_TRIPLES
        if self.packing == "grey":
            return tuple((stain, stain, stain) for stain in self.stains)
        return self.packing

    @property
    def passes(self) -> list[str]:
        """Return the names of the T RGB passes: Mito+AGP+RNA, or the stain's name for a pass of one stain."""
        return ["+".join(dict.fromkeys(triple)) for triple in self.triples]

    def parts(self, count: int) -> list[str]:
        """Return the names of the parts that `count` numbers of a patch are of: the RGB passes, the stains, or the whole patch."""
        names = {len(self.passes): self.passes, len(self.stains): list(self.stains), 1: [WHOLE]}
        return names.get(count, [str(part) for part in range(count)])
