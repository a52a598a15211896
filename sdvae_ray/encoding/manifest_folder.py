"""Makes a manifest of many files: every load_data file becomes one file, by threads, or by tasks of Ray where there are many
and CPUs for them.

What is made is written down in `building/` of the folder now and then, so that the same command goes on where it was stopped. The
index comes last, and only if no load_data file was refused.
"""

import json
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from rich.console import Console

from sdvae_ray.cluster.failures import unwrapped_failures
from sdvae_ray.cluster.ordered_tasks import mapped
from sdvae_ray.cluster.session import check_folder_is_shared, ray_session
from sdvae_ray.console import print_line, waiting
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.run.driver.lease import Lease
from sdvae_ray.schema import PLATE_KEY
from sdvae_ray.sources.load_data_files import load_data_files
from sdvae_ray.sources.manifest.index import index_uri
from sdvae_ray.sources.manifest.plate import Made, Recipe, is_excluded, make_plate, make_plates, tables_of
from sdvae_ray.sources.manifest.writer import seal
from sdvae_ray.storage import Storage, join

BUILDING = "building"  # folder of the records of an unfinished manifest
_FEW = 256  # load_data files that threads of the driver make: Ray would take longer to start
_FEW_CPUS = 4  # of this machine, where no cluster is named: as many as threads of one process keep busy
_THREADS = 8
_PER_TASK = 4  # load_data files
_LINE_EVERY = 15.0  # seconds between lines, and between records
_NAMED = 20  # load_data files with a problem that are named
_READERS = 8  # records that are read at a time


@dataclass(frozen=True)
class Built:
    """A manifest of many files.

    excluded  reason -> fields that are left out, or load_data files that are not read
    """

    fovs: int
    wells: int
    plates: int
    load_data: int
    resumed: int
    excluded: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def build_folder(recipe: Recipe, console: Console, address: str | None = None) -> Built:
    """Write the manifest of a recipe into its folder. address: a Ray cluster; None: the cluster of this job, else this machine.

    Raises ConfigError for an output that is no folder; DataError for load_data files that are refused, after all have been tried
    and named, for two of one plate, and for a table of metadata. Raises StorageError; what is made stays.
    """
    storage, settings = Storage(recipe.storage), recipe.settings
    if index_uri(recipe.output) is None:
        raise ConfigError(
            f"{recipe.output}: a manifest of many files is a folder, and its name does not end in .parquet"
        )
    with waiting(console, "manifest: looking for load_data files"):
        marks = load_data_files(settings.files, storage)
    skipped = {uri: number for uri in marks if (number := is_excluded(uri, settings.exclude)) is not None}
    wanted = {uri: mark for uri, mark in marks.items() if uri not in skipped}
    with waiting(console, "manifest: reading the tables of metadata"):
        tables_of(recipe)
    with Lease(recipe.output, storage) as lease:
        made = _finished(recipe, wanted, storage)
        resumed = len(made)
        again = f", {resumed} of them made before" if resumed else ""
        print_line(console, f"manifest: {len(wanted)} load_data files{again}")
        todo = {uri: mark for uri, mark in wanted.items() if uri not in made}
        made |= {one.load_data: one for one in _made(recipe, todo, storage, console, address, len(wanted))}
        lease.check()
        whole = [made[uri] for uri in wanted]
        _refuse(whole, console)
        parts = [(one.part, one.schema) for one in whole if one.part is not None and one.schema is not None]
        if not parts:
            raise DataError("no FOV is left: every one is left out by load_data.exclude, or is on no platemap")
        with waiting(console, "manifest: writing the index"):
            seal(recipe.output, parts, storage)
            storage.delete_folder(join(recipe.output, BUILDING))
    excluded = sum((one.excluded for one in whole), Counter(skipped.values()))
    return Built(
        fovs=sum(part.rows for part, _ in parts),
        wells=sum(part.wells for part, _ in parts),
        plates=len(parts),
        load_data=len(wanted),
        resumed=resumed,
        excluded={one.reason: excluded[number] for number, one in enumerate(settings.exclude)},
        notes=_notes(recipe, whole, skipped),
    )


def _made(
    recipe: Recipe, todo: Mapping[str, str], storage: Storage, console: Console, address: str | None, total: int
) -> Iterator[Made]:
    """Yield what becomes of the load_data files, and write it down; print a line of progress now and then."""
    waiting_for: list[Made] = []
    fovs, done, last = 0, total - len(todo), time.monotonic()
    alone = not (address or os.environ.get("RAY_ADDRESS")) and (os.cpu_count() or 1) <= _FEW_CPUS
    by_threads = alone or len(todo) <= _FEW
    for made in _by_threads(recipe, [*todo]) if by_threads else _by_ray(recipe, [*todo], address, console):
        waiting_for.append(made)
        done, fovs = done + 1, fovs + made.fovs
        if made.problem:
            print_line(console, f"manifest: refused: {made.problem}")
        if time.monotonic() - last > _LINE_EVERY:
            last = time.monotonic()
            _write_down(recipe, waiting_for, todo, storage)
            print_line(console, f"manifest: {done:,} of {total:,} load_data files, {fovs:,} FOVs")
            waiting_for = []
        yield made
    _write_down(recipe, waiting_for, todo, storage)


def _by_threads(recipe: Recipe, load_data: Sequence[str]) -> Iterator[Made]:
    with ThreadPoolExecutor(_THREADS) as readers:
        try:
            yield from readers.map(lambda uri: make_plate(recipe, uri), load_data)
        finally:
            readers.shutdown(cancel_futures=True)


def _by_ray(recipe: Recipe, load_data: Sequence[str], address: str | None, console: Console) -> Iterator[Made]:
    pieces = [(recipe, load_data[start : start + _PER_TASK]) for start in range(0, len(load_data), _PER_TASK)]
    with ray_session(address, console), unwrapped_failures():
        check_folder_is_shared("--output", recipe.output)
        for made in mapped(make_plates, pieces):
            yield from made


def _write_down(recipe: Recipe, made: Sequence[Made], marks: Mapping[str, str], storage: Storage) -> None:
    """Write a record of the files that are made, which `_finished` reads."""
    told = [{"mark": marks[one.load_data], "made": one.told()} for one in made if one.problem is None]
    if told:
        record = {"recipe": recipe.digest, "files": told}
        storage.write_bytes(join(recipe.output, BUILDING, f"{uuid.uuid4().hex}.json"), json.dumps(record).encode())


def _finished(recipe: Recipe, marks: Mapping[str, str], storage: Storage) -> dict[str, Made]:
    """Return load_data file -> what was made of it by the same recipe, if that is there and the load_data file is the same."""
    folder = join(recipe.output, BUILDING)

    def read(name: str) -> list[Made]:
        record = json.loads(storage.read_bytes(join(folder, name)))
        if record["recipe"] != recipe.digest:
            return []
        made = [(Made.of(told["made"]), told["mark"]) for told in record["files"]]
        return [one for one, mark in made if marks.get(one.load_data) == mark]

    with ThreadPoolExecutor(_READERS) as readers:
        finished = [one for made in readers.map(read, storage.list(folder)) for one in made]
    there = {*storage.list(recipe.output)} if finished else set()
    return {one.load_data: one for one in finished if one.part is None or one.part.file in there}


def _refuse(made: Sequence[Made], console: Console) -> None:
    """Raise DataError if a load_data file was refused, or two are of one plate."""
    if problems := [one.problem for one in made if one.problem]:
        more = f" ({len(problems)} load_data files are refused in all, each named above)" if len(problems) > 1 else ""
        raise DataError(
            f"{problems[0]}{more}; mend them, or name them in load_data.exclude (files, reason); the others are not made again"
        )
    of_plate: dict[str, str] = {}
    for one in made:
        if one.part is not None and (other := of_plate.setdefault(one.part.plate, one.load_data)) != one.load_data:
            raise DataError(f"the plate {one.part.plate} is in {other} and in {one.load_data}: one of them is wanted")


def _notes(recipe: Recipe, made: Sequence[Made], skipped: Mapping[str, int]) -> list[str]:
    """Return what a person should read: notes of one kind once, with the number of their load_data files."""
    settings = recipe.settings
    _, tables = tables_of(recipe)
    kinds: dict[str, list[str]] = {}
    for one in made:
        for note in one.notes:
            kind = re.sub(r"'[^']*'|\S*[\d/]\S*", "#", note)
            kinds.setdefault(kind, []).append(f"{one.load_data}: {note}")
    notes = [
        said[0] + (f" ({len(said)} load_data files have such a note)" if len(said) > 1 else "")
        for said in kinds.values()
    ]
    used = set[str]().union(*(one.rewritten for one in made))
    notes += [
        f"the rewrite {start}={to} matched nothing" for start, to in settings.rewrite.items() if start not in used
    ]
    plates = {one.part.plate for one in made if one.part is not None}
    fovs = sum(one.fovs for one in made)
    for number, table in enumerate(tables):
        notes += table.notes
        lost = sum(one.unmatched[number] for one in made)
        if joined := [one.keys[number] for one in made if number in one.keys]:
            notes += table.told(joined[0], lost, fovs)
        if {*PLATE_KEY} <= {*table.rows.columns}:
            of_sources = {plate.partition("/")[0] for plate in plates}
            known = {"/".join(row) for row in table.rows.select(PLATE_KEY).iter_rows() if row[0] in of_sources}
            if absent := sorted(known - plates):
                few = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
                notes.append(f"{table.uri}: {len(absent)} of its plates of these sources have no FOV: {few}")
    return notes
