"""Profiles of wells or fields of view for the formats of tables: frames, one plate or file of the run at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.exports.contract import Request
from sdvae_ray.exports.rows import by_file, provenance, usable_fovs
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.features import Feature, features
from sdvae_ray.schema import EMBEDDING, FOV_ID, METADATA, PLATE_KEY, WELL_KEY, embeddings_table

SIDE, EXTRACTOR = f"{METADATA}Side", f"{METADATA}Extractor"  # columns of a table of profiles
_ROWS = {"well": "wells", "fov": "fields of view"}
_HOW = {
    "well": "{aggregate} of the embeddings of a well's fields of view; an embedding is the mean over patches",
    "fov": "mean of the embeddings of a field's patches",
}


@dataclass(frozen=True)
class Profiles:
    """What a table of profiles is made of. key: the columns that name a row. features: of every side of `sides`."""

    run: Run
    level: str
    extractor: str
    sides: list[str]
    plates: tuple[str, ...]
    features: list[Feature]

    @property
    def key(self) -> list[str]:
        """Return the columns whose values name a row."""
        return [*WELL_KEY] if self.level == "well" else [FOV_ID]

    @property
    def names(self) -> list[str]:
        """Return the columns of the features."""
        return [feature.name for feature in self.features]

    def frames(self, side: str) -> Iterator[pl.DataFrame]:
        """Yield frames of one side: the key, Metadata_* and a float32 column per feature. Raises DataError without scores."""
        frames = self._wells(side) if self.level == "well" else self._fovs(side)
        for frame in frames:
            metadata = [name for name in frame.columns if name.startswith(METADATA)]
            keys = [name for name in self.key if name not in metadata]
            yield frame.select(*keys, *metadata, *self.names)

    def _wells(self, side: str) -> Iterator[pl.DataFrame]:
        plates = usable_fovs(self.run, self.plates).select(PLATE_KEY).unique() if self.plates else None
        for frame in self.run.profiles_by_plate(self.extractor, side):
            if absent := [name for name in self.names if name not in frame.columns]:
                raise DataError(
                    f"the profiles of {self.extractor} of {side} have no column {absent[0]}: run `sdvae-ray score` again"
                )
            wells = (
                frame if plates is None else frame.join(plates, on=list(PLATE_KEY), how="semi", maintain_order="left")
            )
            if wells.height:
                yield wells

    def _fovs(self, side: str) -> Iterator[pl.DataFrame]:
        fovs = usable_fovs(self.run, self.plates)
        for part in by_file(fovs):
            fov_ids, values = self.run.read(embeddings_table(self.extractor, side), EMBEDDING, part)
            flat = values.reshape(len(fov_ids), -1).astype("float32")
            numbers = pl.DataFrame({FOV_ID: fov_ids}, schema={FOV_ID: pl.String})
            numbers = pl.concat([numbers, pl.DataFrame(flat, schema=self.names)], how="horizontal")
            yield part.drop("files").join(numbers, on=FOV_ID, how="inner", maintain_order="left")

    def stacked(self) -> Iterator[pl.DataFrame]:
        """Yield the frames of all sides, with Metadata_Side and Metadata_Extractor; all frames have the same columns."""
        columns: list[str] = []
        for side in self.sides:
            for frame in self.frames(side):
                named = frame.with_columns(pl.lit(side).alias(SIDE), pl.lit(self.extractor).alias(EXTRACTOR))
                columns = columns or [*(name for name in named.columns if name not in self.names), *self.names]
                yield named.select(columns)

    @property
    def noun(self) -> str:
        """Return what the rows are of, for the line that the command prints."""
        return f"{_ROWS[self.level]}, {len(self.features)} features of {self.extractor}, sides {', '.join(self.sides)}"

    def facts(self) -> dict[str, Any]:
        """Return what a reader of the table must know: who made it, how it was aggregated, that it is not normalised."""
        score = self.run.config.model_dump(mode="json")["score"]
        models = [f"extractors.{self.extractor}", *(f"autoencoders.{side}" for side in self.sides)]
        return {
            **provenance(self.run, models),
            "level": self.level,
            "extractor": self.extractor,
            "sides": self.sides,
            "features": len(self.features),
            "aggregation": _HOW[self.level].format(aggregate=score["aggregate"]),
            "normalisation": "none",
            "normalisation_of_the_scores": score["normalise"],
        }


def profiles_of(request: Request, together: bool) -> Profiles:
    """Return the profiles that a request asks for.

    together: the sides are laid side by side: all of them by default, and their features must be the same. Else one below the
    other: the originals alone by default. Raises DataError, with the nearest match, for an extractor or a side that the run lacks.
    """
    run = request.run
    embedded = run.embedded()
    if not embedded:
        raise DataError(
            f"{run.output} has no embeddings: add extractors to the run file and run `sdvae-ray encode --extend`"
        )
    present = {extractor for extractor, _ in embedded}
    extractors = [
        *(name for name in run.config.extractors if name in present),
        *sorted(present - run.config.extractors.keys()),
    ]
    extractor = request.extractor or extractors[0]
    if extractor not in present:
        raise DataError(f"no embeddings of extractor {extractor!r}{did_you_mean(extractor, extractors)}")
    known = [side for name, side in embedded if name == extractor]
    order = [side for side in (IMAGE_SIDE, *run.config.sides) if side in known]
    sides = [*request.sides] or (order if together else order[:1])
    for side in sides:
        if side not in known:
            raise DataError(f"no embeddings of {extractor} of side {side!r}{did_you_mean(side, known)}")
    by_side = {
        side: features(run.config, extractor, side, *run.example(embeddings_table(extractor, side), EMBEDDING).shape)
        for side in sides
    }
    first = by_side[sides[0]]
    if unlike := [side for side in sides if by_side[side] != first]:
        raise DataError(
            f"{unlike[0]} has other features of {extractor} than {sides[0]}, so they fit no one table: --side takes one of them"
        )
    return Profiles(run, request.level or "well", extractor, sides, tuple(request.plates), first)
