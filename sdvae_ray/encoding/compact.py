"""Rewrites a run so that every field of view has one row with all of its columns, in files of 128 to 256 MB, by tasks of Ray."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from rich.console import Console

from sdvae_ray.cluster.failures import RAY_LOGS, unwrapped_failures
from sdvae_ray.cluster.ordered_tasks import TASK_CPUS, in_order, weighing
from sdvae_ray.cluster.session import check_output_is_shared, ray_session
from sdvae_ray.console import print_line
from sdvae_ray.run.driver.lease import Lease
from sdvae_ray.run.driver.log import RunLog
from sdvae_ray.run.record import now
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.compaction import FILE_BYTES, Chunk, delete_old, plan, rewrite
from sdvae_ray.run.stored.table_files import sweep

_FEW = 2  # chunks that the driver rewrites itself: Ray would take longer to start
_COPIES = 4  # of the bytes of the largest table that a task holds: the old files, numpy, Arrow and the new file


@dataclass(frozen=True)
class Compacted:
    """The result of `compact`.

    fovs     FOVs of the run, which have one row each
    rewritten  FOVs whose row stands in a new file
    before, after  files of fovs/
    deleted  files of all tables that are gone
    """

    fovs: int
    rewritten: int
    before: int
    after: int
    deleted: int


def compact(run: Run, console: Console, address: str | None = None, file_bytes: int = FILE_BYTES) -> Compacted:
    """Rewrite the small and the partial files of a run. file_bytes: of the largest table of a new file.

    Raises DataError if there is no run or a committed file is gone, ConfigError if another driver writes to it. A compaction that
    is stopped loses nothing; the next one ends it.
    """

    def say(line: str) -> None:
        print_line(console, f"compact: {line}")

    record = run.record
    with (
        Lease(run.output, run.storage, say) as lease,
        RunLog(run.output, run.storage, "compact", say, RAY_LOGS) as log,
    ):
        sweep(run.output, run.storage, run.sessions())
        todo = plan(run, file_bytes)
        rewritten = sum(chunk.fovs.height for chunk in todo.chunks)
        after = todo.kept + len(todo.chunks)
        if not todo.old:
            return Compacted(todo.fovs, 0, todo.kept, todo.kept, 0)
        say(
            f"{rewritten} of {todo.fovs} FOVs move from {len(todo.old)} files to {len(todo.chunks)}; {todo.kept} files stay"
        )
        entry: dict[str, Any] = {"session": log.session, "started": now(), "fovs": rewritten, "log": log.file}
        record.setdefault("compactions", []).append(entry)
        run.write_record(record)
        done = 0
        for number, rows in enumerate(_rewritten(run, todo.chunks, log.session, todo.row_bytes, address, console), 1):
            lease.check()
            done += rows
            say(f"{done} of {rewritten} FOVs in {number} of {len(todo.chunks)} files")
        lease.check()
        deleted = delete_old(run, todo.old)
        entry |= {"ended": now(), "files_before": todo.kept + len(todo.old), "files_after": after}
        run.write_record(record)
        return Compacted(todo.fovs, rewritten, todo.kept + len(todo.old), after, deleted)


def _rewritten(
    run: Run, chunks: list[Chunk], session: str, row_bytes: int, address: str | None, console: Console
) -> Iterator[int]:
    """Commit the chunks, by tasks of Ray where there are many. Yield the rows of every chunk, in order."""
    names = [f"{session}-{number:06d}" for number in range(len(chunks))]
    if len(chunks) <= _FEW:
        yield from (rewrite(run, chunk, name) for chunk, name in zip(chunks, names, strict=True))
        return
    with ray_session(address, console), unwrapped_failures():
        check_output_is_shared(run.config)
        most = max(chunk.fovs.height for chunk in chunks)
        memory = weighing(_COPIES * most * row_bytes)
        task = ray.remote(rewrite).options(num_cpus=TASK_CPUS, **memory)
        yield from in_order(task, ((run, chunk, name) for chunk, name in zip(chunks, names, strict=True)))
