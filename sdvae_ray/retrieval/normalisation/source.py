"""The profiles that a step is fitted on: held in memory, or in parts that are read one after the other.

A fit asks a `ProfileSource` for rows if they are few. If they are many, it asks for statistics that can be added over the parts
(moments, float64). The maps of a fitted step are applied part by part.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.retrieval.arrays import Floats, Ints
from sdvae_ray.retrieval.normalisation.axes import Axes, axes_of_moments, principal_axes
from sdvae_ray.retrieval.normalisation.contract import Chain, apply
from sdvae_ray.retrieval.normalisation.moments import mean_and_variance, merged, moments
from sdvae_ray.retrieval.normalisation.wells import Wells

T = TypeVar("T")
F = TypeVar("F", bound=np.floating)

_ALL = slice(None)


class ProfileSource(Protocol):
    """Profiles (W, width) of one group, in parts of whole plates. wells: the wells of all parts, in the order of their numbers."""

    @property
    def wells(self) -> Wells: ...

    @property
    def width(self) -> int: ...

    def through(self, chain: Chain) -> Self:
        """Return a source of the profiles that the chain makes of the profiles of this source."""
        ...

    def holds(self, rows: int) -> bool:
        """Return whether `rows` float64 profiles are few enough to hold in memory at once."""
        ...

    def map(
        self, function: Callable[[Floats, Wells], T], fit: str | None = None, together: bool = False
    ) -> Iterator[T]:
        """Yield function(profiles, wells) for every part, in the order of the parts. fit: "controls" or "all": only the wells of
        this fit; None: all wells. together: the source may join several parts into one call."""
        ...


@dataclass(frozen=True)
class HeldProfiles:
    """Profiles (W, width) float64 in memory: a source of one part."""

    x: Floats
    wells: Wells

    @property
    def width(self) -> int:
        return int(self.x.shape[1])

    def through(self, chain: Chain) -> Self:
        return replace(self, x=apply(chain, self.x, self.wells))

    def holds(self, rows: int) -> bool:
        return True

    def map(
        self, function: Callable[[Floats, Wells], T], fit: str | None = None, together: bool = False
    ) -> Iterator[T]:
        if fit is None:
            yield function(self.x, self.wells)
        else:
            rows = np.flatnonzero(self.wells.in_fit(fit))
            yield function(self.x[rows], self.wells.at(rows))


def gathered(source: ProfileSource, dtype: type[F]) -> NDArray[F]:
    """Return all profiles (W, width) of a source, row i for well number i."""
    profiles = np.empty((len(source.wells.row), source.width), dtype)
    for rows, part in source.map(functools.partial(_numbered, dtype)):
        profiles[rows] = part
    return profiles


def mean_and_variance_of(source: ProfileSource, fit: str) -> tuple[Floats, Floats, int]:
    """Return (mean (D,), population variance (D,), number of wells) of the wells of the fit."""
    if _fit_is_held(source, fit):
        return mean_and_variance(_rows(source, fit))
    sums = functools.reduce(merged, source.map(lambda x, _: moments(x, products=False), fit, together=True))
    return sums.mean, sums.scatter / sums.n, sums.n


def axes_of(source: ProfileSource, fit: str, correlation: bool = False) -> Axes:
    """Return the principal axes of the fit: from its rows, or from merged moments if the rows are too many to hold."""
    where = source.wells.where()
    if _fit_is_held(source, fit):
        return principal_axes(_rows(source, fit), correlation, where)
    sums = functools.reduce(merged, source.map(lambda x, _: moments(x), fit, together=True))
    return axes_of_moments(sums, correlation, where)


def by_columns(
    source: ProfileSource, fit: str, function: Callable[[Floats], tuple[NDArray[Any], ...]]
) -> list[NDArray[Any]]:
    """Return the arrays of `function` over all features; `function` gets the wells of the fit, (n, some features), at a time.

    The source is read as often as is needed to hold the fit in parts.
    """
    count = int(source.wells.in_fit(fit).sum())
    step = source.width
    while step > 1 and not source.holds(-(-count * step // source.width)):
        step = -(-step // 2)
    parts = [function(_rows(source, fit, slice(at, at + step))) for at in range(0, source.width, step)]
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def per_plate(source: ProfileSource, fit: str, function: Callable[[str, Floats], T]) -> dict[str, T]:
    """Return plate -> function(plate, profiles of its wells of the fit), sorted by plate."""

    def of_part(x: Floats, wells: Wells) -> dict[str, T]:
        return {str(name): function(str(name), x[wells.plate == name]) for name in np.unique(wells.plate)}

    results: dict[str, T] = {}
    for part in source.map(of_part, fit):
        results |= part
    return dict(sorted(results.items()))


def _rows(source: ProfileSource, fit: str, columns: slice = _ALL) -> Floats:
    """Return the profiles of the wells of the fit, in the order of the parts."""
    return np.concatenate(list(source.map(lambda x, _: x[:, columns], fit)))


def _fit_is_held(source: ProfileSource, fit: str) -> bool:
    return source.holds(int(source.wells.in_fit(fit).sum()))


def _numbered(dtype: type[F], x: Floats, wells: Wells) -> tuple[Ints, NDArray[F]]:
    return wells.row, x.astype(dtype)
