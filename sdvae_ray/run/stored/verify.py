"""Every file of a run's tables, read and counted: what is damaged, gone, foreign or left over; and how damage is mended."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from sdvae_ray.errors import DataError
from sdvae_ray.parquet import opened
from sdvae_ray.run.driver.lease import Lease
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.commits import committed_columns, gone_files, with_files
from sdvae_ray.run.stored.table_files import REPAIR, committed_files, data_files
from sdvae_ray.schema import ERROR, FOV_ID, FOVS, SEPARATOR
from sdvae_ray.storage import join

_READERS = 16  # threads
_EVERY = 1000  # files between two lines of progress


@dataclass
class Verified:
    """The state of a run's tables.

    files       files that were read
    fovs        FOVs with a row; usable: those without an error
    damaged     path under the output -> why it cannot be read, or what it lacks
    gone        paths of files that fovs/ commits and that are not there
    uncommitted paths of files of data tables without a file of that name in fovs/: remains of a killed write, or not of this run
    repaired    paths that were deleted, so that their FOVs are pending
    """

    files: int = 0
    fovs: int = 0
    usable: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    uncommitted: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Return whether every committed row is there and can be read, after the repair if there was one."""
        return not (set(self.damaged) - set(self.repaired)) and not self.gone


@dataclass(frozen=True)
class _Commit:
    """A file of fovs/: its FOVs, those of them without an error, and the columns that it commits."""

    fovs: list[str]
    usable: list[str]
    columns: frozenset[str]


def verify(run: Run, say: Callable[[str], None], repair: bool = False) -> Verified:
    """Read every file of the run's tables whole. say: takes lines of progress.

    repair: delete the damaged files under the lease of the run, so that the next `encode` computes their FOVs again. Raises
    DataError if there is no run, StorageError if storage fails, ConfigError if another driver writes to the run during a repair.
    """
    if run.find_record() is None and not run.storage.list(run.uri(FOVS)):
        raise DataError(f"no run at {run.output}")
    if not repair:
        return _verified(run, say)
    with Lease(run.output, run.storage, say):
        verified = _verified(run, say)
        for path in verified.damaged:
            run.storage.delete(run.uri(path))
            verified.repaired.append(path)
    return verified


def _verified(run: Run, say: Callable[[str], None]) -> Verified:
    verified, commits = Verified(), dict[str, _Commit]()
    names = committed_files(run.output, run.storage)
    for name, commit in _each(lambda name: _commit(run, name), names, FOVS, say):
        verified.files += 1
        if isinstance(commit, _Commit):
            commits[name] = commit
        else:
            verified.damaged[f"{FOVS}/{name}"] = commit
    there = set(data_files(run.output, run.storage))
    known = commits.keys() | {path.rpartition("/")[2] for path in verified.damaged}
    verified.uncommitted = sorted(f"{table}/{name}" for table, name in there if name not in known)
    expected = sorted(
        (table, name)
        for name, commit in commits.items()
        if commit.usable
        for table in {column.rpartition(SEPARATOR)[0] for column in commit.columns}
    )
    present = [place for place in expected if place in there]

    def problem_of(place: tuple[str, str]) -> str | None:
        return _problem(run, place[0], place[1], commits[place[1]])

    for (table, name), problem in _each(problem_of, present, "tables", say):
        verified.files += 1
        if problem:
            verified.damaged[f"{table}/{name}"] = problem
    verified.gone = _gone(commits, there)
    fovs = {fov for commit in commits.values() for fov in commit.fovs}
    verified.fovs, verified.usable = len(fovs), len({fov for commit in commits.values() for fov in commit.usable})
    return verified


def _each(
    action: Callable[[Any], Any], items: list[Any], what: str, say: Callable[[str], None]
) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of an item and the result of its action, by threads; a line now and then."""
    with ThreadPoolExecutor(_READERS) as readers:
        for number, pair in enumerate(zip(items, readers.map(action, items), strict=True), 1):
            yield pair
            if number % _EVERY == 0:
                say(f"{number} of {len(items)} files of {what} read")


def _commit(run: Run, name: str) -> _Commit | str:
    """Return a file of fovs/, or why it cannot be read."""
    uri = run.uri(FOVS, name)
    try:
        with opened(uri, run.storage, REPAIR) as file:
            table, columns = file.read(), committed_columns(file)
        rows = pl.DataFrame(table.select([FOV_ID, ERROR]))
    except (DataError, KeyError, FileNotFoundError, ValueError) as error:
        return _reason(error, uri)
    usable = rows.filter(pl.col(ERROR).is_null())
    return _Commit(rows[FOV_ID].to_list(), usable[FOV_ID].to_list(), columns)


def _problem(run: Run, table: str, name: str, commit: _Commit) -> str | None:
    """Return why a committed file of a data table cannot be used; None if it can."""
    uri = join(run.output, table, name)
    try:
        with opened(uri, run.storage, REPAIR) as file:
            content: pa.Table = file.read()
    except (DataError, FileNotFoundError, ValueError) as error:
        return _reason(error, uri)
    if FOV_ID not in content.column_names or content[FOV_ID].to_pylist() != commit.usable:
        return f"its rows are not the {len(commit.usable)} usable rows of {FOVS}/{name}"
    wanted = {column.rpartition(SEPARATOR)[2] for column in commit.columns if column.startswith(f"{table}{SEPARATOR}")}
    lacking = sorted(wanted - set(content.column_names))
    return f"it lacks the column {lacking[0]}" if lacking else None


def _gone(commits: dict[str, _Commit], there: set[tuple[str, str]]) -> list[str]:
    """Return the paths of absent files whose rows no other file has."""
    rows = [(fov, name) for name, commit in commits.items() for fov in commit.usable]
    frame = pl.DataFrame(rows, schema=[FOV_ID, "files"], orient="row").group_by(FOV_ID).agg("files")
    columns = {name: commit.columns for name, commit in commits.items()}
    return [f"{table}/{name}" for table, name in gone_files(frame, columns, with_files(columns, there))]


def _reason(error: Exception, uri: str) -> str:
    return str(error).removeprefix(f"{uri} is damaged: ").removesuffix(f"; {REPAIR}")
