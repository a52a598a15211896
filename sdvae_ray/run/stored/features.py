"""The names of an embedding's features, which profiles, exports and notebooks share: extractor, stain or RGB pass, dimension."""

from typing import NamedTuple

from sdvae_ray import shelves
from sdvae_ray.config import RunConfig


class Feature(NamedTuple):
    """One number of an embedding.

    part       the stain or RGB pass that it is of, as the report names it: Mito, or Mito+AGP+RNA
    dimension  its place in the vector of that part, from 0
    """

    extractor: str
    part: str
    dimension: int

    @property
    def name(self) -> str:
        """Return the feature's column: intensity_Mito_3, or efficientnet_lite_Mito+AGP+RNA_17."""
        return f"{self.extractor}_{self.part}_{self.dimension}"


def features(config: RunConfig, extractor: str, side: str, parts: int, dimensions: int) -> list[Feature]:
    """Return the features of an embedding (parts, dimensions) in the order in which it is laid out flat.

    side: of the embedding. An extractor of latents has the RGB passes of that side's own packing. Names differ from each other.
    """
    known = extractor in config.extractors and shelves.takes_latent(config, extractor)
    names = config.parts(parts, latent_of=side if known else None)
    return [Feature(extractor, name, number) for name in _distinct(names) for number in range(dimensions)]


def _distinct(names: list[str]) -> list[str]:
    """Return the names; if two passes hold the same stains, in another order, every name with its number."""
    return names if len(set(names)) == len(names) else [f"{name}.{number}" for number, name in enumerate(names)]
