"""A manifest of many files: a folder of small Parquet files, as a rule one per plate, and the index that seals them.

index.parquet has one row per file, in the order of the manifest's rows:

file                    the file, relative to the folder
Metadata_Source, Metadata_Batch, Metadata_Plate   of its first row
rows, wells             how many it has
bytes, sha256           of the whole file; a file of other bytes is refused
identity                hash of where the pixels of its rows come from: fov_id and every column of a stain
annotation              hash of its Metadata_* columns beside the keys
load_data               the load_data file that it was made of; null: it was made of a manifest

The Arrow schema of all files together stands in the metadata of index.parquet: a column that a file lacks is null there. The index
is written last, so a folder without one is not finished. Its rows keep the rules of manifests: whoever writes it has checked them.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.errors import DataError, one_line
from sdvae_ray.schema import FOV_ID, METADATA, PIXELS, PLATE_KEY, WELL_KEY, annotation_columns
from sdvae_ray.storage import Storage, join

INDEX = "index.parquet"
_SCHEMA = b"sdvae_ray.manifest"  # key of the metadata of index.parquet
_SEPARATORS = ("\x1f", "\n")  # between the values and the rows that are hashed: they stand in no text
_TYPES = {
    "file": pl.String,
    **dict.fromkeys(PLATE_KEY, pl.String),
    "rows": pl.Int64,
    "wells": pl.Int64,
    "bytes": pl.Int64,
    "sha256": pl.String,
    "identity": pl.String,
    "annotation": pl.String,
    "load_data": pl.String,
}


@dataclass(frozen=True)
class Part:
    """One file of a manifest of many files; the fields are the columns of the index. plate: its PLATE_KEY, joined by "/"."""

    file: str
    plate: str
    rows: int
    wells: int
    bytes: int
    sha256: str
    identity: str
    annotation: str
    load_data: str | None = None


@dataclass(frozen=True)
class Index:
    """The files of a manifest, and the schema of all of them together."""

    parts: tuple[Part, ...]
    schema: pa.Schema

    @property
    def identity(self) -> str:
        """Return one hash of where the pixels of all rows come from."""
        return _joined(part.identity for part in self.parts)

    @property
    def annotation(self) -> str:
        """Return one hash of the annotation of all rows."""
        return _joined(part.annotation for part in self.parts)


def index_uri(uri: str) -> str | None:
    """Return the place of the index if the URI can only be a folder, or names an index itself; else None: a file."""
    if uri.rpartition("/")[2] == INDEX:
        return uri
    return None if uri.endswith((".parquet", ".pq")) else join(uri, INDEX)


def part_of(rows: pl.DataFrame, file: str, data: bytes, load_data: str | None = None) -> Part:
    """Return the part of a file. rows: those of the file; data: its bytes."""
    return Part(
        file,
        "/".join(rows.select(PLATE_KEY).row(0)),
        rows.height,
        rows.select(WELL_KEY).n_unique(),
        len(data),
        hashlib.sha256(data).hexdigest(),
        _hash(rows, [FOV_ID, *(name for name in rows.columns if not name.startswith((METADATA, PIXELS, FOV_ID)))]),
        _hash(rows, [FOV_ID, *sorted(annotation_columns(rows.columns))]),
        load_data,
    )


def packed_rows(rows: pl.DataFrame | pa.Table) -> bytes:
    """Return the Parquet bytes of a file of a manifest: zstd, one row group, no statistics."""
    table = rows.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()) if isinstance(rows, pl.DataFrame) else rows
    buffer = io.BytesIO()
    pq.write_table(_plain(table), buffer, compression="zstd", row_group_size=max(1, len(table)), write_statistics=False)
    return buffer.getvalue()


def write_index(folder: str, parts: Iterable[Part], schema: pa.Schema, storage: Storage) -> Index:
    """Write the index of a folder, in the order of the plates and the names of the files, and return it."""
    index = Index(tuple(sorted(parts, key=lambda part: (part.plate.split("/"), part.file))), schema)
    columns: dict[str, list[object]] = {name: [] for name in _TYPES}
    for part in index.parts:
        values = asdict(part)
        values |= dict(zip(PLATE_KEY, values.pop("plate").split("/"), strict=True))
        for name, column in columns.items():
            column.append(values[name])
    table = pl.DataFrame(columns, schema=_TYPES).to_arrow(compat_level=pl.CompatLevel.oldest())
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_SCHEMA: schema_text(schema)}), buffer, compression="zstd")
    storage.write_bytes(join(folder, INDEX), buffer.getvalue())
    return index


def read_index(uri: str, storage: Storage) -> Index:
    """Read an index.parquet. Raises FileNotFoundError if there is none, DataError if it is damaged or is no index."""
    data = storage.read_bytes(uri)
    try:
        table = pq.read_table(io.BytesIO(data))
        schema = schema_of((table.schema.metadata or {})[_SCHEMA].decode())
        rows = pl.DataFrame(table.replace_schema_metadata(None)).select(list(_TYPES))
    except (pa.ArrowException, pl.exceptions.PolarsError, KeyError, ValueError, OSError) as error:
        raise DataError(
            f"{uri} is no index of a manifest: {one_line(error)}; `sdvae-ray manifest` writes one"
        ) from error
    names = [field.name for field in fields(Part)]
    parts = []
    for values in rows.iter_rows(named=True):
        values["plate"] = "/".join(values[key] for key in PLATE_KEY)
        parts.append(Part(**{name: values[name] for name in names}))
    return Index(tuple(parts), schema)


def read_part(folder: str, part: Part, schema: pa.Schema, storage: Storage, columns: Sequence[str] | None) -> pa.Table:
    """Read some columns of one file of a manifest, by one request; columns that the file lacks are null. None: all columns.

    Raises DataError if the file is gone, or has other bytes than the index says.
    """
    uri = join(folder, part.file)
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise DataError(f"{uri} is gone, though {INDEX} lists it; `sdvae-ray manifest` makes it again") from error
    if len(data) != part.bytes or hashlib.sha256(data).hexdigest() != part.sha256:
        raise DataError(f"{uri} is not the file that {INDEX} lists: it was changed or damaged; make the manifest again")
    file = pq.ParquetFile(io.BytesIO(data))
    here = set(file.schema_arrow.names)
    wanted = schema.names if columns is None else list(columns)
    table = file.read(columns=[name for name in wanted if name in here])
    arrays = []
    for name in wanted:
        kind = schema.field(name).type
        arrays.append(table[name].cast(kind) if name in here else pa.nulls(len(table), kind))
    return pa.table(arrays, schema=pa.schema([schema.field(name) for name in wanted]))


def schema_text(schema: pa.Schema) -> str:
    """Return an Arrow schema as text; `schema_of` reads it."""
    return str(schema.serialize().to_pybytes().hex())


def schema_of(text: str) -> pa.Schema:
    """Return the Arrow schema of a text of `schema_text`. Raises ValueError or ArrowException for another text."""
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text)))


def unified(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Return the schema of all files together: the columns of the first in their order, then those that others have more.

    A column that is all null in one file takes its type from another. Raises DataError for a column of two types.
    """
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            known = types.setdefault(field.name, field.type)
            if pa.types.is_null(known):
                types[field.name] = field.type
            elif field.type != known and not pa.types.is_null(field.type):
                raise DataError(
                    f"the column {field.name} is {known} in one file of the manifest and {field.type} in another"
                )
    return pa.schema(list(types.items()))


def _plain(table: pa.Table) -> pa.Table:
    """Return the table without the metadata of its schema, and with large texts as texts."""
    fields_ = [pa.field(f.name, pa.string() if pa.types.is_large_string(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(fields_)).replace_schema_metadata(None)


def _hash(rows: pl.DataFrame, names: Sequence[str]) -> str:
    value, row = _SEPARATORS
    texts = rows.select(pl.concat_str([pl.col(name).cast(pl.String).fill_null("") for name in names], separator=value))
    whole = texts.to_series().str.join(row).item()
    return hashlib.sha256(f"{value.join(names)}{row}{whole}".encode()).hexdigest()


def _joined(hashes: Iterable[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
