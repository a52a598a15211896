"""Calibration: a hashed sample of fields of every plate gives the scaling constants, and a manifest takes them.

The pixels are read by tasks of Ray where there are many. The constants depend on the manifest, the pixels and the seed alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
from rich.console import Console

from sdvae_ray.cluster.failures import unwrapped_failures
from sdvae_ray.cluster.ordered_tasks import mapped, stage
from sdvae_ray.cluster.session import ray_session
from sdvae_ray.console import print_line, waiting
from sdvae_ray.encoding.calibration.constants import DIVISOR, FOVS, OFFSET, SPREAD, constants, outliers
from sdvae_ray.encoding.calibration.sample import sampled_fovs
from sdvae_ray.engine.files.percentiles import HIGH, LOW, PROBLEM, STAIN, field_percentiles
from sdvae_ray.errors import DataError
from sdvae_ray.schema import (
    FOV_ID,
    PLATE_KEY,
    SCALE_BITS,
    SOURCE_COLUMN,
    divisor_column,
    offset_column,
    sampled_column,
    spread_column,
)
from sdvae_ray.sources.manifest.index import index_uri
from sdvae_ray.sources.manifest.reader import iterate_row_groups, read_rows, row_groups, with_moved_shards
from sdvae_ray.sources.manifest.row import as_batch, located_stains
from sdvae_ray.sources.manifest.writer import by_plate, writing
from sdvae_ray.storage import Storage

_FEW = 48  # fields that the driver reads itself: Ray would take longer to start
_PER_TASK = 8  # fields
_MEASURED = {FOV_ID: pl.String, STAIN: pl.String, LOW: pl.Float64, HIGH: pl.Float64, PROBLEM: pl.String}
_WRITTEN = {offset_column: OFFSET, divisor_column: DIVISOR, sampled_column: FOVS, spread_column: SPREAD}

Level = Literal["source", "plate"]


@dataclass(frozen=True)
class CalibrateOptions:
    """The options of `calibrate`.

    by           the column whose values are the groups
    level        of the constants that are written: a group's, or every plate's own
    fovs         number of fields of a plate that are read
    percentiles  of the corrected pixels: the first becomes 0, the second the largest integer
    bits         of that integer: those of image.scaling.bits
    threshold    robust z from which a plate stands out
    """

    by: str = SOURCE_COLUMN
    level: Level = "source"
    fovs: int = 8
    percentiles: tuple[float, float] = (0.1, 99.9)
    bits: int = 8
    threshold: float = 5.0
    seed: int = 0


@dataclass(frozen=True)
class Calibrated:
    """The result of `calibrate`.

    fovs      fields that were read
    failed    fov_id -> why a field of the sample could not be read
    plates    plates of the manifest
    groups    one row per group and stain: its value, stain, offset, divisor, fovs, spread
    outliers  plates that stand out, see `constants.outliers`
    unread    plates of which no field could be read: they take the constants of their group
    """

    fovs: int
    failed: dict[str, str]
    plates: int
    groups: list[dict[str, Any]]
    outliers: list[dict[str, Any]]
    unread: list[str]


def calibrate(
    manifest: str,
    output: str,
    storage: Storage,
    console: Console,
    options: CalibrateOptions,
    address: str | None = None,
) -> Calibrated:
    """Measure a sample of the fields, and write the manifest with the constants of every row to `output`.

    address: a Ray cluster; None: the cluster of this job, else this machine. Raises DataError for a manifest that is none, a
    group of which no field can be read, and a stain without a spread; StorageError.
    """
    stains = located_stains(row_groups(manifest, storage)[1])
    if not stains:
        raise DataError(f"{manifest} is not a manifest: `sdvae-ray manifest` makes one")
    with waiting(console, "calibrate: choosing the sample"):
        chosen = sampled_fovs(manifest, options.by, options.fovs, options.seed, storage)
    plates = chosen.select(PLATE_KEY).n_unique()
    print_line(console, f"calibrate: {chosen.height} fields of {plates} plates, {len(stains)} stains")
    measured = pl.DataFrame(
        list(_measured(manifest, chosen, stains, options, storage, console, address)), schema=_MEASURED
    )
    failed = dict(measured.filter(pl.col(PROBLEM).is_not_null()).sort(FOV_ID).select(FOV_ID, PROBLEM).iter_rows())
    keys = list(dict.fromkeys([options.by, *PLATE_KEY]))
    fields = chosen.select(FOV_ID, *keys).join(
        measured.filter(pl.col(PROBLEM).is_null()), on=FOV_ID, maintain_order="left"
    )
    for value in chosen[options.by].unique().sort().to_list():
        if fields.filter(pl.col(options.by) == value).is_empty():
            of_value = chosen.filter(pl.col(options.by) == value)[FOV_ID].to_list()
            raise DataError(f"{value}: not one of {len(of_value)} fields can be read, the first: {failed[of_value[0]]}")
    groups = constants(fields, [options.by], options.bits)
    every_plate = chosen.select(keys).unique().sort(keys)
    unread = every_plate.join(fields.select(keys).unique(), on=keys, how="anti", maintain_order="left")
    table = every_plate.join(groups, on=options.by, how="left", maintain_order="left")
    if options.level == "plate":
        own = constants(fields, keys, options.bits)
        table = pl.concat([own, table.join(unread, on=keys, how="semi", maintain_order="left").select(own.columns)])
    _write(
        manifest,
        output,
        table.drop(options.by) if options.by not in PLATE_KEY else table,
        stains,
        options.bits,
        storage,
    )
    return Calibrated(
        fovs=chosen.height - len(failed),
        failed=failed,
        plates=plates,
        groups=groups.rows(named=True),
        outliers=outliers(fields, options.by, options.threshold),
        unread=["/".join(row) for row in unread.select(PLATE_KEY).iter_rows()],
    )


def _measured(
    manifest: str,
    chosen: pl.DataFrame,
    stains: list[str],
    options: CalibrateOptions,
    storage: Storage,
    console: Console,
    address: str | None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of `field_percentiles` of the fields."""
    keys = chosen.select("row_group", "row").sort("row_group", "row")
    with waiting(console, "calibrate: reading the rows of the sample"):
        rows = read_rows(manifest, keys, storage)  # by the driver, once: a large manifest has a large footer
    starts = range(0, keys.height, _PER_TASK)
    pieces = [(as_batch(rows.slice(start, _PER_TASK)), stains, options.percentiles, storage.config) for start in starts]
    if keys.height <= _FEW:
        with waiting(console, f"calibrate: percentiles of {keys.height} fields"):
            for piece in pieces:
                yield from field_percentiles(*piece)
        return
    with ray_session(address, console), unwrapped_failures(), stage(console, "calibrate: percentiles of the fields"):
        for percentiles in mapped(field_percentiles, pieces):
            yield from percentiles


def _write(manifest: str, output: str, table: pl.DataFrame, stains: list[str], bits: int, storage: Storage) -> None:
    """Write the manifest with the constants of `table`: plate key, stain, and the columns of `_WRITTEN`."""
    wide = table.select(PLATE_KEY).unique().sort(PLATE_KEY)
    for stain in stains:
        columns = {name(stain): pl.col(value) for name, value in _WRITTEN.items()}
        of_stain = table.filter(pl.col(STAIN) == stain).select(*PLATE_KEY, **columns)
        wide = wide.join(of_stain, on=PLATE_KEY, how="left", maintain_order="left")
    wide = wide.with_columns(pl.lit(bits, pl.Int32).alias(SCALE_BITS))
    added = [name for name in wide.columns if name not in PLATE_KEY]
    groups = iterate_row_groups(manifest, storage)
    with writing(output, storage) as writer:
        for part in groups if index_uri(output) is None else by_plate(groups):
            rows = with_moved_shards(part, manifest, output)
            rows = rows.drop_columns([name for name in added if name in rows.column_names])
            keys = pl.DataFrame(rows.select(list(PLATE_KEY)))
            arrow = keys.join(wide, on=PLATE_KEY, how="left", maintain_order="left").select(added).to_arrow()
            for name in added:
                rows = rows.append_column(name, arrow[name])
            writer.write(rows)
