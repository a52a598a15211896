"""The fields of view that `score` takes, plate by plate: read once through tasks, kept packed, opened where a plate is worked on.

A task reduces the rows of one plate: FOVs that were written twice, QC exclusion, the metadata of now, groups, slices and roles.
The driver keeps a packed table per plate and the table of wells; no stage holds a row per FOV of the whole run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import polars as pl

from sdvae_ray.controls import GROUP, control_counts, with_roles
from sdvae_ray.run.annotation import replaced
from sdvae_ray.run.quality import PREFIX, quality_table
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.plates import PLACE, Key, PlateRows, reduced
from sdvae_ray.run.stored.table_files import member_of
from sdvae_ray.schema import (
    ERROR,
    FOV_ID,
    METADATA,
    PLATE_KEY,
    SOURCE_DIGEST,
    WELL_KEY,
    annotation_columns,
)
from sdvae_ray.scoring.inputs.labels import with_slices
from sdvae_ray.sources.keys import WordCounts, counted_words


@dataclass(frozen=True)
class Fovs:
    """Usable FOVs with `files`, PLACE, KEYS and Metadata_*, GROUP, SLICE and the roles.

    plates  their rows, in the order of PLATE_KEY
    wells   one row per well, sorted by WELL_KEY: WELL_KEY, GROUP, and every Metadata_* that does not vary within any well
    """

    plates: list[PlateRows]
    wells: pl.DataFrame

    @property
    def height(self) -> int:
        """Return the number of FOVs."""
        return sum(plate.height for plate in self.plates)

    @property
    def constant(self) -> list[str]:
        """Return the names of the Metadata_* columns of `wells`, keys excepted."""
        return [name for name in self.wells.columns if name not in (*WELL_KEY, GROUP)]

    def by_first_row(self) -> list[PlateRows]:
        """Return the plates in the order in which their first FOVs stand in fovs/."""
        first = {plate.key: plate.table()[PLACE].min() for plate in self.plates}
        return sorted(self.plates, key=lambda plate: first[plate.key])  # type: ignore[arg-type,return-value]

    def table(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows of all plates, in the order of fovs/: for stages that need them together."""
        parts = [plate.table() for plate in self.plates]
        if columns is not None:
            parts = [part.select(*columns, PLACE) for part in parts]
        return pl.concat(parts).sort(PLACE).drop(PLACE)

    def plates_of_wells(self) -> dict[Key, pl.DataFrame]:
        """Return plate -> its rows of `wells`."""
        return self.wells.partition_by(PLATE_KEY, as_dict=True, maintain_order=True)

    @classmethod
    def of(cls, table: pl.DataFrame) -> Self:
        """Return the FOVs of a table in memory, with the columns of `plates` beside PLACE."""
        placed = table.with_columns(pl.int_range(pl.len(), dtype=pl.UInt64).alias(PLACE))
        parts = placed.partition_by(PLATE_KEY, as_dict=True, maintain_order=True)
        packed = [PlateRows.of(key, parts[key]) for key in sorted(parts)]
        return cls(packed, well_table([WellsOfPlate.of(plate) for plate in parts.values()]))


@dataclass(frozen=True)
class WellsOfPlate:
    """The wells of a plate. table: WELL_KEY, GROUP and all Metadata_*; varying: those that differ within a well."""

    table: pl.DataFrame
    varying: frozenset[str]

    @classmethod
    def of(cls, fovs: pl.DataFrame) -> Self:
        """Return the wells of a plate's FOVs."""
        candidates = [name for name in fovs.columns if name.startswith(METADATA) and name not in WELL_KEY]
        counts = fovs.group_by(WELL_KEY).agg(pl.col(candidates).n_unique()).select(pl.col(candidates).max())
        varying = frozenset(name for name in candidates if fovs.height and counts[name][0] > 1)
        table = fovs.select(*WELL_KEY, GROUP, *candidates).unique(WELL_KEY, keep="first", maintain_order=True)
        return cls(table, varying)


def well_table(plates: Iterable[WellsOfPlate]) -> pl.DataFrame:
    """Return one row per well: WELL_KEY, GROUP, and every Metadata_* column that does not vary within any well. A Metadata_*
    column that differs between the FOVs of some well is left out for all wells."""
    listed = list(plates)
    varying = frozenset[str]().union(*(plate.varying for plate in listed))
    return pl.concat([plate.table.drop(varying) for plate in listed]).sort(WELL_KEY)


@dataclass(frozen=True)
class Rules:
    """What decides which FOVs of a plate are scored, and with which metadata.

    columns    of the rows of fovs/, as `Committed` has them
    qc         the predicate of score.exclude_qc on the quality table, as JSON of polars; None: no rule
    numbers    the columns of the quality table that the predicate names
    annotated  whether the plate's metadata of now takes the place of the stored one
    """

    columns: dict[str, pl.DataType]
    qc: bytes | None = None
    numbers: tuple[str, ...] = ()
    annotated: bool = False


@dataclass
class Prepared:
    """One plate, reduced. tried, usable: number of FOVs. left_out: by the rule of QC. known: the QC numbers that the plate has.

    kinds     the lists of files that its usable FOVs have
    shared    a well of which two joined runs have FOVs, and the runs; empty if there is none
    words     cells that mean "nothing"
    rows      the FOVs to score; None if there are none
    wells, controls   of `rows`
    """

    key: Key
    tried: int
    usable: int
    left_out: int = 0
    known: frozenset[str] = frozenset()
    kinds: list[list[str]] = field(default_factory=list)
    shared: tuple[str, ...] = ()
    words: WordCounts = field(default_factory=WordCounts)
    rows: PlateRows | None = None
    wells: WellsOfPlate | None = None
    controls: pl.DataFrame | None = None


def prepare_plate(
    run: Run, rules: Rules, key: Key, parts: Sequence[PlateRows], annotation: PlateRows | None = None
) -> Prepared:
    """Return the FOVs of one plate that are scored. annotation: fov_id and the Metadata_* of now, if rules.annotated."""
    settings = run.config.score
    fovs = reduced(parts, rules.columns)
    usable = fovs.filter(pl.col(ERROR).is_null())
    prepared = Prepared(key, fovs.height, usable.height, kinds=usable["files"].unique(maintain_order=True).to_list())
    prepared.shared = _shared_well(fovs)
    if usable.height == 0:
        return prepared
    left_out = pl.Series(FOV_ID, [], pl.String)
    if rules.qc is not None:
        numbers = quality_table(usable, run.config.image.stains)
        prepared.known = frozenset(name for name in rules.numbers if numbers[name].null_count() < numbers.height)
        left_out = numbers.filter(pl.Expr.deserialize(rules.qc))[FOV_ID]
        prepared.left_out = len(left_out)
    usable = usable.drop(ERROR, SOURCE_DIGEST, f"^{PREFIX}.*$", strict=False)
    if annotation is not None:
        usable = replaced(usable, annotation.table())
    usable, prepared.words = counted_words(usable, annotation_columns(usable.columns), settings.missing_words)
    if settings.plates is not None and key[-1] not in settings.plates:
        return prepared
    usable = usable.filter(~pl.col(FOV_ID).is_in(left_out.implode()))
    if usable.height == 0:
        return prepared
    scored = with_roles(settings, with_slices(usable, run))
    prepared.rows, prepared.wells = PlateRows.of(key, scored), WellsOfPlate.of(scored)
    prepared.controls = control_counts(scored)
    return prepared


def _shared_well(fovs: pl.DataFrame) -> tuple[str, ...]:
    """Return a well that stands in two joined runs, and the outputs of the runs; empty if there is none."""
    files = fovs.select(*WELL_KEY, file=pl.col("files")).explode("file")
    kinds = files["file"].unique().to_list()
    if len({member_of(name) for name in kinds}) < 2:
        return ()
    named = files.with_columns(member=pl.col("file").replace({name: member_of(name) for name in kinds}))
    wells = named.group_by(WELL_KEY).agg(pl.col("member").unique().sort()).filter(pl.col("member").list.len() > 1)
    if wells.height == 0:
        return ()
    *well, members = wells.sort(WELL_KEY).row(0)
    return "/".join(well), *members
