"""Where on the plates, and near which wells? Plate heat maps, a map of the wells and the wells themselves, to be brushed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import polars as pl

from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Section
from sdvae_ray.report.facts.wells import MOST, NEAREST, Wells, keys_of, wells_of
from sdvae_ray.report.pictures.thumbnails import thumbnails
from sdvae_ray.retrieval.positions import place_of
from sdvae_ray.schema import BATCH_COLUMN, PLATE_COLUMN, WELL_COLUMN

SHAPES = ((8, 12), (16, 24), (32, 48))  # rows and columns of plates of 96, 384 and 1,536 wells


@dataclass(frozen=True)
class Explorer:
    """The wells for the page's script.

    shapes             rows and columns of every plate
    rows, columns      the position of every well, from 0; None: its name is no position
    pictures           number of a well -> a thumbnail, a PNG
    """

    wells: Wells
    plates: list[str]
    shapes: list[tuple[int, int]]
    plate_of: list[int]
    positions: list[tuple[int, int] | None]
    batch_of: list[str]
    pictures: dict[int, bytes] = field(default_factory=dict)


def with_thumbnails(scored: ScoredRun) -> Section | None:
    """Return the section with thumbnails of the wells, which takes their pixels."""
    made = section(scored)
    if made is None:
        return None
    explorer = cast(Explorer, made.content)
    pictures, words = thumbnails(scored, explorer.wells.table, keys_of(scored))
    return replace(made, lead=f"{made.lead} {words}".rstrip(), content=replace(explorer, pictures=pictures))


def section(scored: ScoredRun) -> Section | None:
    """Return the section; None for a run whose fields name no wells. content: an Explorer."""
    wells = wells_of(scored)
    if wells is None:
        return None
    table = wells.table
    plate = pl.col(PLATE_COLUMN) if PLATE_COLUMN in table.columns else pl.lit("")
    batch = pl.col(BATCH_COLUMN) if BATCH_COLUMN in table.columns else pl.lit("")
    known = [name for name in (BATCH_COLUMN, PLATE_COLUMN) if name in table.columns]
    whole = pl.concat_str(known, separator="/") if known else pl.lit("")
    is_unique = table.select(whole.n_unique() == plate.n_unique()).item()
    names = table.select((plate if is_unique else whole).alias("name"))["name"].to_list()
    plates = list(dict.fromkeys(names))
    number = {name: place for place, name in enumerate(plates)}
    plate_of = [number[name] for name in names]
    positions = [position_of(name) for name in table[WELL_COLUMN].to_list()]
    content = Explorer(
        wells,
        plates,
        _shapes(len(plates), plate_of, positions),
        plate_of,
        positions,
        table.select(batch.alias("b"))["b"].to_list(),
    )
    lead = (
        "Draw a box over wells of a map or of a plate: all show them marked, and they are listed. By keyboard: the arrow keys "
        "go from well to well, Enter marks one, Escape clears. Numbers are rounded to 1/254 of their range. A map shows the first "
        "two principal components of the normalised profiles of one extractor and side, each on axes of its own."
    )
    if wells.total > table.height:
        lead += (
            f" {table.height:,} of {wells.total:,} wells are here, chosen by hash: a page holds no more than {MOST:,}."
        )
    if wells.neighbours is not None:
        lead += (
            f" The {NEAREST} nearest wells of a well are by cosine of its profile by {wells.nearest_by}, in its group."
        )
    title = "Where on the plates, and near which wells?"
    return Section("wells", title, "Plates and map", lead=lead, template="wells.html", content=content)


def position_of(well: str) -> tuple[int, int] | None:
    """Return (row, column) from 0 of a well's name such as B07 or AF48; None for another form, or off every plate."""
    place, (rows, columns) = place_of(well), SHAPES[-1]
    return place if place is not None and place[0] < rows and 0 <= place[1] < columns else None


def _shapes(plates: int, plate_of: Sequence[int], positions: Sequence[tuple[int, int] | None]) -> list[tuple[int, int]]:
    """Return the least shape of SHAPES that holds all wells of a plate, per plate."""
    most = [(0, 0)] * plates
    for plate, position in zip(plate_of, positions, strict=True):
        if position is not None:
            most[plate] = (max(most[plate][0], position[0]), max(most[plate][1], position[1]))
    return [next(shape for shape in SHAPES if row < shape[0] and column < shape[1]) for row, column in most]
