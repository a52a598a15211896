"""Section `image` of a run file: the stains, the crop and its patches, the scaling, and the RGB passes."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from sdvae_ray.settings.packing import Packing, Triples, check_triples, pass_names, triples_of
from sdvae_ray.settings.policies import Micrometres, PoliciesConfig, Policy, PolicyConfig, value_of
from sdvae_ray.settings.values import Name, Section


class ScalingConfig(Section):
    """The scaling of corrected pixels to integers: clip((pixel - offset) / divisor, 0, 2^bits - 1), truncated.

    divide    offset 0 and `divisor` for every stain (published: 256)
    manifest  one offset and divisor per stain and FOV, from the columns `scale_offset_<stain>` and `scale_divisor_<stain>`
    """

    method: Literal["divide", "manifest"] = "divide"
    """divide: offset 0 and `divisor` for every stain; manifest: constants per stain and field, as `calibrate` writes them."""
    divisor: float = Field(256.0, gt=0, allow_inf_nan=False)
    """Of the method divide; 256 as published."""
    bits: Literal[8, 16] = 8
    """Of the integers that pixels become."""


class ImageConfig(Section):
    """Section `image`: the stains, the crop and its patches, the scaling, the RGB passes."""

    stains: tuple[Name, ...] = Field(("Mito", "AGP", "RNA", "ER", "DNA"), min_length=1)
    """Names of the stains, in the order of every table."""
    resize: int | None = Field(None, gt=0)
    """Pixels, height and width to which images are resized before the crop; for photographs."""
    crop: int = Field(1024, gt=0)
    """Pixels, from the centre of the field; a multiple of patch."""
    patch: int = Field(256, ge=64)
    """Pixels, a multiple of 8; the windows and pyramids of the metrics need some room."""
    transpose: bool = False
    """True swaps the two axes of every patch, as published."""
    scaling: ScalingConfig = ScalingConfig()
    """How corrected pixels become integers."""
    packing: Packing = "published"
    """RGB passes of metrics, extractors, and autoencoders without their own: published, grey (every stain alone), or triples."""
    pixel_um: Micrometres | None = None
    """Micrometres per pixel to which the fields of every policy are resampled."""
    policies: PoliciesConfig | None = None
    """What differs by source, or by another column of the manifest."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.crop % self.patch:
            raise ValueError(f"crop {self.crop} is not a multiple of patch {self.patch}")
        if self.patch % 8:
            raise ValueError(f"patch {self.patch} is not a multiple of 8")
        if self.resize is not None and self.resize < self.crop:
            raise ValueError(f"resize {self.resize} leaves less than the crop of {self.crop}")
        if self.pixel_um is not None and self.policies is None:
            raise ValueError("pixel_um: policies are wanted too, which say the pixel_um of the files")
        if self.pixel_um is not None and self.resize is not None:
            raise ValueError("pixel_um and resize do not go together: both change the size of the pixels")
        for value, policy in (self.policies.values if self.policies else {}).items():
            if problem := self._problem(policy):
                raise ValueError(f"policies.values.{value}: {problem}")
        if len(set(self.stains)) != len(self.stains):
            raise ValueError(f"stains are named twice: {', '.join(self.stains)}")
        check_triples(self.triples, self.stains)
        return self

    def _problem(self, policy: PolicyConfig) -> str | None:
        """Return what is wrong with a policy; None if nothing is."""
        if policy.crop is not None and policy.crop % self.patch:
            return f"crop {policy.crop} is not a multiple of image.patch {self.patch}"
        if policy.crop is not None and self.resize is not None and self.resize < policy.crop:
            return f"image.resize {self.resize} leaves less than the crop of {policy.crop}"
        if policy.pixel_um is not None and self.pixel_um is None:
            return "pixel_um: image.pixel_um is wanted too, to which its fields are resampled"
        if policy.pixel_um is None and self.pixel_um is not None:
            return f"pixel_um is missing: what is resampled to image.pixel_um {self.pixel_um:g}?"
        if policy.divisor is not None and self.scaling.method != "divide":
            return f"divisor: image.scaling.method {self.scaling.method} takes the constants of the manifest"
        return None

    def policy_of(self, row: Mapping[str, Any]) -> Policy:
        """Return how the field of a row is read. row: of a manifest or of fovs/, with the column of the policies.

        Raises ConfigError if no policy is for the row's value.
        """
        if self.policies is None:
            return self._resolved(PolicyConfig())
        return self._resolved(self.policies.values[value_of(self.policies, row)])

    @property
    def every_policy(self) -> dict[str | None, Policy]:
        """Return value of the policies' column -> how its fields are read; without policies {None: the section itself}."""
        if self.policies is None:
            return {None: self._resolved(PolicyConfig())}
        return {value: self._resolved(policy) for value, policy in self.policies.values.items()}

    def _resolved(self, policy: PolicyConfig) -> Policy:
        crop = policy.crop or self.crop
        zoom = None
        if policy.pixel_um is not None and self.pixel_um is not None and policy.pixel_um != self.pixel_um:
            zoom = policy.pixel_um / self.pixel_um
        return Policy(crop, (crop // self.patch) ** 2, policy.divisor or self.scaling.divisor, zoom)

    @property
    def policy_columns(self) -> list[str]:
        """Return the columns of a row that `policy_of` needs: one, or none."""
        return [] if self.policies is None else [self.policies.column]

    @property
    def patches(self) -> int:
        """Return P, the number of patches of a field of view; where it differs by policy, the largest number."""
        return max(policy.patches for policy in self.every_policy.values())

    @property
    def fewest_patches(self) -> int:
        """Return P, the number of patches of a field of view; where it differs by policy, the smallest number."""
        return min(policy.patches for policy in self.every_policy.values())

    @property
    def triples(self) -> Triples:
        """Return the three stains of each of the T RGB passes."""
        return triples_of(self.packing, self.stains)

    @property
    def passes(self) -> list[str]:
        """Return the names of the T RGB passes."""
        return pass_names(self.triples)
