"""The quality of images, from the QC columns of fovs/: one table of numbers, and what is wrong per plate and stain.

A number of a stain is a column `<name>_<stain>`. Stored are the QC columns that `encode` wrote; two more follow from them:

qc_equal      1 if another stain of the field has the same pixels, which are not all zero; else 0
qc_deviation  distance of qc_mean from the median of its plate, in robust standard deviations; null on a plate of few FOVs
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from sdvae_ray.errors import ConfigError, nearest
from sdvae_ray.schema import ERROR, FOV_ID, PLATE_COLUMN, PLATE_KEY, ROW, WELL_KEY
from sdvae_ray.selection import select_numbers
from sdvae_ray.settings.image import ImageConfig

PREFIX = "qc_"
MEAN, SATURATED, ZERO, RAW_MAX, CHECKSUM = "qc_mean", "qc_saturated", "qc_zero", "qc_raw_max", "qc_raw_crc32"
EQUAL, DEVIATION = "qc_equal", "qc_deviation"
STORED = (MEAN, SATURATED, ZERO, RAW_MAX, CHECKSUM)
DERIVED = (EQUAL, DEVIATION)

MOST_SATURATED = 0.01  # share of a crop's pixels
MOST_DEVIATION = 8.0
FEW_LEVELS = 16  # of 256: 12 bits under the published division by 256
_FEWEST = 8  # FOVs of a plate from which one may deviate
_LEAST_SPREAD = 0.05  # of the median: in a group that hardly differs a small difference is no deviation
MAD_TO_SD = 1.4826  # a median absolute deviation times this is the standard deviation of a normal distribution


def _is_lit(stain: str) -> pl.Expr:
    return pl.col(f"{RAW_MAX}_{stain}") > 0


def _is_unlike(stain: str) -> pl.Expr:
    return (pl.col(f"{DEVIATION}_{stain}").abs() > MOST_DEVIATION) & (pl.col(f"{ZERO}_{stain}") < 1)


# words of a finding -> the condition on the numbers of one stain
FINDINGS = {
    "all zero in the file": lambda stain: pl.col(f"{RAW_MAX}_{stain}") == 0,
    "all zero after scaling": lambda stain: (pl.col(f"{ZERO}_{stain}") == 1) & _is_lit(stain).fill_null(True),
    "equal to another stain": lambda stain: pl.col(f"{EQUAL}_{stain}") == 1,
    f"more than {MOST_SATURATED:.0%} saturated": lambda stain: pl.col(f"{SATURATED}_{stain}") > MOST_SATURATED,
    "unlike the rest of its plate": _is_unlike,
}


def quality_table(fovs: pl.DataFrame, stains: Sequence[str]) -> pl.DataFrame:
    """Return one row per usable FOV: fov_id, the columns of PLATE_KEY, and every number per stain.

    fovs: rows with the columns of STORED as arrays over the stains, as `Run.fovs` gives them. A number that a run of an earlier
    version does not have is null.
    """
    table = fovs.filter(pl.col(ERROR).is_null()) if ERROR in fovs.columns else fovs
    stored = [name for name, kind in table.schema.items() if name.startswith(PREFIX) and isinstance(kind, pl.Array)]
    keys = [name for name in (FOV_ID, *PLATE_KEY) if name in table.columns]
    table = table.select(
        *keys,
        *(
            pl.col(name).arr.get(place, null_on_oob=True).alias(f"{name}_{stain}")
            for name in stored
            for place, stain in enumerate(stains)
        ),
    )
    absent = [f"{name}_{stain}" for name in STORED if name not in stored for stain in stains]
    table = table.with_columns(pl.lit(None, pl.Float64).alias(name) for name in absent)
    equal = [
        _is_equal(stain, [other for other in stains if other != stain]).alias(f"{EQUAL}_{stain}") for stain in stains
    ]
    plate = [name for name in keys if name in PLATE_KEY]
    deviation = [_deviation(f"{MEAN}_{stain}", plate).alias(f"{DEVIATION}_{stain}") for stain in stains]
    return table.with_columns(*equal, *deviation)


@dataclass(frozen=True)
class Quality:
    """The quality of the images of a run, taken plate by plate.

    fovs     number of usable FOVs
    wrong    the result of `findings`
    largest  a row per plate: PLATE_KEY (as far as the rows have it) and qc_raw_max of every stain, the largest of its FOVs, as
             `scaling_notes` takes it
    means    rows of WELL_KEY (as far as the rows have it) and qc_mean of every stain, the mean over the FOVs of a well
    """

    fovs: int
    wrong: pl.DataFrame
    largest: pl.DataFrame
    means: pl.DataFrame


def quality_of(fovs: pl.DataFrame, stains: Sequence[str]) -> Quality:
    """Return the quality of usable FOVs, as `quality_table` takes them; the numbers of one plate are held at a time."""
    keys = [name for name in WELL_KEY if name in fovs.columns]
    plate = [name for name in keys if name in PLATE_KEY]
    needed = fovs.filter(pl.col(ERROR).is_null()).select(FOV_ID, *keys, f"^{PREFIX}.*$")
    largest, means = ([f"{name}_{stain}" for stain in stains] for name in (RAW_MAX, MEAN))
    parts = []
    for rows in needed.partition_by(plate, maintain_order=True) if plate and needed.height else [needed]:
        table = quality_table(rows, stains)
        wells = pl.concat([rows.select(keys), table.select(means)], how="horizontal")
        of_wells = wells.group_by(keys, maintain_order=True).agg(pl.all().mean()) if keys else wells.clear()
        parts.append((findings(table, stains), table.select(pl.col(plate).first(), pl.col(largest).max()), of_wells))
    wrong, maxima, of_wells = (pl.concat(tables, how="vertical_relaxed") for tables in zip(*parts, strict=True))
    return Quality(
        needed.height,
        wrong.sort(*plate, maintain_order=True) if plate else wrong,
        maxima,
        of_wells,
    )


def _is_equal(stain: str, others: Sequence[str]) -> pl.Expr:
    own = pl.col(f"{CHECKSUM}_{stain}")
    same = [own == pl.col(f"{CHECKSUM}_{other}") for other in others]
    return (pl.any_horizontal(same) & _is_lit(stain)).cast(pl.Float64) if same else pl.lit(0.0)


def _deviation(column: str, plate: Sequence[str]) -> pl.Expr:
    if not plate:  # no FOV was ever tried
        return pl.lit(None, pl.Float64)
    return robust_z(pl.col(column), plate, _FEWEST)


def robust_z(value: pl.Expr, over: Sequence[str], fewest: int) -> pl.Expr:
    """Return the distance of a value from the median of its group, in robust standard deviations; null in a group of less than
    `fewest` rows, and where the group has no spread. over: the columns of the group.
    """
    median = value.median().over(over)
    spread = pl.max_horizontal(MAD_TO_SD * (value - median).abs().median().over(over), _LEAST_SPREAD * median)
    return pl.when((pl.len().over(over) >= fewest) & (spread > 0)).then((value - median) / spread)


def batch_quality(batch: Mapping[str, np.ndarray], stains: Sequence[str]) -> pl.DataFrame:
    """Return the quality table of the usable rows of a batch of the engine: fov_id, row_json, error, and the QC columns (n, C)."""
    rows = [json.loads(text) for text in batch[ROW]]
    columns = {FOV_ID: batch[FOV_ID].tolist(), ERROR: [text or None for text in batch[ERROR]]}
    columns |= {key: [row.get(key) for row in rows] for key in PLATE_KEY}
    qc = {name: pl.Series(name, values) for name, values in batch.items() if name.startswith(PREFIX)}
    table = pl.DataFrame(columns, schema_overrides=dict.fromkeys((FOV_ID, ERROR, *PLATE_KEY), pl.String))
    return quality_table(table.with_columns(**qc), stains)


def findings(table: pl.DataFrame, stains: Sequence[str]) -> pl.DataFrame:
    """Return what is wrong: rows of PLATE_KEY, stain, finding, fovs (with it), of (FOVs of the plate), example (a fov_id).

    table: the result of `quality_table`. Sorted by plate, then stain, then as FINDINGS.
    """
    plate = [name for name in PLATE_KEY if name in table.columns]
    schema = dict.fromkeys(plate, pl.String) | {"stain": pl.String, "finding": pl.String}
    parts = [pl.DataFrame(schema=schema | {"fovs": pl.UInt32, "of": pl.UInt32, "example": pl.String})]
    if not plate:
        return parts[0]
    sizes = table.group_by(plate).agg(of=pl.len().cast(pl.UInt32))
    for stain in stains:
        for words, condition in FINDINGS.items():
            rows = table.filter(condition(stain).fill_null(False))
            counts = rows.group_by(plate).agg(fovs=pl.len().cast(pl.UInt32), example=pl.col(FOV_ID).min())
            counts = counts.join(sizes, on=plate, nulls_equal=True, maintain_order="left")
            parts.append(
                counts.select(
                    *plate, stain=pl.lit(stain), finding=pl.lit(words), fovs="fovs", of="of", example="example"
                )
            )
    return pl.concat(parts).sort(*plate, maintain_order=True)


def in_lines(wrong: pl.DataFrame, most: int = 6) -> list[str]:
    """Return at most `most` + 1 lines about the rows of `findings`, the most frequent first; stains of equal counts share one."""
    plate = [name for name in PLATE_KEY if name in wrong.columns]
    grouped = wrong.group_by(*plate, "finding", "fovs", "of", maintain_order=True).agg(
        pl.col("stain"), pl.col("example").first()
    )
    rows = grouped.sort("fovs", descending=True, maintain_order=True)
    lines = [
        f"plate {row[PLATE_COLUMN]}, {', '.join(row['stain'])}: {row['fovs']} of {row['of']} FOVs {row['finding']}, "
        f"such as {row['example']}"
        for row in rows.head(most).iter_rows(named=True)
    ]
    more = rows.height - most
    return [*lines, f"{more} more findings: the section Image quality of the report"] if more > 0 else lines


def scaling_notes(table: pl.DataFrame, image: ImageConfig) -> list[str]:
    """Return notes about stains that the division of image.scaling leaves with no pixel above 0, or with few grey levels.

    table: the result of `quality_table`. The largest pixel of all FOVs decides; where policies have divisors of their own, of all
    FOVs of a policy, if the table has its column. Illumination functions are near 1 and do not count.
    """
    if image.scaling.method != "divide":
        return []
    policies = image.every_policy
    if len({policy.divisor for policy in policies.values()}) == 1:
        return _division_notes(table, image, next(iter(policies.values())).divisor)
    (column,) = image.policy_columns
    notes = []
    for value, policy in policies.items() if column in table.columns else ():
        rows = table.filter(pl.col(column) == value)
        notes += [f"{value}: {note}" for note in _division_notes(rows, image, policy.divisor)]
    return notes


def _division_notes(table: pl.DataFrame, image: ImageConfig, divisor: float) -> list[str]:
    """Return the notes about the stains of FOVs whose pixels are divided by `divisor`."""
    outcomes: dict[str, list[tuple[str, float]]] = {}
    for stain in image.stains:
        largest = table[f"{RAW_MAX}_{stain}"].max()
        if not isinstance(largest, float) or largest <= 0:
            continue
        levels = int(largest / divisor) + 1
        if levels == 1:
            outcomes.setdefault("every pixel becomes 0", []).append((stain, largest))
        elif levels <= FEW_LEVELS:
            outcomes.setdefault(f"no more than {FEW_LEVELS} grey levels are left", []).append((stain, largest))
    notes = []
    for outcome, entries in outcomes.items():
        names, largest = ", ".join(stain for stain, _ in entries), max(value for _, value in entries)
        bits = f", {int(largest).bit_length()} bits" if largest >= 2 else ""
        keeps = (
            max(1.0, 2.0 ** (int(largest).bit_length() - image.scaling.bits))
            if largest >= 2
            else largest / 2**image.scaling.bits
        )
        notes.append(
            f"{names}: the largest pixel is {largest:g}{bits}; divided by {divisor:g} {outcome} "
            f"(image.scaling.divisor {keeps:.4g} keeps them all)"
        )
    return notes


def qc_rule(expression: str, stains: Sequence[str], where: str) -> pl.Expr:
    """Return a rule over QC numbers as a predicate on `quality_table`, without nulls: True for a FOV that the rule leaves out.

    `qc_zero_DNA > 0.99` is of one stain; for `qc_zero > 0.99` one stain is enough. Raises ConfigError, naming `where`, for a rule
    of another form and for an unknown number, with the nearest match.
    """
    names = [*(name for name in STORED if name != CHECKSUM), *DERIVED]
    known = {name: [f"{name}_{stain}" for stain in stains] for name in names}
    known |= {column: [column] for columns in list(known.values()) for column in columns}

    def columns_of(name: str) -> list[str]:
        if name not in known:
            match = nearest(name, known)
            hint = f"; did you mean {match!r}?" if match else ""
            raise ConfigError(
                f"{where}: there is no {name!r}{hint} (allowed: {', '.join(names)}, alone or with _<stain>)"
            )
        return known[name]

    return select_numbers(expression, columns_of, where)
