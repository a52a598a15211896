"""One load_data file -> one file of a manifest: checked, joined with the metadata, without the fields known to be bad.

A worker reads the tables of metadata once, whatever the number of files it makes.
"""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from sdvae_ray.config import StorageConfig
from sdvae_ray.errors import DataError
from sdvae_ray.schema import BATCH_COLUMN, PLATE_KEY, SOURCE_COLUMN, uri_column
from sdvae_ray.settings.load_data import ExclusionConfig, LoadDataConfig
from sdvae_ray.sources import gallery
from sdvae_ray.sources.joining import TableReader
from sdvae_ray.sources.manifest.index import Part, schema_of, schema_text
from sdvae_ray.sources.manifest.manifest import ordered, relative, without_illumination
from sdvae_ray.sources.manifest.rules import check_manifest, repeated_images
from sdvae_ray.sources.manifest.writer import plate_name, write_part
from sdvae_ray.sources.metadata_tables import MetadataTable
from sdvae_ray.sources.planes import check_schemes, shared_planes
from sdvae_ray.sources.platemaps import join_platemaps
from sdvae_ray.storage import Storage, absolute


@dataclass(frozen=True)
class Recipe:
    """How a load_data file becomes a file of the manifest in the folder `output`. It travels to any process."""

    settings: LoadDataConfig
    stains: tuple[str, ...]
    output: str
    storage: StorageConfig

    @classmethod
    def of(cls, settings: LoadDataConfig, stains: Sequence[str], output: str, storage: StorageConfig) -> "Recipe":
        """Return the recipe with absolute paths, since workers run elsewhere."""
        changes = {
            "files": tuple(absolute(place) + "/" * place.endswith("/") for place in settings.files),
            "platemaps": tuple(map(absolute, settings.platemaps)),
            "metadata": tuple(table.model_copy(update={"file": absolute(table.file)}) for table in settings.tables),
            "rewrite": {start: to and absolute(to) + "/" * to.endswith("/") for start, to in settings.rewrite.items()},
        }
        return cls(settings.model_copy(update=changes), tuple(stains), absolute(output), storage)

    @property
    def digest(self) -> str:
        """Return a hash of everything but the list of load_data files and their storage."""
        settings = self.settings.model_dump(mode="json", exclude={"files"})
        return hashlib.sha256(json.dumps([settings, self.stains]).encode()).hexdigest()


@dataclass
class Made:
    """What became of one load_data file.

    part, schema  the file of the manifest; None if no field is left, or the load_data file is refused
    problem       why it is refused
    fovs          fields of the load_data file
    excluded      number of an exclusion -> fields that it leaves out
    unmatched     number of a table of metadata -> fields without a row in it
    keys          number of a table of metadata -> the columns by which it is joined
    rewritten     prefixes that were replaced
    """

    load_data: str
    part: Part | None = None
    schema: pa.Schema | None = None
    problem: str | None = None
    fovs: int = 0
    notes: list[str] = field(default_factory=list)
    excluded: Counter[int] = field(default_factory=Counter)
    unmatched: Counter[int] = field(default_factory=Counter)
    keys: dict[int, tuple[str, ...]] = field(default_factory=dict)
    rewritten: set[str] = field(default_factory=set)

    def told(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values; `Made.of` reads them."""
        values = {**self.__dict__, "rewritten": sorted(self.rewritten)}
        values["part"] = None if self.part is None else self.part.__dict__
        values["schema"] = None if self.schema is None else schema_text(self.schema)
        return values

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Made":
        """Return what `told` tells."""
        made = cls(**{**told, "rewritten": set(told["rewritten"])})
        made.part = None if made.part is None else Part(**told["part"])
        schema = told["schema"]
        made.schema = None if schema is None else schema_of(schema)
        made.excluded, made.unmatched = (_numbered(told[name]) for name in ("excluded", "unmatched"))
        made.keys = {int(number): tuple(key) for number, key in told["keys"].items()}
        return made


def _numbered(counts: Mapping[str, int]) -> Counter[int]:
    return Counter({int(number): count for number, count in counts.items()})


_TABLES: dict[str, tuple[TableReader, list[MetadataTable]]] = {}  # digest of a recipe -> its tables, of this process
_READING = threading.Lock()


def tables_of(recipe: Recipe) -> tuple[TableReader, list[MetadataTable]]:
    """Return the tables of a recipe, read once in this process. Raises DataError for one that is absent or damaged."""
    with _READING:
        if recipe.digest not in _TABLES:
            reader = TableReader(Storage(recipe.storage), recipe.settings.missing)
            tables = [MetadataTable(table.file, reader, table.columns) for table in recipe.settings.tables]
            _TABLES.clear()
            _TABLES[recipe.digest] = reader, tables
        return _TABLES[recipe.digest]


def make_plates(recipe: Recipe, load_data: Sequence[str]) -> list[Made]:
    """Return what becomes of some load_data files. Raises StorageError; a file that is damaged has a `problem`."""
    return [make_plate(recipe, uri) for uri in load_data]


def make_plate(recipe: Recipe, load_data: str) -> Made:
    """Write the file of the manifest that a load_data file gives, unless the load_data file is refused.

    Raises StorageError, and DataError for a table of metadata.
    """
    made = Made(load_data)
    tables = tables_of(recipe)
    try:
        rows = _rows(recipe, load_data, made, tables)
    except (DataError, FileNotFoundError) as error:
        made.problem = str(error)
        return made
    if rows.height:
        plates = rows.select(PLATE_KEY).unique(maintain_order=True)
        if plates.height > 1:
            names = ", ".join("/".join(plate) for plate in plates.head(3).iter_rows())
            made.problem = (
                f"{load_data} has {plates.height} plates ({names}): a manifest of many files wants one in each"
            )
            return made
        made.part, made.schema = write_part(
            recipe.output, plate_name(rows), rows, Storage(recipe.storage), load_data=load_data
        )
    return made


def _rows(recipe: Recipe, load_data: str, made: Made, tables: tuple[TableReader, list[MetadataTable]]) -> pl.DataFrame:
    """Return the rows of the manifest, and count in `made`. Raises DataError."""
    settings, stains, storage = recipe.settings, recipe.stains, Storage(recipe.storage)
    given = {SOURCE_COLUMN: settings.source, BATCH_COLUMN: settings.batch}
    defaults = {key: value for key, value in given.items() if value}
    table, notes = gallery.read_load_data(load_data, stains, defaults, storage, settings.missing, settings.keep)
    made.fovs = table.height
    check_manifest(table, stains, load_data)
    table, rewritten = gallery.rewrite(table, stains, list(settings.rewrite.items()))
    made.rewritten = {start for start, _ in rewritten}
    check_schemes(table, stains, load_data)
    reader, metadata = tables
    if settings.platemaps:
        table, more = join_platemaps(table, settings.platemaps, settings.drop_unmapped_wells, reader)
        notes += more
    for number, joined in enumerate(metadata):
        made.keys[number] = joined.key(table)
        table, lost = joined.join(table)
        made.unmatched[number] = lost
    table = _without_excluded(table, settings.exclude, stains, made)
    made.notes = [*notes, *shared_planes([table], stains), *relative(table, stains), *repeated_images(table, stains)]
    made.notes += without_illumination(table, stains)
    return ordered(table, stains)


def _without_excluded(
    table: pl.DataFrame, exclusions: Sequence[ExclusionConfig], stains: Sequence[str], made: Made
) -> pl.DataFrame:
    """Return the fields that no exclusion is for. A field that several are for counts for the first."""
    for number, exclusion in enumerate(exclusions):
        if exclusion.files or not {*exclusion.where}.issubset(table.columns):
            continue
        conditions = [
            pl.col(name).is_in([values] if isinstance(values, str) else list(values)).fill_null(False)
            for name, values in exclusion.where.items()
        ]
        if exclusion.images:
            ends = [pl.col(uri_column(stain)).str.ends_with(end) for stain in stains for end in exclusion.images]
            conditions.append(pl.any_horizontal(ends))
        is_bad = pl.all_horizontal(conditions)
        made.excluded[number] = table.filter(is_bad).height
        table = table.filter(~is_bad)
    return table


def is_excluded(load_data: str, exclusions: Sequence[ExclusionConfig]) -> int | None:
    """Return the number of the exclusion by which a load_data file is not read; None if it is read."""
    return next((n for n, one in enumerate(exclusions) if one.files and load_data.endswith(one.files)), None)
