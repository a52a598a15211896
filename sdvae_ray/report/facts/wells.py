"""The wells of a run as columns to explore: where each stands, what it holds, its numbers, its place on maps, its neighbours.

A page holds at most MOST wells; of more, a sample by hash. Numbers are rounded to 255 steps of their range: enough for a colour.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.controls import CONTROL, TREATED, joined, with_roles
from sdvae_ray.errors import SdvaeRayError
from sdvae_ray.queries import saved_index
from sdvae_ray.report.facts.sample import sampled
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.retrieval.arrays import principal_components, unit_rows
from sdvae_ray.retrieval.ranking.nearest import nearest_others
from sdvae_ray.run.quality import MEAN
from sdvae_ray.schema import ERROR, FOV_ID, WELL_KEY, metrics_table

MOST = 100_000  # wells of a page
MANY = 20_000  # above so many, fewer maps and numbers, and no neighbours
NEAREST = 5
_MAPS, _MAPS_OF_MANY = 8, 3
_MEASURES, _MEASURES_OF_MANY = 48, 20
_METRICS = ("foreground_ssim", "ssim", "psnr", "mae")  # the first of them that the run has
_STEPS = 254  # of a number's range; 255 stands for a missing one
_PLACES = 65_534  # of a map's axis; 65,535 stands for a well that is not on the map

Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Measure:
    """A number of every well. codes: (N,) uint8: 0..254 from `low` to `high`, 255: missing."""

    label: str
    low: float
    high: float
    codes: Codes


@dataclass(frozen=True)
class WellMap:
    """The first two principal components. places: (N, 2) uint16 over the range of each; 65,535: not on the map."""

    label: str
    places: NDArray[np.uint16]


@dataclass(frozen=True)
class Wells:
    """The wells. table: one row per well: the columns of WELL_KEY that the run has, compound, name, role, group, fields, failed.

    total       wells of the run, of which the table may be a sample
    neighbours  (N, NEAREST) int32, numbers of wells, -1: none; by cosine of the profiles of `nearest_by`; None: too many wells
    """

    table: pl.DataFrame
    total: int
    measures: list[Measure]
    maps: list[WellMap]
    neighbours: NDArray[np.int32] | None
    nearest_by: str


def wells_of(scored: ScoredRun) -> Wells | None:
    """Return the wells of a run; None if its fields name no wells."""
    keys = keys_of(scored)
    if not keys:
        return None
    whole = well_table(scored, keys)
    table = _sampled(whole, keys)
    is_large = table.height > MANY
    seeing = _seeing(scored)
    known = (measure for measure in _measures(scored, table, keys, seeing) if (measure.codes != 255).any())
    measures = list(islice(known, _MEASURES_OF_MANY if is_large else _MEASURES))
    indices = _indices(scored)
    maps, neighbours = [], None
    for number, (extractor, side) in enumerate(
        _spaces(scored, indices, seeing)[: _MAPS_OF_MANY if is_large else _MAPS]
    ):
        names = [name for name in indices if name.startswith(f"{extractor}/{side}/")]
        places, nearest = _map(scored, table, keys, names, number == 0 and not is_large)
        maps.append(WellMap(f"{scored.label(extractor)}, {_side_words(scored, side)}", places))
        neighbours = nearest if number == 0 else neighbours
    return Wells(table, whole.height, measures, maps, neighbours, maps[0].label if maps else "")


def keys_of(scored: ScoredRun) -> list[str]:
    """Return the columns of WELL_KEY that the run has; none if its fields name no wells."""
    keys = [name for name in WELL_KEY if name in scored.fovs.columns]
    return keys if WELL_KEY[-1] in keys and scored.fovs.height else []


def as_texts(keys: Sequence[str]) -> pl.Expr:
    """Return the columns of `keys` as `Wells.table` has them: text, empty where a value is missing."""
    return pl.col(list(keys)).cast(pl.String).fill_null("")


def first_fields(scored: ScoredRun, keys: Sequence[str]) -> pl.DataFrame:
    """Return one row per well with a usable field of view: its keys as text, and the fov_id of the first of its fields."""
    fields = scored.usable.sort(FOV_ID).group_by(list(keys), maintain_order=True).agg(pl.col(FOV_ID).first())
    return fields.with_columns(as_texts(keys))


def _side_words(scored: ScoredRun, side: str) -> str:
    return "originals" if side == IMAGE_SIDE else scored.label(side)


def well_table(scored: ScoredRun, keys: list[str]) -> pl.DataFrame:
    """Return one row per well, in the order of the keys: these as text, compound, name, role, group, fields, failed."""
    score, fovs = scored.config.score, scored.fovs
    compound = score.perturbation if score.perturbation in fovs.columns else None
    try:
        roles = with_roles(score, fovs)
    except SdvaeRayError:  # a run of failures alone has no columns that the expression names
        roles = fovs.with_columns(pl.lit(False).alias(CONTROL), pl.lit(False).alias(TREATED))
    role = pl.when(CONTROL).then(pl.lit("control")).when(TREATED).then(pl.lit("treated")).otherwise(pl.lit("other"))
    groups = [name for name in score.group if name in fovs.columns]
    columns = roles.with_columns(
        compound=(pl.col(compound).fill_null("") if compound else pl.lit("")), role=role, group=joined(groups)
    )
    table = columns.group_by(keys).agg(
        pl.col("compound", "role", "group").first(), fields=pl.len(), failed=pl.col(ERROR).is_not_null().sum()
    )
    names = scored.treatments()
    known = pl.col("compound").replace(names) if names else pl.col("compound")
    name = pl.when(pl.col("compound") == "").then(pl.col("role")).otherwise(known)
    return table.with_columns(as_texts(keys)).with_columns(name=name).sort(keys)


def _sampled(table: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    if table.height <= MOST:
        return table
    names = table.select(pl.concat_str(keys, separator="/")).to_series()
    hashes = np.array([zlib.crc32(name.encode()) for name in names.to_list()])
    return table[np.sort(np.argsort(hashes, kind="stable")[:MOST])]


def _measures(scored: ScoredRun, table: pl.DataFrame, keys: list[str], seeing: set[str]) -> Iterator[Measure]:
    """Yield the numbers of the wells: failures, normalised AP, a metric per side, QC per stain. A metric is read when it is asked
    for."""
    yield _measure("fields of view that failed", table["failed"].cast(pl.Float64).to_numpy())
    wells = scored.scores.wells
    if wells.height:
        for extractor in sorted(scored.extractors(wells["extractor"]), key=lambda name: name not in seeing):
            here = wells.filter(pl.col("extractor") == extractor)
            for side in scored.sides(here["side"]):
                rows = here.filter(pl.col("side") == side)
                label = f"normalised AP, {scored.label(extractor)}, {_side_words(scored, side)}"
                yield _measure(label, _joined(table, rows, keys, "normalised_ap"))
    stored = {name.removeprefix("metrics/") for name in scored.run.tables() if name.startswith("metrics/")}
    metric = next((name for name in _METRICS if name in scored.config.metrics), None)
    fovs = sampled(scored) if scored.usable.height else scored.usable
    for side in scored.sides(stored) if metric is not None and fovs.height else ():
        assert metric is not None
        ids, values = scored.run.read(metrics_table(side), metric, fovs)
        finite = (np.where(np.isfinite(field), field, np.nan).reshape(-1) for field in values)
        means = pl.DataFrame(
            {FOV_ID: ids, "value": [float(np.nanmean(row)) if np.isfinite(row).any() else None for row in finite]}
        )
        rows = fovs.select(FOV_ID, *keys).join(means, on=FOV_ID, maintain_order="left")
        yield _measure(f"{metric}, {scored.label(side)}", _joined(table, rows, keys, "value"))
    quality = scored.quality.means
    for stain in scored.config.image.stains:
        yield _measure(f"mean intensity, {stain}", _joined(table, quality, keys, f"{MEAN}_{stain}"))


def _joined(table: pl.DataFrame, rows: pl.DataFrame, keys: list[str], column: str) -> NDArray[np.float64]:
    """Return (N,) the mean of a column over the rows of every well; NaN without rows."""
    means = rows.with_columns(as_texts(keys)).group_by(keys).agg(value=pl.col(column).mean())
    joined_rows = table.select(keys).join(means, on=keys, how="left", maintain_order="left")
    return joined_rows["value"].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _measure(label: str, values: NDArray[np.float64]) -> Measure:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    shares = (values - low) / ((high - low) or 1.0)
    codes = np.where(np.isfinite(values), np.round(np.nan_to_num(shares, posinf=0, neginf=0) * _STEPS), 255)
    return Measure(label, low, high, codes.astype(np.uint8))


def _indices(scored: ScoredRun) -> list[str]:
    """Return the names of the saved indices; none if storage cannot list them."""
    try:
        return list(saved_index.saved(scored.run))
    except (SdvaeRayError, OSError):
        return []


def _spaces(scored: ScoredRun, indices: list[str], seeing: set[str]) -> list[tuple[str, str]]:
    """Return (extractor, side) of the saved indices: the originals of every extractor, then the sides of the first."""
    present = {(name.split("/")[0], name.split("/")[1]) for name in indices}
    extractors = sorted(scored.extractors(extractor for extractor, _ in present), key=lambda name: name not in seeing)
    ordered = [
        (extractor, side) for extractor in extractors for side in scored.sides(s for e, s in present if e == extractor)
    ]
    originals = [space for space in ordered if space[1] == IMAGE_SIDE]
    return originals + [space for space in ordered if space not in originals]


def _seeing(scored: ScoredRun) -> set[str]:
    """Return the extractors that retrieve a compound of the originals: the page shows these first."""
    table = scored.scores.compounds
    if table.height == 0:
        return set()
    retrieved = (pl.col("side") == IMAGE_SIDE) & pl.col("retrieved").cast(pl.Boolean)
    return set(table.filter(retrieved)["extractor"].to_list())


def _map(
    scored: ScoredRun, table: pl.DataFrame, keys: list[str], indices: list[str], wants_neighbours: bool
) -> tuple[NDArray[np.uint16], NDArray[np.int32] | None]:
    """Return the places of the wells on the first two principal components of their normalised profiles, group by group, and the
    nearest wells of the same group. indices: of the groups of one extractor and side."""
    places = np.full((table.height, 2), _PLACES + 1, np.uint16)
    nearest = np.full((table.height, NEAREST), -1, np.int32) if wants_neighbours else None
    numbered = table.select(keys).with_row_index("number")
    for name in indices:
        opened = saved_index.open_index(scored.run, name)
        ids = opened.table.select(saved_index.ID, *keys).collect().with_columns(as_texts(keys))
        rows = numbered.join(ids, on=keys, how="inner", maintain_order="left")
        if rows.height < 3:
            continue
        numbers = rows["number"].to_numpy()
        vectors = opened.vectors(rows[saved_index.ID].to_numpy())
        places[numbers] = _scaled(principal_components(vectors))
        if nearest is not None:
            count = min(NEAREST, rows.height - 1)
            nearest[numbers, :count] = numbers[nearest_rows(vectors, count)]
    return places, nearest


def nearest_rows(vectors: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return (N, count): for every row the rows of highest cosine but itself, the nearest first; ties by the row's number."""
    return nearest_others(unit_rows(vectors), np.arange(len(vectors)), count)


def _scaled(places: NDArray[np.float64]) -> NDArray[np.uint16]:
    low, high = places.min(0), places.max(0)
    return np.round((places - low) / np.where(high > low, high - low, 1) * _PLACES).astype(np.uint16)
