"""Fields of view that `score.exclude_qc` leaves out of every score."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.run.quality import DEVIATION, qc_rule
from sdvae_ray.run.run import Run
from sdvae_ray.schema import PLATE_COLUMN, PLATE_KEY
from sdvae_ray.scoring.inputs.fovs import Prepared

WHERE = "score.exclude_qc"


class Exclusion(NamedTuple):
    """What a rule leaves out. record: the rule and the counts, for run.json; None without a rule. line: in words."""

    record: dict[str, Any] | None = None
    line: str = ""


def exclusion_rule(run: Run) -> pl.Expr | None:
    """Return the rule of the run as a predicate on `quality_table`; None without a rule.

    Raises ConfigError for a rule that cannot be read, or that names an unknown number.
    """
    rule = run.config.score.exclude_qc
    return None if rule is None else qc_rule(rule, run.config.image.stains, WHERE)


def exclusion_of(run: Run, numbers: Sequence[str], plates: Sequence[Prepared]) -> Exclusion:
    """Return what the rule of the run leaves out. numbers: the columns that it names.

    Raises ConfigError for a number that this run does not have; DataError if no FOV is left.
    """
    rule = run.config.score.exclude_qc
    if rule is None:
        return Exclusion()
    usable, left_out = sum(plate.usable for plate in plates), sum(plate.left_out for plate in plates)
    known = frozenset[str]().union(*(plate.known for plate in plates))
    for column in numbers:
        if usable and column not in known and not column.startswith(DEVIATION):
            raise ConfigError(f"{WHERE}: this run has no {column}: it was encoded by an earlier version")
    if usable and left_out == usable:
        raise DataError(f"{WHERE}: {rule} leaves out all {usable} usable FOVs")
    names = pl.Series([plate.key[PLATE_KEY.index(PLATE_COLUMN)] for plate in plates for _ in range(plate.left_out)])
    of_plates = (
        {str(plate): int(count) for plate, count in names.value_counts(sort=True).iter_rows()} if left_out else {}
    )
    counts = ", ".join(f"{plate} {count}" for plate, count in list(of_plates.items())[:5])
    more = f", ... ({len(of_plates)} plates)" if len(of_plates) > 5 else ""
    line = f"{left_out} of {usable} FOVs are left out by {WHERE} ({rule})" + (f": {counts}{more}" if of_plates else "")
    return Exclusion({"rule": rule, "fovs": left_out, "of": usable, "plates": of_plates}, line)
