"""The main job: every field of view of a manifest that has no usable row yet is computed and committed.

The driver reads one column of the manifest, subtracts the committed FOVs, and streams the others; see `stream`.
"""

import time
from dataclasses import dataclass
from typing import Any

import polars as pl
from rich.console import Console

from sdvae_ray.cluster.failures import RAY_LOGS
from sdvae_ray.cluster.pools import Pools, plan_pools
from sdvae_ray.cluster.session import check_output_is_shared, ray_session
from sdvae_ray.console import print_line
from sdvae_ray.encoding.pending import Work, lacking, pending, trial
from sdvae_ray.encoding.start import checked_manifest, prepare_record, probe
from sdvae_ray.encoding.stream import stream
from sdvae_ray.encoding.supervision.outage import PrintedReport
from sdvae_ray.engine.files.patience import Patience
from sdvae_ray.engine.models import check_names, resolve_weights
from sdvae_ray.errors import RunError
from sdvae_ray.planning.measured import measured_seconds
from sdvae_ray.run.driver.lease import Lease
from sdvae_ray.run.driver.log import RunLog
from sdvae_ray.run.record import Record, now
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.table_files import sweep
from sdvae_ray.schema import CROP, ERROR, ERROR_CLASS, FOV_ID

_SECONDS = "seconds_load"
_SLOWEST = 5  # FOVs that a session names


@dataclass(frozen=True)
class Encoded:
    """The result of `encode`.

    fovs      FOVs in the manifest
    before    FOVs that were complete before
    computed  FOVs that were computed now
    errors    FOVs that still lack a usable row
    seconds   of streaming
    """

    fovs: int
    before: int
    computed: int
    errors: int
    seconds: float


def encode(
    run: Run,
    console: Console,
    address: str | None = None,
    extend: bool = False,
    failed: str | None = None,
    limit: int | None = None,
) -> Encoded:
    """Compute every FOV of the manifest that has no usable row yet; with `extend` also the columns that a finished run lacks.

    failed: only FOVs whose error contains this text; None: those that were never tried too. limit: a trial of so many FOVs, spread
    over the manifest; the numbers of the result are of these FOVs. address: a Ray cluster; None: the
    cluster of this job, else this machine. Raises ConfigError, DataError, StorageError, WeightsError or ResourceError before
    anything is computed, and RunError if the run was stopped or is incomplete. Committed rows stay.
    """

    def say(line: str) -> None:
        print_line(console, f"encode: {line}")

    check_names(run.config)
    keys = checked_manifest(run, say)
    asked = trial(keys, limit)
    if asked.height < keys.height:
        say(f"a trial, {asked.height} of {keys.height} FOVs; the same command without --limit goes on with the rest")
    resolved = resolve_weights(run.config, run.storage)
    for name, weights in resolved.items():
        if weights.assumed:
            say(f"{name}: {weights.assumed}")
    with (
        Lease(run.output, run.storage, say) as lease,
        RunLog(run.output, run.storage, "encode", say, RAY_LOGS) as log,
    ):
        sweep(run.output, run.storage, run.sessions())
        works = pending(run, asked, failed)
        if works:
            probe(run, pl.concat([work.keys for work in works]))
        with ray_session(address, console):
            check_output_is_shared(run.config)
            pools = plan_pools(run.config, measured_seconds(run))
            record = prepare_record(run, keys, resolved, pools.encode, extend, say)
            if extend and record.get("extensions"):
                print_line(console, f"extended by {', '.join(record['extensions'][-1]['added'])}")
            return _computed(run, asked, works, record, pools, console, lease, log, whole=failed is None)


def _computed(
    run: Run,
    keys: pl.DataFrame,
    works: list[Work],
    record: Record,
    pools: Pools,
    console: Console,
    lease: Lease,
    log: RunLog,
    whole: bool,
) -> Encoded:
    """Stream the pieces of work, and write the session into the record. whole: every FOV of `keys` must have a row afterwards."""
    total = sum(work.keys.height for work in works)
    before = len(keys) - total
    to_do = f"{total} of {len(keys)} FOVs to do" + (f" ({before} done before)" if before and whole else "")
    forward = f"{record['precision']}, {record['micro_batch']} passes per forward"
    print_line(console, f"encode: {to_do}; {pools}, {forward}")
    if len(works) > 1 and run.config.image.policies is not None:
        crops = [f"{work.keys.height} FOVs with a crop of {work.keys[CROP][0]} pixels" for work in works]
        print_line(console, f"encode: {len(works)} streams, one after another: {', '.join(crops)}")
    start, session = time.monotonic(), log.session
    if total:
        entry: dict[str, Any] = {"session": session, "started": now(), "fovs": total, "log": log.file, "stages": []}
        if len(keys) < record["manifest"]["fovs"]:
            entry["limit"] = len(keys)
        record["sessions"].append(entry)
        run.write_record(record)
        waited = 0.0
        for number, work in enumerate(works):
            stages, waits = stream(run, work, pools, record, f"{session}{number or ''}", console, lease)
            entry["stages"].append(stages)
            waited += waits
            lease.check()
        entry["waits"] = round(waited, 1)
    seconds = time.monotonic() - start
    patience = Patience(run.config.storage.patience_minutes, PrintedReport(console))
    # of the session's own fields; millions of others are not held twice
    told = [ERROR_CLASS, _SECONDS] if total else []
    fovs, commits = patience(lambda: run.present_commits(told))
    if several := fovs.filter(pl.col("files").list.len() > 1).height:
        line = f"encode: {several} FOVs have rows in several files; `sdvae-ray compact` gives each one row"
        print_line(console, line)
    if total:
        entry |= {"ended": now(), "seconds": round(seconds, 2), **_of_session(fovs, session)}
    result = patience(lambda: _summary(run, keys, fovs, commits, before, total, seconds, whole))
    if total:
        entry["errors"] = result.errors
        patience(lambda: run.write_record(record))
    return result


def _of_session(fovs: pl.DataFrame, session: str) -> dict[str, Any]:
    """Return what the record tells of the rows of a session.

    failed: class of error -> FOVs; `engine` for an error after loading. slowest: the FOVs whose images took longest to load, with
    the seconds.
    """
    rows = fovs.filter(pl.col("files").list.first().str.starts_with(session))
    if rows.is_empty():
        return {"failed": {}, "slowest": []}
    failed = rows.filter(pl.col(ERROR).is_not_null())[ERROR_CLASS].fill_null("engine").value_counts()
    slowest = rows.drop_nulls(_SECONDS).sort(_SECONDS, FOV_ID, descending=[True, False]).head(_SLOWEST)
    return {
        "failed": dict(sorted(failed.iter_rows())),
        "slowest": [{FOV_ID: row[FOV_ID], _SECONDS: round(row[_SECONDS], 3)} for row in slowest.iter_rows(named=True)],
    }


def _summary(
    run: Run,
    keys: pl.DataFrame,
    fovs: pl.DataFrame,
    commits: dict[str, frozenset[str]],
    before: int,
    total: int,
    seconds: float,
    whole: bool,
) -> Encoded:
    """Return the result of `encode`. whole: every FOV must have a row. Raises RunError if one has none, or too many have failed."""
    missing = keys.join(fovs.select(FOV_ID), on=FOV_ID, how="anti", maintain_order="left")
    if missing.height and whole:
        raise RunError(
            f"{missing.height} FOVs have no row after the run, the first of them {missing[FOV_ID][0]}; run again"
        )
    short = sum(work.keys.height for work in lacking(run, keys, fovs, commits))
    result = Encoded(len(keys), before, total, short, seconds)
    if short > run.config.allowed_errors(len(keys)):
        failed = fovs.filter(pl.col(ERROR).is_not_null())[ERROR].to_list()
        why = f"the first: {failed[0]}" if failed else "their rows lack the added columns: run again"
        raise RunError(
            f"{short} of {len(keys)} FOVs failed, more than max_error_fraction {run.config.max_error_fraction:g} allows; {why}"
        )
    return result
