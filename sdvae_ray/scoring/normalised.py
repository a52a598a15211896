"""Profiles of a group of wells, read from storage and normalised: held where they are few, plate by plate through Ray where not."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import in_order
from sdvae_ray.config import StorageConfig
from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.normalisation.normalise import Normalised, fitted, resolve_steps
from sdvae_ray.retrieval.normalisation.source import Apply, Bools, Held, Ints, Wells
from sdvae_ray.retrieval.normalisation.whitening import Floats
from sdvae_ray.run.run import Run
from sdvae_ray.run.tables import read_table
from sdvae_ray.schema import METADATA
from sdvae_ray.scoring.profiles import FILE, ROW, Profiles
from sdvae_ray.storage import Storage

T = TypeVar("T")

HELD_BYTES = 1 << 29  # of float64 profiles of a group that are read once and held
FIT_BYTES = 1 << 27  # of those of a fit, where they are not: what is larger is fitted from moments
_TASK_CPUS = 0.5
_PLATES = 16  # read and reduced by one task


@dataclass(frozen=True)
class _Place:
    """Rows `local` of a file are the wells `rows` of the source."""

    uri: str
    local: Ints
    rows: Ints


_Part = tuple[_Place, ...]  # all wells of one plate


@dataclass(frozen=True)
class Stored:
    """A source (retrieval.fits) of profiles on storage; each pass over it reads every file once, in Ray tasks."""

    parts: tuple[_Part, ...]
    wells: Wells
    width: int
    storage: StorageConfig
    fit_bytes: int = FIT_BYTES
    chain: tuple[Apply, ...] = ()

    def through(self, apply: Apply, width: int) -> "Stored":
        return replace(self, chain=(*self.chain, apply), width=width)

    def holds(self, rows: int) -> bool:
        return rows * self.width * 8 <= self.fit_bytes

    def map(self, function: Callable[[Floats, Wells], T], fit: str | None = None) -> Iterator[T]:
        for found in self._pass(function, False, fit):
            yield from found

    def reduce(self, function: Callable[[Floats, Wells], T], merge: Callable[[T, T], T], fit: str) -> T:
        return functools.reduce(merge, (found[0] for found in self._pass(function, True, fit)))

    def _pass(self, function: Any, together: bool, fit: str | None) -> Iterator[list[Any]]:
        settings = ray.put((self.storage, self.chain, function, together, fit))
        chunks = [self.parts[at : at + _PLATES] for at in range(0, len(self.parts), _PLATES)]
        asked = ((settings, chunk, [self.wells.at(_rows(part)) for part in chunk]) for chunk in chunks)
        return in_order(_of_chunk.options(num_cpus=_TASK_CPUS), asked)


@dataclass(frozen=True)
class Space:
    """Call it with the wells to fit on: the profiles normalised by that fit. It travels to any process that Ray is connected in.

    What it gives is float64 where the profiles are held, and float32 where they are not.
    """

    source: Held | Stored
    steps: list[tuple[str, dict[str, Any]]]

    @property
    def held(self) -> int:
        """Bytes of profiles that travel with it."""
        return self.source.x.nbytes if isinstance(self.source, Held) else 0

    def __call__(self, fit: Bools, fittable: Bools) -> Normalised:
        """fit, fittable: (W,); see retrieval.normalise."""
        source = replace(self.source, wells=replace(self.source.wells, is_control=fit, fittable=fittable))
        if isinstance(source, Held):
            held, record, chain = fitted(source, self.steps)
            return Normalised(held.x, record, chain)
        made, record, chain = fitted(source, self.steps)
        out = np.empty((len(fit), made.width), np.float32)
        for rows, features in made.map(_numbered):
            out[rows] = features
        return Normalised(out, record, chain)


def space_of(run: Run, sets: Sequence[tuple[Profiles, pl.DataFrame]], held_bytes: int = HELD_BYTES) -> Space:
    """Of wells with FILE, ROW, plate and, where score.batch names one, the batch; sets are stacked in their order.

    held_bytes: of float64 profiles; more than that are read again for every pass.

    Wells of one plate in several sets are normalised as one plate. Raises DataError for profiles that are not finite.
    """
    of_batch = run.config.score.batch
    if of_batch is not None and any(of_batch not in wells.columns for _, wells in sets):
        raise DataError(f"score.batch: {of_batch} differs within a well")
    columns = ["plate", *([of_batch] if of_batch else [])]
    frames = [wells.select(*columns, FILE, ROW, _set=pl.lit(number)) for number, (_, wells) in enumerate(sets)]
    every = pl.concat(frames).with_row_index("_number")
    parts = []
    for _, plate in every.group_by("plate", maintain_order=True):
        places = [
            _Place(sets[number][0].files[file], found[ROW].to_numpy(), found["_number"].to_numpy().astype(np.int64))
            for (number, file), found in plate.group_by("_set", FILE, maintain_order=True)
        ]
        parts.append(tuple(places))
    plates = every["plate"].to_numpy().astype(str)
    batches = every[of_batch].fill_null("-").to_numpy().astype(str) if of_batch else plates
    nobody = np.zeros(every.height, bool)
    wells = Wells(nobody, nobody, plates, batches, np.arange(every.height))
    stored = Stored(tuple(parts), wells, sets[0][0].width, run.config.storage, min(FIT_BYTES, held_bytes))
    steps = resolve_steps(run.config.score.normalise)
    if every.height * stored.width * 8 > held_bytes:
        return Space(stored, steps)
    x = np.empty((every.height, stored.width))
    for rows, features in stored.map(_numbered):
        x[rows] = features
    return Space(Held(x, wells), steps)


def _rows(part: _Part) -> Ints:
    return np.concatenate([place.rows for place in part])


def _numbered(x: Floats, wells: Wells) -> tuple[Ints, np.ndarray]:
    return wells.row, x.astype(np.float32)


@ray.remote
def _of_chunk(settings: tuple[Any, ...], parts: Sequence[_Part], wells: Sequence[Wells]) -> list[Any] | DataError:
    """`function` of every part, or of all of them together."""
    storage, chain, function, together, fit = settings
    made: list[tuple[Floats, Wells]] = []
    try:
        for part, every in zip(parts, wells, strict=True):
            x, named = _read(part, every, Storage(storage)), every
            if fit is not None:
                chosen = np.flatnonzero(named.in_fit(fit))
                x, named = x[chosen], named.at(chosen)
            for step in chain:
                x = step(x, named)
            made.append((x, named))
        if together:
            rows = [np.concatenate(column) for column in zip(*(each.columns() for _, each in made), strict=True)]
            made = [(np.concatenate([x for x, _ in made]), Wells(*rows))]
        return [function(x, named) for x, named in made]
    except DataError as error:  # raised by the driver: an exception that Ray carries says a traceback
        return error


def _read(part: _Part, wells: Wells, storage: Storage) -> Floats:
    tables = []
    for place in part:
        table = pl.DataFrame(read_table(place.uri, storage))
        features = table.select(pl.exclude(f"^{METADATA}.*$")).to_numpy()
        tables.append(features[place.local].astype(np.float64))
    x = np.concatenate(tables)
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise DataError(
            f"plate {wells.plate[0]}: {int(bad.sum())} wells have features that are not finite; "
            "every feature must be a finite number"
        )
    return x
