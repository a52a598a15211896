"""Percentiles of fields -> scaling constants of groups and plates, and the plates that stand out. Medians: no field weighs much."""

from typing import Any

import polars as pl

from sdvae_ray.engine.files.percentiles import HIGH, LOW, STAIN
from sdvae_ray.errors import DataError
from sdvae_ray.run.quality import MAD_TO_SD, robust_z
from sdvae_ray.schema import FOV_ID, PLATE_KEY

OFFSET, DIVISOR, FOVS, SPREAD, Z = "offset", "divisor", "fovs", "spread", "z"
_FEWEST = 3  # plates of a group from which one may stand out


def constants(fields: pl.DataFrame, keys: list[str], bits: int) -> pl.DataFrame:
    """Return one row per value of `keys` and stain: offset, divisor, fovs and spread.

    fields: a row per field and stain, from `field_percentiles`, with the keys. The median `low` becomes 0 and the median `high` the
    largest integer of `bits` bits. fovs: number of fields. spread: of `high` - `low` over fields, a robust standard deviation in
    counts. Raises DataError, with the place, for a stain whose fields have no spread.
    """
    width = pl.col(HIGH) - pl.col(LOW)
    table = fields.group_by(*keys, STAIN).agg(
        pl.col(LOW).median().alias(OFFSET),
        ((pl.col(HIGH).median() - pl.col(LOW).median()) / (2**bits - 1)).alias(DIVISOR),
        pl.len().cast(pl.Int64).alias(FOVS),
        ((width - width.median()).abs().median() * MAD_TO_SD).alias(SPREAD),
        pl.col(FOV_ID).min(),
    )
    table = table.sort(*keys, STAIN)
    flat = table.filter(~(pl.col(DIVISOR) > 0))
    if flat.height:
        row = flat.row(0, named=True)
        where = "/".join(str(row[key]) for key in keys)
        raise DataError(
            f"{where}: {row[STAIN]} has no spread, both percentiles of {row[FOVS]} fields are {row[OFFSET]:g}, "
            f"such as of {row[FOV_ID]}: constant images cannot be scaled"
        )
    return table.drop(FOV_ID)


def outliers(fields: pl.DataFrame, by: str, threshold: float) -> list[dict[str, Any]]:
    """Return the plates of which a stain stands out from the plates of its group, the farthest first.

    A row: the group's value, the plate's key, stain, z, and the medians `low` and `high` of the plate. z is the distance
    of the plate's `high` - `low` from the median over the group's plates, in robust standard deviations; a plate counts from
    `threshold` on.
    """
    keys = list(dict.fromkeys([by, *PLATE_KEY]))
    plates = fields.group_by(*keys, STAIN).agg(pl.col(LOW).median(), pl.col(HIGH).median())
    width = pl.col(HIGH) - pl.col(LOW)
    group = [by, STAIN]
    far = plates.with_columns(robust_z(width, group, _FEWEST).alias(Z)).filter(pl.col(Z).abs() >= threshold)
    ordered = far.sort(pl.col(Z).abs(), *keys, STAIN, descending=[True, *[False] * (len(keys) + 1)])
    return ordered.select(*keys, STAIN, Z, LOW, HIGH).rows(named=True)
