"""Fields of view that `score.exclude_qc` leaves out of every score."""

from typing import Any, NamedTuple

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.run.quality import DEVIATION, STORED, qc_rule, quality_table
from sdvae_ray.run.run import Run
from sdvae_ray.schema import FOV_ID, PLATE_COLUMN, PLATE_KEY

WHERE = "score.exclude_qc"


class Exclusion(NamedTuple):
    """The FOVs that a rule leaves out. record: the rule and the counts, for run.json; None without a rule. line: in words."""

    fovs: frozenset[str] = frozenset()
    record: dict[str, Any] | None = None
    line: str = ""


def excluded_fovs(run: Run) -> Exclusion:
    """Return the usable FOVs that the rule of the run leaves out.

    Raises ConfigError for a rule that cannot be read, that names an unknown number, or a number that this run does not have;
    DataError if no FOV is left.
    """
    rule = run.config.score.exclude_qc
    if rule is None:
        return Exclusion()
    stains = run.config.image.stains
    condition = qc_rule(rule, stains, WHERE)
    table = quality_table(run.fovs([*PLATE_KEY, *STORED]), stains)
    for column in condition.meta.root_names():
        if table.height and table[column].null_count() == table.height and not column.startswith(DEVIATION):
            raise ConfigError(f"{WHERE}: this run has no {column}: it was encoded by an earlier version")
    left_out = table.filter(condition)
    if table.height and left_out.height == table.height:
        raise DataError(f"{WHERE}: {rule} leaves out all {table.height} usable FOVs")
    plates = {str(plate): int(count) for plate, count in left_out[PLATE_COLUMN].value_counts(sort=True).iter_rows()}
    counts = ", ".join(f"{plate} {count}" for plate, count in list(plates.items())[:5])
    more = f", ... ({len(plates)} plates)" if len(plates) > 5 else ""
    line = f"{left_out.height} of {table.height} FOVs are left out by {WHERE} ({rule})" + (
        f": {counts}{more}" if plates else ""
    )
    record = {"rule": rule, "fovs": left_out.height, "of": table.height, "plates": plates}
    return Exclusion(frozenset(left_out[FOV_ID].to_list()), record, line)
