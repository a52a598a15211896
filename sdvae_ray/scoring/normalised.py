"""Profiles of a group of wells, read from storage and normalised: held if they are few, else plate by plate through Ray."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import numpy as np
import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import TASK_CPUS, in_order
from sdvae_ray.config import StorageConfig
from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.arrays import Bools, Floats
from sdvae_ray.retrieval.normalisation.contract import Chain, apply
from sdvae_ray.retrieval.normalisation.normalise import Normalised, fit_steps, resolve_steps
from sdvae_ray.retrieval.normalisation.shelf import ResolvedStep
from sdvae_ray.retrieval.normalisation.source import HeldProfiles, gathered
from sdvae_ray.retrieval.normalisation.wells import Wells, require_finite
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.table_files import read_table
from sdvae_ray.schema import METADATA, WELL_COLUMN
from sdvae_ray.scoring.profiles import FILE, ROW, Profiles
from sdvae_ray.storage import Storage

T = TypeVar("T")

HELD_BYTES = 1 << 29  # of float64 profiles of a group, which are then read once and held
FIT_BYTES = 1 << 27  # of float64 profiles of a fit, where the group is not held; a larger fit is made from moments
_PLATES = 16  # read and reduced by one task
_NUMBER = "_number"  # of a well in its source


@dataclass(frozen=True)
class StoredProfiles:
    """A ProfileSource of profiles on storage, one part per plate; each pass over it reads every file once, in Ray tasks.

    files: URIs. plates: one table per plate, with FILE (an index into `files`), ROW and _NUMBER of every well, file by file.
    """

    files: list[str]
    plates: list[pl.DataFrame]
    wells: Wells
    width: int
    storage: StorageConfig
    fit_bytes: int = FIT_BYTES
    chain: Chain = ()

    def through(self, chain: Chain) -> Self:
        return replace(self, chain=self.chain + chain, width=chain[-1].width if chain else self.width)

    def holds(self, rows: int) -> bool:
        return rows * self.width * 8 <= self.fit_bytes

    def map(
        self, function: Callable[[Floats, Wells], T], fit: str | None = None, together: bool = False
    ) -> Iterator[T]:
        settings = ray.put((self.storage, self.files, self.chain, function, fit, together))
        chunks = [self.plates[at : at + _PLATES] for at in range(0, len(self.plates), _PLATES)]
        arguments = (
            (settings, chunk, [self.wells.at(plate[_NUMBER].to_numpy()) for plate in chunk]) for chunk in chunks
        )
        for results in in_order(_chunk_results, arguments):
            yield from results


@dataclass(frozen=True)
class Normaliser:
    """The profiles of a group and the steps that normalise them; call it with the wells to fit on.

    It travels to any process that Ray is connected in. The normalised profiles are float64 if the source is held, else float32.
    """

    source: HeldProfiles | StoredProfiles
    steps: list[ResolvedStep]

    @property
    def held_bytes(self) -> int:
        """Return how many bytes of profiles travel with the normaliser; 0 if they are read from storage."""
        return self.source.x.nbytes if isinstance(self.source, HeldProfiles) else 0

    def __call__(self, fit: Bools, fittable: Bools) -> Normalised:
        """Return the profiles normalised by a fit on the wells `fit` (W,) bool. fittable: (W,) bool, see `normalise`."""
        wells = replace(self.source.wells, is_control=fit, fittable=fittable)
        return fit_steps(replace(self.source, wells=wells), self.steps)


def normaliser_of(run: Run, sets: Sequence[tuple[Profiles, pl.DataFrame]], held_bytes: int = HELD_BYTES) -> Normaliser:
    """Return the normaliser of wells with FILE, ROW, plate and, if score.batch names a column, that column.

    sets: profiles and their wells, stacked in this order; wells of one plate in several sets are normalised as one plate.
    held_bytes: profiles that take at most this many bytes as float64 are held in memory; more are read again for every pass.
    Raises DataError for profiles that are not finite, and for a batch that differs within a well.
    """
    batch = run.config.score.batch
    if batch is not None and any(batch not in wells.columns for _, wells in sets):
        raise DataError(f"score.batch: {batch} differs within a well")
    files: list[str] = []
    frames = []
    for profiles, table in sets:
        frames.append(table.select("plate", WELL_COLUMN, *([batch] if batch else []), pl.col(FILE) + len(files), ROW))
        files += profiles.files
    stacked = pl.concat(frames).with_row_index(_NUMBER)
    plates = stacked.partition_by("plate", maintain_order=True)
    plates = [plate.select(FILE, ROW, _NUMBER).sort(FILE, maintain_order=True) for plate in plates]
    plate_names = stacked["plate"].to_numpy().astype(str)
    batch_names = stacked[batch].fill_null("-").to_numpy().astype(str) if batch else plate_names
    nobody = np.zeros(stacked.height, bool)
    position = stacked[WELL_COLUMN].to_numpy().astype(str)
    wells = Wells(nobody, nobody, plate_names, batch_names, np.arange(stacked.height), position)
    stored = StoredProfiles(files, plates, wells, sets[0][0].width, run.config.storage, min(FIT_BYTES, held_bytes))
    steps = resolve_steps(run.config.score.normalise)
    if stacked.height * stored.width * 8 > held_bytes:
        return Normaliser(stored, steps)
    return Normaliser(HeldProfiles(gathered(stored, np.float64), wells), steps)


@ray.remote(num_cpus=TASK_CPUS)
def _chunk_results(
    settings: tuple[Any, ...], plates: Sequence[pl.DataFrame], wells: Sequence[Wells]
) -> list[Any] | DataError:
    """Return the results of `function`: one per plate, or one of all plates together; a DataError is returned, not raised."""
    storage, files, chain, function, fit, together = settings
    parts: list[tuple[Floats, Wells]] = []
    try:
        for plate, own in zip(plates, wells, strict=True):
            x = _read(plate, files, Storage(storage))
            require_finite(x, own.plate)
            if fit is not None:
                in_fit = np.flatnonzero(own.in_fit(fit))
                x, own = x[in_fit], own.at(in_fit)
            parts.append((apply(chain, x, own), own))
        if together:
            columns = [np.concatenate(arrays) for arrays in zip(*(own.columns() for _, own in parts), strict=True)]
            parts = [(np.concatenate([x for x, _ in parts]), Wells(*columns))]
        return [function(x, own) for x, own in parts]
    except DataError as error:  # raised by the driver: an exception that Ray carries says a traceback
        return error


def _read(plate: pl.DataFrame, files: Sequence[str], storage: Storage) -> Floats:
    """Return the profiles (n, D) of all wells of a plate, file by file."""
    profiles = []
    for (number,), rows in plate.group_by(FILE, maintain_order=True):
        table = pl.DataFrame(read_table(files[int(number)], storage))
        features = table.select(pl.exclude(f"^{METADATA}.*$")).to_numpy()
        profiles.append(features[rows[ROW].to_numpy()].astype(np.float64))
    return np.concatenate(profiles)
