"""The Parquet files of a run on storage, as files: their reading, writing, listing, and the sweep of what killed writes left."""

import io
import json
import re
from collections.abc import Collection, Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.parquet import opened
from sdvae_ray.schema import EMBEDDINGS, FOVS, LATENTS, METRICS
from sdvae_ray.storage import TEMPORARY, Storage, join

_TENSORS_PER_GROUP, _ROWS_PER_GROUP = 64, 4096  # rows: small row groups, so that a reader of a few rows reads little
MEMBERS = "joined.json"  # in fovs/ of a joined run
_MARK = "::"  # between the output of a member and the name of a file
_DATA_TABLES = (LATENTS, METRICS, EMBEDDINGS)
REPAIR = "`sdvae-ray verify RUN --repair` makes its fields of view pending"


def write_table(uri: str, table: pa.Table, storage: Storage) -> None:
    """Write a Parquet file, with small row groups if the table has tensors."""
    tensors = any(isinstance(field.type, pa.BaseExtensionType) for field in table.schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=_TENSORS_PER_GROUP if tensors else _ROWS_PER_GROUP)
    storage.write_bytes(uri, buffer.getvalue())


def write_wide_table(uri: str, table: pa.Table, storage: Storage) -> None:
    """Write a Parquet file of thousands of columns, for readers of all columns: one row group, no dictionaries, no statistics."""
    buffer = io.BytesIO()
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, buffer, row_group_size=max(1, table.num_rows), **options)
    storage.write_bytes(uri, buffer.getvalue())


def read_table(uri: str, storage: Storage, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a Parquet file, or those of `columns` that it has. Raises FileNotFoundError; DataError if damaged."""
    with opened(uri, storage, REPAIR) as file:
        return file.read(columns=None if columns is None else list(columns))


def members(output: str, storage: Storage) -> list[str]:
    """Return the outputs of the runs that a joined run takes its rows from (sdvae_ray.run.joined); empty for a run of its own."""
    try:
        return list(json.loads(storage.read_bytes(join(output, FOVS, MEMBERS))))
    except FileNotFoundError:
        return []


def file_uri(output: str, table: str, name: str) -> str:
    """Return the URI of a file of a table. A name that `committed_files` gives for a joined run begins with the member's output."""
    member, mark, own = name.rpartition(_MARK)
    return join(member, table, own) if mark else join(output, table, name)


def member_of(name: str) -> str:
    """Return the output of the member that a file is of; "" in a run of its own."""
    return name.rpartition(_MARK)[0]


def committed_files(output: str, storage: Storage) -> list[str]:
    """Return the names of the files in fovs/, which are the commits; of a joined run, those of its members."""
    names = storage.list(join(output, FOVS))
    if MEMBERS in names:
        outputs = members(output, storage)
        return [f"{member}{_MARK}{name}" for member in outputs for name in committed_files(member, storage)]
    return [name for name in names if not is_temporary(name)]


def data_tables(output: str, storage: Storage) -> list[str]:
    """Return the names of the data tables that have files, such as `embeddings/latent/demo`."""
    return sorted({table for table, _ in data_files(output, storage)})


def data_files(output: str, storage: Storage) -> Iterable[tuple[str, str]]:
    """Yield (table, file name) of every file of the data tables, without temporary files."""
    for member in members(output, storage):
        yield from ((table, f"{member}{_MARK}{name}") for table, name in data_files(member, storage))
    for root in _DATA_TABLES:
        for path in storage.list(join(output, root)):
            table, _, name = f"{root}/{path}".rpartition("/")
            if not is_temporary(name):
                yield table, name


def sweep(output: str, storage: Storage, sessions: Collection[str]) -> int:
    """Delete the remains of killed writes: temporary files, and data files without a commit. Return the number of data files.

    sessions: of the run; the files of all other writers stay. Call it under the lease: a write of a living driver looks the same.
    """
    if not sessions:
        return 0
    ours = re.compile(rf"(\{TEMPORARY}[0-9a-f]+-)?({'|'.join(sessions)})\d*-\d{{6}}\.parquet")
    listed = {root: storage.list(join(output, root)) for root in (FOVS, *_DATA_TABLES)}
    commits, stale = set(listed[FOVS]), 0
    for root, paths in listed.items():
        for path in paths:
            name = path.rpartition("/")[2]
            if (match := ours.fullmatch(name)) and (match[1] or (root != FOVS and name not in commits)):
                storage.delete(join(output, root, path))
                stale += not match[1]
    return stale


def is_temporary(name: str) -> bool:
    return not name.endswith(".parquet") or name.startswith(".")
