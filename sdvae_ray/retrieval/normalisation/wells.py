"""The wells of a group, one for each profile: whether a step is fitted on the well, its plate and its batch."""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.arrays import Bools, Floats, Ints
from sdvae_ray.retrieval.positions import rows_and_columns

Texts = NDArray[np.str_]

By = Literal["group", "plate", "batch", "row", "column", "plate row", "plate column"]  # what a step is fitted per
POSITIONAL: tuple[By, ...] = (
    "row",
    "column",
    "plate row",
    "plate column",
)  # a well whose place was not in the fit is not moved


@dataclass(frozen=True)
class Wells:
    """W wells of one group.

    is_control  (W,) the wells that a step with `fit: controls` is fitted on
    fittable    (W,) the wells that a step with `fit: all` is fitted on
    plate       (W,)
    batch       (W,) the batch that tvn and harmony align
    row         (W,) the number of the well in its source
    position    (W,) the name of its place on the plate, such as A01; "" if it is not known
    """

    is_control: Bools
    fittable: Bools
    plate: Texts
    batch: Texts
    row: Ints
    position: Texts

    def in_fit(self, fit: str) -> Bools:
        """Return a mask (W,): the wells that a step with this option `fit` ("controls" or "all") is fitted on."""
        return self.is_control if fit == "controls" else self.fittable

    def names(self, by: By) -> Texts:
        """Return the plate, the batch, or the row or column of every well, (W,); for by="group" the plate. A row or a column
        that is not known is "", of every plate too."""
        if by not in POSITIONAL:
            return self.batch if by == "batch" else self.plate
        row, column = rows_and_columns(self.position)
        names = row if by.endswith("row") else column
        if by in ("row", "column"):
            return names
        return np.where(names == "", "", np.char.add(np.char.add(self.plate.astype(str), " "), names))

    def at(self, rows: Ints) -> Self:
        """Return the wells at `rows` (n,), in that order."""
        return type(self)(*(column[rows] for column in self.columns()))

    def columns(self) -> tuple[NDArray[Any], ...]:
        """Return the six columns in the order of the fields."""
        return self.is_control, self.fittable, self.plate, self.batch, self.row, self.position

    def where(self) -> str:
        """Return the first words of an error about the whole group: its plates, at most four."""
        return f"plates {', '.join(np.unique(self.plate)[:4])}"

    def require_two(self, step: str, fit: str, per: By) -> None:
        """Raise DataError for fewer than 2 wells to fit on in the group; in a step fitted per plate or batch
        also in one of these.
        """
        in_fit = self.in_fit(fit)
        kind = "control wells" if fit == "controls" else "wells to fit on"
        if in_fit.sum() < 2:
            raise DataError(f"{self.where()}: {in_fit.sum()} {kind} in this group; normalisation needs at least 2")
        if per == "group":
            return
        names, number = np.unique(self.names(per), return_inverse=True)
        counts = np.bincount(number[in_fit], minlength=len(names))
        if counts.min() < 2:
            first = int(np.flatnonzero(counts < 2)[0])
            raise DataError(f"{per} {names[first]}: {counts[first]} {kind}; {step} needs at least 2 on each {per}")


def require_finite(profiles: Floats, plate: Texts) -> None:
    """Raise DataError, naming the plate, if a profile of (W, D) has a feature that is not finite."""
    bad = ~np.isfinite(profiles).all(axis=1)
    if bad.any():
        name = plate[bad][0]
        raise DataError(
            f"plate {name}: {int((bad & (plate == name)).sum())} wells have features that are not finite; "
            "every feature must be a finite number"
        )
