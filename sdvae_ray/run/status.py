"""How far a run is: what is done, what failed and why, by whom it was worked on, and who works on it now."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from sdvae_ray.run.driver.lease import holder
from sdvae_ray.run.run import Run
from sdvae_ray.schema import ERROR, ERROR_CLASS, KEYS, PLATE_COLUMN

_MOST = 20  # reasons and plates that are told


def status(run: Run) -> dict[str, Any]:
    """Return the state of a run as plain values. Raises DataError if there is no run.

    manifest, fovs (in the manifest), done (usable rows), failed (rows with an error), left (neither). reasons: a list of {class,
    reason, fovs, example}, the most frequent first; class: absent, damaged, denied, or None if the rows do not tell; a reason is an
    error without the names and numbers in it. plates, sources: lists of {name, done, failed}, most failures first. sessions: those
    of run.json. holder: {host, pid} of the driver that holds the lease; None without one.
    """
    record = run.record
    rows = run.fovs([*KEYS, ERROR_CLASS]).with_columns(failed=pl.col(ERROR).is_not_null())
    failed = rows.filter("failed")
    total = record["manifest"]["fovs"]
    return {
        "output": run.output,
        "manifest": record["manifest"]["uri"],
        "fovs": total,
        "done": rows.height - failed.height,
        "failed": failed.height,
        "left": total - rows.height,
        "reasons": _reasons(failed),
        "plates": _by(rows, PLATE_COLUMN),
        "sources": _by(rows, KEYS[0]),
        "sessions": [_session(session) for session in record["sessions"]],
        "holder": holder(run.output, run.storage),
    }


def _reasons(failed: pl.DataFrame) -> list[dict[str, Any]]:
    kind = pl.col(ERROR).str.replace_all(r"\S*[/\\]\S*", "...").str.replace_all(r"[0-9]+", "N")
    # rows of an earlier version have no class
    classes = pl.col(ERROR_CLASS) if ERROR_CLASS in failed.columns else pl.lit(None, pl.String)
    groups = failed.with_columns(classes.alias("class"), reason=kind).group_by("class", "reason")
    kinds = groups.agg(fovs=pl.len(), example=pl.col(ERROR).first())
    return kinds.sort("fovs", "class", "reason", descending=[True, False, False]).head(_MOST).to_dicts()


def _by(rows: pl.DataFrame, column: str) -> list[dict[str, Any]]:
    if column not in rows.columns:
        return []
    counts = rows.group_by(name=pl.col(column).cast(pl.String)).agg(
        done=(~pl.col("failed")).sum(), failed=pl.col("failed").sum()
    )
    return counts.sort("failed", "name", descending=[True, False]).head(_MOST).to_dicts()


def _session(session: Mapping[str, Any]) -> dict[str, Any]:
    """Return a session in short: its seconds and FOV/s are None if its driver did not come to the end."""
    seconds, fovs = session.get("seconds"), session["fovs"]
    rate = round(fovs / seconds, 4) if seconds else None
    kept = {key: session.get(key) for key in ("session", "started", "ended", "fovs", "errors", "waits")}
    return {**kept, "seconds": seconds, "fov_per_s": rate}
