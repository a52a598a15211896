"""Key `image.policies` of a run file: how fields of view are read that differ by source, or by another column of the manifest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from sdvae_ray.errors import ConfigError, did_you_mean
from sdvae_ray.settings.values import Section

Micrometres = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PolicyConfig(Section):
    """What a policy has of its own; None: as the section `image` says."""

    crop: int | None = Field(None, gt=0)
    """Pixels, from the centre, after the resampling; null: image.crop."""
    pixel_um: Micrometres | None = None
    """Micrometres per pixel of the files; wanted where image.pixel_um is given, and only there."""
    divisor: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Of the scaling method divide; null: image.scaling.divisor."""


class PoliciesConfig(Section):
    """A policy for every value of a column of the manifest."""

    column: Annotated[str, Field(pattern="^Metadata_.")] = "Metadata_Source"
    """A Metadata column of the manifest."""
    values: dict[str, PolicyConfig] = Field(min_length=1)
    """Every value of the column in the manifest, with its policy."""


@dataclass(frozen=True)
class Policy:
    """How the fields of one value of the column are read.

    crop     pixels, centre, after the resampling
    patches  P, the number of patches of a field
    divisor  of the scaling method `divide`
    zoom     pixels of the run per pixel of the file, along an axis; None: fields are not resampled
    """

    crop: int
    patches: int
    divisor: float
    zoom: float | None = None

    @property
    def file_crop(self) -> int:
        """Return the side, in pixels of the file, of the square that the crop shows."""
        return self.crop if self.zoom is None else round(self.crop / self.zoom)


def value_of(policies: PoliciesConfig, row: Mapping[str, Any]) -> str:
    """Return the value by which the policy of a row is found. Raises ConfigError if no policy is for it."""
    value = row.get(policies.column)
    if value not in policies.values:
        raise ConfigError(unknown_value(policies, value))
    return str(value)


def unknown_value(policies: PoliciesConfig, value: Any) -> str:
    """Return what is wrong with a value of the column that no policy is for."""
    said = f"{policies.column} is empty" if value is None else f"{policies.column} is {value!r}"
    return f"{said}, for which image.policies has no policy{did_you_mean(str(value), policies.values)}"
