"""The rows of fovs/ plate by plate, packed: those of millions of fields of view fit the memory of one driver.

Every file of fovs/ is read once, with the columns that are asked for alone; many files are one piece of work, and the caller says
where the pieces are done (threads here, tasks of Ray in the rooms above). The rows of a plate are then reduced together: a field
that was written twice was written for the same plate.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import polars as pl

from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.commits import FILE, one_per_fov, read_files
from sdvae_ray.schema import ERROR, METADATA, PLATE_KEY

PLACE = "_place"  # column: where a row stands in fovs/, number of the file * ROWS + row in the file
ROWS = 1 << 32
_FILES = 256  # of one piece of work, at most
_PIECES = 64  # of a run of few files, at least: a compacted file has 100,000 rows and more
_THREADS = 4  # pieces that are done at once in this process

Key = tuple[str, ...]  # values of PLATE_KEY
Wanted = Callable[[str], bool]  # whether a column of fovs/ is read
T = TypeVar("T")
Mapper = Callable[
    [Callable[..., T], Iterable[tuple[Any, ...]]], Iterator[T]
]  # results come in the order of the arguments


@dataclass(frozen=True)
class PlateRows:
    """Rows of one plate. key: values of PLATE_KEY. packed: a table as Arrow IPC with zstd, about 15 bytes a row."""

    key: Key
    height: int
    packed: bytes

    @classmethod
    def of(cls, key: Key, table: pl.DataFrame) -> Self:
        """Pack a table, whose rows are all of the plate `key`."""
        buffer = io.BytesIO()
        table.write_ipc(buffer, compression="zstd")
        return cls(key, table.height, buffer.getvalue())

    def table(self) -> pl.DataFrame:
        """Return the table."""
        return pl.read_ipc(io.BytesIO(self.packed))


@dataclass
class Committed:
    """What fovs/ holds, before the rows of a plate are reduced.

    plates   plate -> its rows, in the order of the files
    commits  file name -> the columns `<table>:<column>` that this file commits
    columns  name -> dtype of every column that was read, in the order in which files first have it
    usable   number of rows without an error
    """

    plates: dict[Key, list[PlateRows]] = field(default_factory=dict)
    commits: dict[str, frozenset[str]] = field(default_factory=dict)
    columns: dict[str, pl.DataType] = field(default_factory=dict)
    usable: int = 0


def in_threads(function: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """Yield the results of function(*item) for every item of `arguments`, in their order, computed by a few threads."""
    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(lambda item: function(*item), arguments)


def read_committed(run: Run, names: Sequence[str], wanted: Wanted, mapper: Mapper[Any] = in_threads) -> Committed:
    """Return the rows of the files `names` of fovs/ by plate. wanted: columns beside fov_id, error and PLATE_KEY."""
    size = max(1, min(_FILES, len(names) // _PIECES))
    pieces = [(at, names[at : at + size]) for at in range(0, len(names), size)]
    committed = Committed()
    for (_, files), (parts, commits, columns, usable) in zip(
        pieces, mapper(_read_piece, ((run, wanted, *piece) for piece in pieces)), strict=True
    ):
        for part in parts:
            committed.plates.setdefault(part.key, []).append(part)
        committed.commits.update(zip(files, commits, strict=True))
        committed.usable += usable
        for name, dtype in columns.items():
            if committed.columns.setdefault(name, dtype) == pl.Null:
                committed.columns[name] = dtype
    return committed


def _read_piece(
    run: Run, wanted: Wanted, first: int, names: Sequence[str]
) -> tuple[list[PlateRows], list[frozenset[str]], dict[str, pl.DataType], int]:
    """Return the rows of some files by plate, what each file commits, the columns, and the number of usable rows.

    first: number of the first file.
    """
    frames, commits = read_files(run.output, run.storage, names, lambda name: name in PLATE_KEY or wanted(name))
    numbered = [
        frame.with_columns((pl.int_range(pl.len(), dtype=pl.UInt64) + (first + number) * ROWS).alias(PLACE))
        for number, frame in enumerate(frames)
    ]
    rows = pl.concat(numbered, how="diagonal_relaxed")
    keyed = rows.with_columns(pl.lit(None, pl.String).alias(name) for name in PLATE_KEY if name not in rows.columns)
    by_plate = keyed.partition_by(PLATE_KEY, as_dict=True, maintain_order=True)
    columns = {name: dtype for name, dtype in rows.schema.items() if name not in (FILE, PLACE)}
    packed = [PlateRows.of(key, table) for key, table in by_plate.items()]
    return packed, commits, columns, rows[ERROR].null_count()


def reduced(parts: Sequence[PlateRows], columns: dict[str, pl.DataType]) -> pl.DataFrame:
    """Return one row per FOV of a plate, as `Run.fovs` does, with PLACE: of the row that counts.

    columns: of `Committed`: a column that the files of this plate lack is null.
    """
    rows = pl.concat([part.table() for part in parts], how="diagonal_relaxed")
    absent = [
        pl.lit(None, pl.String if name.startswith(METADATA) else dtype).alias(name)
        for name, dtype in columns.items()
        if name not in rows.columns
    ]
    ordered = rows.with_columns(absent).select(*columns, pl.exclude(*columns))
    return one_per_fov(ordered)
