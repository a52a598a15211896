"""A new image as a well of a plate of the run: normalised by the fit that `score` stored, looked up in its group's index.

Profiles as they are differ by little but their plate, and their cosines are all near 1; the index of a group is of normalised ones.
No Ray and no model: the image's embedding is made in stages.query.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from sdvae_ray.config import RunConfig
from sdvae_ray.engine.load import Batch
from sdvae_ray.errors import DataError, nearest_or_first
from sdvae_ray.queries.saved_index import (
    FIT,
    ROOT,
    SIMILARITY,
    Names,
    chosen,
    open_index,
    saved,
)
from sdvae_ray.queries.search import Found
from sdvae_ray.retrieval.normalisation import saved_fit
from sdvae_ray.retrieval.normalisation.contract import Chain, apply
from sdvae_ray.retrieval.normalisation.wells import Wells
from sdvae_ray.run.run import Run
from sdvae_ray.schema import METADATA, PLATE_COLUMN, PLATE_KEY
from sdvae_ray.storage import local_copy


class OnPlate(NamedTuple):
    """Where an image is looked up. name: of the index, as `saved` gives it. plate: source/batch/plate. notes: for the answer."""

    name: str
    group: str
    plate: str
    batch: str  # the batch of the plate's wells (score.batch), which tvn aligns; the plate itself where the run names no batch
    chain: Chain
    notes: list[str]


def on_plate(run: Run, plate: str, extractor: str | None, side: str | None) -> OnPlate:
    """Of the plate asked for: Metadata_Plate, or source/batch/plate. Raises DataError for one that is not there, and for a run
    without indices of wells or without a fit.
    """
    names = saved(run)
    if not names:
        raise DataError(f"{run.output} has no index of wells: run `sdvae-ray score` first")
    one, of_side = chosen(run, names, extractor, side, "index of wells")
    among = [name for name in names if name.startswith(f"{one}/{of_side}/")]
    there = _wells(run, among, plate)
    if not there:
        known = [name for each in among for name in _names(run, each).some([PLATE_COLUMN])]
        tail = nearest_or_first(plate, list(dict.fromkeys(known)))
        raise DataError(f"no plate {plate!r} in the index of wells of {one} on {of_side}{tail}")
    return _placed(run, plate, there)


def own_plate(run: Run, row: Batch, extractor: str, side: str) -> OnPlate | str:
    """Of the plate that a row of a manifest names, or why there is none."""
    among = [name for name in saved(run) if name.startswith(f"{extractor}/{side}/")]
    if not among:
        return f"the run has no index of wells of {extractor} on {side}"
    advice = "--plate NAME, a plate of the run, has the image normalised as a well of it"
    if PLATE_COLUMN not in row:
        return advice
    plate = str(row[PLATE_COLUMN][0])
    key = "/".join(str(row[name][0]) for name in PLATE_KEY if name in row)
    there = _wells(run, among, key) or _wells(run, among, plate)
    if not there:
        return f"its plate {plate} is not of the run; {advice}"
    try:
        return _placed(run, plate, there)
    except DataError as error:
        return str(error)


def nearest_wells(run: Run, vector: np.ndarray, place: OnPlate, count: int) -> Found:
    """(the wells nearest to an image's embedding (D,), taken for the profile of a well of the plate; what was searched)."""
    one = np.zeros(1, bool)
    well = Wells(one, one, np.array([place.plate]), np.array([place.batch]), np.zeros(1, np.int64))
    x = apply(place.chain, vector.reshape(1, -1).astype(np.float64), well)
    found = open_index(run, place.name).nearest(x[0], count)
    extractor, side, _ = place.name.split("/", 2)
    how = f"normalised as a well of plate {place.plate}"
    about = {"extractor": extractor, "side": side, "group": place.group, "as": how}
    return found.select(SIMILARITY, pl.col(f"^{METADATA}.*$")), about


def _names(run: Run, index: str) -> Names:
    return Names(local_copy(f"{run.uri(ROOT, index)}.parquet", run.storage))


def _wells(run: Run, among: Sequence[str], plate: str) -> dict[str, pl.DataFrame]:
    """The plate's wells by index, of the indices that have some."""
    found = {}
    for index in among:
        names = _names(run, index)
        rows = names.where({PLATE_COLUMN: plate})
        if rows.height == 0 and plate.count("/") == len(PLATE_KEY) - 1:
            rows = names.where(dict(zip(PLATE_KEY, plate.split("/"), strict=True)))
        if rows.height:
            found[index] = rows
    return found


def _placed(run: Run, asked: str, there: dict[str, pl.DataFrame]) -> OnPlate:
    of_plate = pl.concat_str(PLATE_KEY, separator="/")
    plates = sorted({key for rows in there.values() for key in rows.select(of_plate).to_series()})
    if len(plates) > 1:
        raise DataError(f"{len(plates)} plates of the run are named {asked}: --plate {' or '.join(plates)}")
    index, rows = next(iter(there.items()))
    groups = [str(rows["group"][0]) for rows in there.values()]
    others = [f"wells of {', '.join(groups[1:])} are on plate {asked} too, not searched"] if groups[1:] else []
    try:
        chain = saved_fit.from_bytes(local_copy(f"{run.uri(ROOT, index)}{FIT}", run.storage).read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"the index of wells of {index} was saved without the fit of its normalisation: run `sdvae-ray score` again"
        ) from None
    except DataError as error:
        raise DataError(f"an image cannot be normalised as the wells of {index} were: {error}") from error
    return OnPlate(index, groups[0], plates[0], _batch(run, rows, plates[0]), chain, others)


def _batch(run: Run, rows: pl.DataFrame, plate: str) -> str:
    """Of the wells of a plate, as they were scored."""
    record = run.find_record()
    scored = run.config if record is None else RunConfig.model_validate(record["config"])
    column = scored.score.batch
    if column is None:
        return plate
    batches = rows[column].fill_null("-").unique().sort().to_list()
    if len(batches) > 1:
        raise DataError(f"wells of plate {plate} are of several batches ({column}: {', '.join(map(str, batches[:4]))})")
    return str(batches[0])
