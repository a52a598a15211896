"""One Parquet file of normalised wells with a map, their neighbours and treatments, for the explorer Embedding Atlas.

Its documentation wants two columns of numbers for the places (--x, --y), a column {ids, distances} with row numbers from 0
(--neighbors), a column of text (--text) or of vectors (--vector).
"""

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.controls import CONTROL, GROUP, TREATED, with_roles
from sdvae_ray.exports.contract import Exported, Request
from sdvae_ray.exports.profiles import EXTRACTOR, SIDE
from sdvae_ray.exports.rows import as_json, of_plates, on_plates, provenance, texts
from sdvae_ray.queries.saved_index import ID, chosen_indices, open_index
from sdvae_ray.retrieval.arrays import Floats, Ints, principal_components, unit_rows
from sdvae_ray.retrieval.ranking.nearest import nearest_others
from sdvae_ray.schema import METADATA, WELL_KEY

SUFFIXES = (".parquet",)
NEEDS: tuple[str, ...] = ()
TAKES = frozenset({"extractor", "side", "plate", "text"})
NEIGHBOURS = 10
_APART = 2.5  # between the middles of two maps, of which each is 2 wide at most
_OPTIONS = "--x projection_x --y projection_y --neighbors neighbors --text text"


def export(request: Request) -> Exported:
    """Write one row per well and side: the originals unless `--side` chooses. The facts are in the metadata of the file's schema,
    key `sdvae_ray`. Raises DataError for a run without an index of wells.
    """
    run, extractor = request.run, request.extractor
    sides, tables, start, place = [], list[pa.Table](), 0, 0
    for asked in request.sides or (None,):
        indices = chosen_indices(run, None, extractor, asked)
        extractor = indices.extractor
        sides.append(indices.side)
        opened = [open_index(run, name) for name in indices.names]
        groups = [index.table.collect() for index in opened]
        on_plates(pl.concat(groups, how="diagonal_relaxed"), request.plates)  # an unknown plate is said
        for index, group in zip(opened, groups, strict=True):
            wells = group.filter(of_plates(request.plates)) if request.plates else group
            if wells.height:
                vectors = unit_rows(index.vectors(wells[ID].to_numpy()))
                table = _rows(request, wells, vectors, start, place, (indices.side, indices.extractor))
                tables.append(table)
                start, place = start + table.num_rows, place + 1
    models = [f"extractors.{extractor}", *(f"autoencoders.{side}" for side in sides)]
    facts = {**provenance(run, models), "level": "well", "extractor": extractor, "sides": sides}
    facts |= {
        "normalisation": run.config.model_dump(mode="json")["score"]["normalise"],
        "projection": "principal components",
    }
    table = pa.concat_tables(tables, promote_options="default")
    with run.storage.written(request.output) as path:
        pq.write_table(table.replace_schema_metadata({"sdvae_ray": as_json(facts)}), path, compression="zstd")
    request.say(f"to open it: uvx embedding-atlas {request.output} {_OPTIONS}")
    return Exported(table.num_rows, f"wells by {extractor}, sides {', '.join(sides)}", [request.output], facts)


def _rows(
    request: Request, wells: pl.DataFrame, vectors: Floats, start: int, place: int, of: tuple[str, str]
) -> pa.Table:
    """Return the rows of one group and side. start: the number of its first row. place: of its map. of: side and extractor."""
    settings = request.run.config.score
    roles = with_roles(settings, wells).with_columns(
        role=pl.when(CONTROL).then(pl.lit("control")).when(TREATED).then(pl.lit("treated")).otherwise(pl.lit("other"))
    )
    metadata = [name for name in wells.columns if name.startswith(METADATA)]
    rows = roles.select(
        pl.concat_str(WELL_KEY, separator="/").alias("well"),
        pl.Series("text", texts(request.run, wells, request.text)),
        "role",
        pl.col(GROUP).cast(pl.String),
        pl.lit(of[0]).alias(SIDE),
        pl.lit(of[1]).alias(EXTRACTOR),
        *metadata,
    )
    places = _scaled(principal_components(vectors)) + np.array([place * _APART, 0.0])
    columns = {"projection_x": places[:, 0], "projection_y": places[:, 1]}
    table = pa.table({**columns, **dict(zip(rows.columns, rows.to_arrow().columns, strict=True))})
    nearest = (
        nearest_others(vectors, np.arange(len(vectors)), NEIGHBOURS) if len(vectors) > 1 else np.zeros((1, 0), int)
    )
    table = table.append_column("neighbors", _neighbours(vectors, nearest, start))
    flat = pa.array(vectors.astype(np.float32).ravel())
    return table.append_column("vector", pa.ListArray.from_arrays(_offsets(len(vectors), vectors.shape[1]), flat))


def _scaled(places: Floats) -> Floats:
    """Return places (n, 2) around 0 and within -1 to 1, by one factor for both axes."""
    largest = float(np.abs(places).max()) or 1.0
    return places / largest


def _neighbours(vectors: Floats, nearest: Ints, start: int) -> pa.StructArray:
    """Return {ids, distances} of every row: numbers of rows of the file, and 1 - cosine."""
    cosine = np.einsum("nd,nkd->nk", vectors, vectors[nearest]) if nearest.size else np.zeros(nearest.shape)
    offsets = _offsets(*nearest.shape)
    ids = pa.ListArray.from_arrays(offsets, pa.array((nearest + start).ravel()))
    distances = pa.ListArray.from_arrays(offsets, pa.array(np.clip(1 - cosine, 0, 2).astype(np.float32).ravel()))
    return pa.StructArray.from_arrays([ids, distances], ["ids", "distances"])


def _offsets(rows: int, each: int) -> pa.Array:
    return pa.array(np.arange(rows + 1) * each, pa.int32())
