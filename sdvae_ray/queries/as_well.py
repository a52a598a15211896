"""A new image as a well of a plate of the run: normalised by the fit that `score` stored, and looked up in its group's index.

Profiles that are not normalised differ mostly by their plate, and their cosines are all near 1; the index of a group holds
normalised profiles. No Ray and no model: the image's embedding is made in queries.new_image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from sdvae_ray.config import RunConfig
from sdvae_ray.engine.files.load import Batch
from sdvae_ray.errors import DataError, nearest_or_first
from sdvae_ray.queries.saved_index import (
    FIT,
    ROOT,
    SIMILARITY,
    chosen_indices,
    known_names,
    open_index,
    open_table,
    saved,
)
from sdvae_ray.queries.search import Answer
from sdvae_ray.retrieval.normalisation import saved_fit
from sdvae_ray.retrieval.normalisation.contract import Affine, Chain, apply
from sdvae_ray.retrieval.normalisation.wells import POSITIONAL, Wells
from sdvae_ray.run.run import Run
from sdvae_ray.schema import METADATA, PLATE_COLUMN, PLATE_KEY
from sdvae_ray.storage import local_copy


class OnPlate(NamedTuple):
    """The index of wells in which an image is looked up, and the fit that normalises it as a well of a plate.

    name   of the index, as `saved` returns it
    plate  source/batch/plate
    batch  the batch of the plate's wells (score.batch), which tvn aligns; the plate itself if the run names no batch
    chain  the fit of the normalisation
    notes  for the answer
    """

    name: str
    group: str
    plate: str
    batch: str
    chain: Chain
    notes: list[str]


def on_plate(run: Run, plate: str, extractor: str | None, side: str | None) -> OnPlate:
    """Return the index and fit of the plate asked for. plate: Metadata_Plate, or source/batch/plate.

    Raises DataError for an unknown plate, and for a run without indices of wells or without a fit.
    """
    indices = chosen_indices(run, None, extractor, side)
    wells = _plate_wells(run, indices.names, plate)
    if not wells:
        plates = [name for index in indices.names for name in known_names(open_table(run, index), PLATE_COLUMN)]
        tail = nearest_or_first(plate, list(dict.fromkeys(plates)))
        raise DataError(f"no plate {plate!r} in the {indices.noun} of {indices.extractor} on {indices.side}{tail}")
    return _with_fit(run, plate, wells)


def own_plate(run: Run, row: Batch, extractor: str, side: str) -> OnPlate | str:
    """Return the index and fit of the plate that a row of a manifest names, or the reason why it has no index or fit."""
    names = [name for name in saved(run) if name.startswith(f"{extractor}/{side}/")]
    if not names:
        return f"the run has no index of wells of {extractor} on {side}"
    advice = "--plate NAME, a plate of the run, has the image normalised as a well of it"
    if PLATE_COLUMN not in row:
        return advice
    plate = str(row[PLATE_COLUMN][0])
    key = "/".join(str(row[name][0]) for name in PLATE_KEY if name in row)
    wells = _plate_wells(run, names, key) or _plate_wells(run, names, plate)
    if not wells:
        return f"its plate {plate} is not of the run; {advice}"
    try:
        return _with_fit(run, plate, wells)
    except DataError as error:
        return str(error)


def nearest_wells(run: Run, vector: np.ndarray, place: OnPlate, count: int) -> Answer:
    """Return the `count` wells nearest to an image's embedding (D,), which is normalised as the profile of a well of the plate."""
    one = np.zeros(1, bool)
    well = Wells(one, one, np.array([place.plate]), np.array([place.batch]), np.zeros(1, np.int64), np.array([""]))
    x = apply(place.chain, vector.reshape(1, -1).astype(np.float64), well)
    neighbours = open_index(run, place.name).nearest(x[0], count)
    extractor, side, _ = place.name.split("/", 2)
    how = f"normalised as a well of plate {place.plate}"
    facts = {"extractor": extractor, "side": side, "group": place.group, "as": how}
    return Answer(neighbours.select(SIMILARITY, f"^{METADATA}.*$"), facts)


def _plate_wells(run: Run, names: Sequence[str], plate: str) -> dict[str, pl.DataFrame]:
    """Return index -> the plate's wells, for the indices that have some. plate: Metadata_Plate, or source/batch/plate."""
    wells = {}
    for name in names:
        table = open_table(run, name)
        rows = table.filter(pl.col(PLATE_COLUMN) == plate).collect()
        if rows.height == 0 and plate.count("/") == len(PLATE_KEY) - 1:
            rows = table.filter(**dict(zip(PLATE_KEY, plate.split("/"), strict=True))).collect()
        if rows.height:
            wells[name] = rows
    return wells


def _with_fit(run: Run, plate: str, wells: dict[str, pl.DataFrame]) -> OnPlate:
    """Return the first index of `wells` with its fit. Raises DataError if several plates have the name, and without a fit."""
    plate_key = pl.concat_str(PLATE_KEY, separator="/")
    plates = sorted({key for rows in wells.values() for key in rows.select(plate_key).to_series()})
    if len(plates) > 1:
        raise DataError(f"{len(plates)} plates of the run are named {plate}: --plate {' or '.join(plates)}")
    name, rows = next(iter(wells.items()))
    group, *others = [str(rows["group"][0]) for rows in wells.values()]
    notes = [f"wells of {', '.join(others)} are on plate {plate} too, not searched"] if others else []
    try:
        chain = saved_fit.from_bytes(local_copy(f"{run.uri(ROOT, name)}{FIT}", run.storage).read_bytes())
    except FileNotFoundError:
        lacking = f"the index of wells of {name} was saved without the fit of its normalisation"
        raise DataError(f"{lacking}: run `sdvae-ray score` again") from None
    except DataError as error:
        raise DataError(f"an image cannot be normalised as the wells of {name} were: {error}") from error
    if any(step.by in POSITIONAL for step in chain if isinstance(step, Affine)):
        notes.append("the image has no place on the plate, so no effect of a row or column is taken off")
    return OnPlate(name, group, plates[0], _batch(run, rows, plates[0]), chain, notes)


def _batch(run: Run, wells: pl.DataFrame, plate: str) -> str:
    """Return the batch of a plate's wells, by the score.batch of the latest score; the plate if score.batch names no column."""
    record = run.find_record()
    scored = run.config if record is None else RunConfig.model_validate(record["config"])
    column = scored.score.batch
    if column is None:
        return plate
    batches = wells[column].fill_null("-").unique().sort().to_list()
    if len(batches) > 1:
        raise DataError(f"wells of plate {plate} are of several batches ({column}: {', '.join(map(str, batches[:4]))})")
    return str(batches[0])
