"""What a step of a normalisation is fitted on: wells held in memory, or parts of them that are read one after the other.

A `Source` is the profiles of one group before or between steps. A fit asks it for rows where they are few, and for statistics
that parts add to one another (moments, float64) where they are not; a fitted step is applied part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.normalisation.moments import merged, moments
from sdvae_ray.retrieval.normalisation.whitening import Axes, Floats, axes_of_moments, constant_and_sd, principal_axes

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Texts = NDArray[np.str_]
T = TypeVar("T")

PLATE, GROUP = "plate", "group"
_ALL = slice(None)


@dataclass(frozen=True)
class Wells:
    """Who is who among W wells: is_control, fittable (W,) bool; plate, batch (W,) text; row (W,) int, numbers in the source."""

    is_control: Bools
    fittable: Bools
    plate: Texts
    batch: Texts
    row: Ints

    def in_fit(self, fit: str) -> Bools:
        return self.is_control if fit == "controls" else self.fittable

    def at(self, rows: Ints) -> Wells:
        return Wells(*(column[rows] for column in self.columns()))

    def columns(self) -> tuple[NDArray[Any], ...]:
        return self.is_control, self.fittable, self.plate, self.batch, self.row

    def where(self) -> str:
        """Opens an error about the whole group."""
        return f"plates {', '.join(np.unique(self.plate)[:4])}"

    def needs_two(self, fit: str, per: str, step: str) -> None:
        """DataError for a plate without two wells to fit on, where the step is fitted per plate."""
        if per == GROUP:
            return
        plates, number = np.unique(self.plate, return_inverse=True)
        counts = np.bincount(number[self.in_fit(fit)], minlength=len(plates))
        if (counts < 2).any():
            worst = int(np.flatnonzero(counts < 2)[0])
            what = "control wells" if fit == "controls" else "wells to fit on"
            raise DataError(f"plate {plates[worst]}: {counts[worst]} {what}; {step} needs at least 2 on each plate")


Apply = Callable[[Floats, Wells], Floats]  # (n, D) profiles of whole plates -> (n, D')


class Source(Protocol):
    """(W, width) profiles in parts of whole plates. wells: of all parts, in the order of their numbers."""

    @property
    def wells(self) -> Wells: ...

    @property
    def width(self) -> int: ...

    def through(self, apply: Apply, width: int) -> Self:
        """The source of what `apply` makes of these profiles, `width` features each."""
        ...

    def holds(self, rows: int) -> bool:
        """Whether so many profiles of float64 are few enough to be held at once."""
        ...

    def map(self, function: Callable[[Floats, Wells], T], fit: str | None = None) -> Iterator[T]:
        """`function` of every part, in the order of the parts; of its wells in the fit alone where one is named."""
        ...

    def reduce(self, function: Callable[[Floats, Wells], T], merge: Callable[[T, T], T], fit: str) -> T:
        """`function` of the wells of the fit of some parts at a time, its results merged in their order."""
        ...


@dataclass(frozen=True)
class Held:
    """Profiles in memory: one part."""

    x: Floats
    wells: Wells

    @property
    def width(self) -> int:
        return int(self.x.shape[1])

    def through(self, apply: Apply, width: int) -> Held:
        return Held(apply(self.x, self.wells), self.wells)

    def holds(self, rows: int) -> bool:
        return True

    def map(self, function: Callable[[Floats, Wells], T], fit: str | None = None) -> Iterator[T]:
        if fit is None:
            yield function(self.x, self.wells)
        else:
            chosen = np.flatnonzero(self.wells.in_fit(fit))
            yield function(self.x[chosen], self.wells.at(chosen))

    def reduce(self, function: Callable[[Floats, Wells], T], merge: Callable[[T, T], T], fit: str) -> T:
        return next(self.map(function, fit))


def rows_of(source: Source, fit: str, columns: slice = _ALL) -> Floats:
    """The profiles of the fit, in the order of the parts."""
    return np.concatenate(list(source.map(lambda x, _: x[:, columns], fit)))


def _is_held(source: Source, fit: str) -> bool:
    return source.holds(int(source.wells.in_fit(fit).sum()))


def mean_and_variance(source: Source, fit: str) -> tuple[Floats, Floats, int]:
    """(mean, population variance, wells) of the fit, per feature."""
    if _is_held(source, fit):
        x = rows_of(source, fit)
        return x.mean(axis=0), x.var(axis=0), len(x)
    found = source.reduce(lambda x, _: moments(x, products=False), merged, fit)
    return found.mean, found.scatter / found.n, found.n


def mean_and_sd(source: Source, fit: str) -> tuple[Floats, Floats, Bools]:
    """(mean, population sd with 1 for a constant feature, constant) of the fit, per feature."""
    mean, variance, n = mean_and_variance(source, fit)
    constant, sd = constant_and_sd(mean, variance, n)
    return mean, sd, constant


def axes_of(source: Source, fit: str, correlation: bool = False) -> Axes:
    """The principal axes of the fit: of its rows, or of their merged moments where it is too large to hold."""
    where = source.wells.where()
    if _is_held(source, fit):
        return principal_axes(rows_of(source, fit), correlation, where)
    return axes_of_moments(source.reduce(lambda x, _: moments(x), merged, fit), correlation, where)


def by_columns(source: Source, fit: str, function: Callable[[Floats], tuple[NDArray[Any], ...]]) -> list[NDArray[Any]]:
    """`function` of (wells of the fit, some features), its results joined over all features: as many passes as it takes."""
    count = int(source.wells.in_fit(fit).sum())
    step = source.width
    while step > 1 and not source.holds(-(-count * step // source.width)):
        step = -(-step // 2)
    found = [function(rows_of(source, fit, slice(at, at + step))) for at in range(0, source.width, step)]
    return [np.concatenate(each) for each in zip(*found, strict=True)]


def per_plate(source: Source, fit: str, function: Callable[[str, Floats], Any]) -> dict[str, Any]:
    """`function` of (plate, its wells of the fit), by plate in the order of their names."""

    def of_part(x: Floats, wells: Wells) -> dict[str, Any]:
        return {str(name): function(str(name), x[wells.plate == name]) for name in np.unique(wells.plate)}

    found: dict[str, Any] = {}
    for part in source.map(of_part, fit):
        found |= part
    return dict(sorted(found.items()))
