"""What fitted steps do to profiles of whole plates: (n, D) float64 and their wells in, (n, D') out. All can be pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sdvae_ray.retrieval.normalisation.source import Apply, Bools, Wells
from sdvae_ray.retrieval.normalisation.whitening import Floats, Whitening


@dataclass(frozen=True)
class Located:
    """(x - centre) / scale, for all wells or by the plate of each."""

    whole: tuple[Floats, Floats] | None = None
    plates: Mapping[str, tuple[Floats, Floats]] = field(default_factory=dict)

    def __call__(self, x: Floats, wells: Wells) -> Floats:
        if self.whole is not None:
            return np.asarray((x - self.whole[0]) / self.whole[1])
        out = np.empty_like(x)
        for name in np.unique(wells.plate):
            on = wells.plate == name
            centre, scale = self.plates[str(name)]
            out[on] = (x[on] - centre) / scale
        return out


@dataclass(frozen=True)
class Whitened:
    """One linear transform for all wells."""

    by: Whitening

    def __call__(self, x: Floats, wells: Wells) -> Floats:
        return self.by(x)


@dataclass(frozen=True)
class SpheredByPlate:
    """Each plate by its own, of the features `keep`."""

    keep: Bools
    by: Mapping[str, Whitening]

    def __call__(self, x: Floats, wells: Wells) -> Floats:
        out = np.empty((len(x), int(self.keep.sum())))
        for name in np.unique(wells.plate):
            on = wells.plate == name
            out[on] = self.by[str(name)](x[on][:, self.keep])
        return out


@dataclass(frozen=True)
class Kept:
    """The features `keep`."""

    keep: Bools

    def __call__(self, x: Floats, wells: Wells) -> Floats:
        return x[:, self.keep]


@dataclass(frozen=True)
class InTurn:
    """Several, one after the other."""

    steps: tuple[Apply, ...]

    def __call__(self, x: Floats, wells: Wells) -> Floats:
        for step in self.steps:
            x = step(x, wells)
        return x


@dataclass(frozen=True)
class Replaced:
    """What is known of every well of the source, by its number."""

    rows: Floats

    def __call__(self, x: Floats, wells: Wells) -> Floats:
        return self.rows[wells.row]
