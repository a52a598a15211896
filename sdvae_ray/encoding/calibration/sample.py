"""The fields of view that a calibration looks at: of every plate those of the smallest hashes, in any order of the manifest."""

from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa

from sdvae_ray.distributions.sample import hash_keys
from sdvae_ray.errors import DataError
from sdvae_ray.schema import FOV_ID, PLATE_KEY
from sdvae_ray.sources.manifest.reader import iterate_row_groups, row_groups
from sdvae_ray.storage import Storage

_HASH = "_hash"
_GROUPS = 64  # row groups between two reductions: the driver holds some tens of thousands of rows


def sampled_fovs(manifest: str, by: str, fovs: int, seed: int, storage: Storage) -> pl.DataFrame:
    """Return fov_id, the plate's key, `by`, row_group and row of `fovs` fields of every plate, in the order of their fov_id.

    by: a column of the manifest, one value per plate. The choice depends on the seed and the fov_ids alone. Raises DataError if the
    column is missing or empty in a row.
    """
    if by not in (names := row_groups(manifest, storage)[1]):
        known = ", ".join(name for name in names if name.startswith("Metadata_"))
        raise DataError(f"{manifest} has no column {by} (--by; there are {known})")
    kept, waiting, plates = list[pl.DataFrame](), list[pl.DataFrame](), list[pl.DataFrame]()
    keys = list(dict.fromkeys([*PLATE_KEY, by]))
    for number, table in _numbered(manifest, [FOV_ID, *keys], storage):
        if table[by].null_count():
            empty = table.filter(pl.col(by).is_null())[FOV_ID][0]
            raise DataError(f"{manifest}: {by} of {empty} is empty; --by takes a column that every row has")
        waiting.append(table.with_columns(pl.Series(_HASH, hash_keys(table[FOV_ID].to_list(), seed))))
        plates.append(table.select(keys).unique())
        if number % _GROUPS == _GROUPS - 1:
            kept, waiting = [_smallest(pl.concat([*kept, *waiting]), fovs)], []
            plates = [pl.concat(plates).unique()]
    several = pl.concat(plates).unique().filter(pl.struct(PLATE_KEY).is_duplicated()).sort(PLATE_KEY)
    if several.height:
        plate = "/".join(several.select(PLATE_KEY).row(0))
        raise DataError(f"{manifest}: plate {plate} has several values of {by}; --by takes a column with one per plate")
    chosen = _smallest(pl.concat([*kept, *waiting]), fovs)
    return chosen.drop(_HASH).sort(FOV_ID)


def _numbered(manifest: str, columns: list[str], storage: Storage) -> Iterator[tuple[int, pl.DataFrame]]:
    for group, part in enumerate(iterate_row_groups(manifest, storage, columns)):
        rows = np.arange(part.num_rows, dtype=np.int64)
        table = pl.DataFrame(part.append_column("row", pa.array(rows)))
        yield group, table.with_columns(row_group=pl.lit(group, pl.Int64))


def _smallest(table: pl.DataFrame, fovs: int) -> pl.DataFrame:
    return table.sort(_HASH, FOV_ID).group_by(PLATE_KEY, maintain_order=True).head(fovs)
