"""The contract of a step: the types of its options, and the maps that it gives when it is fitted.

A fitted step is an affine map of the whole group, or one of every plate, batch, row or column; harmony alone is not. So
saved_fit.py stores every fit in one form, and a stored fit normalises a new well alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np

from sdvae_ray.retrieval.arrays import Bools, Floats
from sdvae_ray.retrieval.normalisation.wells import POSITIONAL, By, Wells

Fit = Literal["controls", "all"]
Per = Literal["group", "plate"]
Count = Annotated[int, 1]  # the second item is the least value
Whole = Annotated[int, 0]
Amount = Annotated[float, 0]


@dataclass(frozen=True)
class Map:
    """The map z = (x - offset) / scale, and with axes the projection of z on them. Call it with profiles (n, D).

    offset  (D,); in float16, x is rounded to float16, and z is computed in float16 and returned in float64
    scale   (D,), or one number
    axes    (r, D), one per row; None: no projection
    gain    (r,), or one number: factors of the coordinates along the axes
    beyond  None: the result is the r coordinates. A number, for orthonormal axes: the coordinates are rotated back to the
            D features, and the part of z that is orthogonal to all axes is multiplied by this number. The matrix (D, D)
            is never formed: the axes of a plate are of low rank.
    """

    offset: Floats
    scale: Floats | float = 1.0
    axes: Floats | None = None
    gain: Floats | float = 1.0
    beyond: float | None = None

    @property
    def width(self) -> int:
        """Return the number of features of the result."""
        return len(self.offset) if self.axes is None or self.beyond is not None else len(self.axes)

    def __call__(self, x: Floats) -> Floats:
        if self.offset.dtype == np.float16:
            x = x.astype(np.float16)
        z = np.asarray((x - self.offset) / self.scale, np.float64)
        if self.axes is None:
            return z
        along = z @ self.axes.T
        if self.beyond is None:
            return np.asarray(along * self.gain)
        back = (along * (self.gain - self.beyond)) @ self.axes
        return np.asarray(back + self.beyond * z if self.beyond else back)


@dataclass(frozen=True)
class Affine:
    """A step that has one map for all wells, or one map for each plate, batch, row or column.

    by    "group", "plate", "batch", "row", "column", "plate row" or "plate column"
    maps  plate, batch, row or column -> its map; for by="group" one map under the name "group"
    keep  (D,) bool, the features that go into the maps; None: all
    """

    by: By
    maps: Mapping[str, Map]
    keep: Bools | None = None

    def __post_init__(self) -> None:
        if self.by not in get_args(By) or not self.maps:
            raise ValueError(f"an affine step by {self.by!r} of {len(self.maps)} maps")

    @property
    def width(self) -> int:
        """Return the number of features of the result."""
        return next(iter(self.maps.values())).width

    def __call__(self, x: Floats, wells: Wells) -> Floats:
        """Return the profiles (n, width) of n wells. A well whose row or column was not in the fit is not moved. Raises KeyError
        for a plate or batch that was not in the fit."""
        if self.keep is not None:
            x = x[:, self.keep]
        if self.by == "group":
            return self.maps["group"](x)
        names = wells.names(self.by)
        out = np.empty((len(x), self.width))
        for name in np.unique(names):
            rows = names == name
            unmoved = self.by in POSITIONAL and str(name) not in self.maps
            out[rows] = x[rows] if unmoved else self.maps[str(name)](x[rows])
        return out


@dataclass(frozen=True)
class Corrected:
    """The result of a step that moves the wells of its fit and has no map for another well.

    profiles  (W, D) of all wells of the source, by their number
    reason    why there is no map: the NO_FIT of the step
    """

    profiles: Floats
    reason: str

    @property
    def width(self) -> int:
        """Return the number of features of the result."""
        return int(self.profiles.shape[1])

    def __call__(self, x: Floats, wells: Wells) -> Floats:
        return self.profiles[wells.row]


Chain = tuple[Affine | Corrected, ...]


@dataclass(frozen=True)
class Fitted:
    """A fitted step: its maps, to be applied in order to profiles of whole plates, and a JSON-ready record of its decisions."""

    chain: Chain
    record: dict[str, Any]


def apply(chain: Sequence[Affine | Corrected], x: Floats, wells: Wells) -> Floats:
    """Return the profiles (n, D') that a chain makes of the profiles (n, D) of n wells."""
    for step in chain:
        x = step(x, wells)
    return x
