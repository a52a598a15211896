"""A run whose manifest has changed since it began: what may change, and what makes it another run.

The annotation may change: the fields are the same pixels. A field that failed, or was never tried, may change its place, and is
computed from the new one. A field that is encoded may not.
"""

from collections.abc import Callable
from typing import Any

import polars as pl

from sdvae_ray.errors import ConfigError
from sdvae_ray.run.record import CHANGES, Record, now
from sdvae_ray.run.run import Run
from sdvae_ray.schema import ERROR, FOV_ID, SOURCE_DIGEST
from sdvae_ray.sources.manifest.scan import annotation_hash, scan_manifest


def of_manifest(
    run: Run, record: Record, manifest: dict[str, Any], keys: pl.DataFrame, say: Callable[[str], None]
) -> Record:
    """Return the record as one of the manifest at hand, whose earlier descriptions it keeps under `manifest_changes`.

    manifest: its uri, fovs, sha256 and identity. keys: fov_id and, of a manifest of one file, source_digest of its rows. say:
    takes one line on what changed. Raises ConfigError, with the name of a field, if the manifest is of another run.
    """
    before = record["manifest"]
    if before["sha256"] == manifest["sha256"]:
        return record
    manifest = {**manifest, "annotation": annotation_hash(manifest["uri"], run.storage)}
    if before.get("identity") == manifest["identity"]:
        say(_on_annotation(before, manifest))
    else:
        moved = _check_moves(run, before, manifest, keys)
        say(
            f"note: the manifest has changed: {moved} FOVs without a usable row have another image, and are computed from it"
        )
    return {**record, "manifest": manifest, CHANGES: [*record.get(CHANGES, []), {**before, "until": now()}]}


def _on_annotation(before: dict[str, Any], manifest: dict[str, Any]) -> str:
    if before.get("annotation") == manifest["annotation"]:
        return "note: the manifest has changed its order or its form, and neither its images nor its metadata"
    return (
        "note: the metadata of the manifest has changed; no field is encoded again, and `score` joins the new metadata"
    )


def _check_moves(run: Run, before: dict[str, Any], manifest: dict[str, Any], keys: pl.DataFrame) -> int:
    """Return how many FOVs without a usable row have another place. Raises ConfigError for any other difference."""
    refusal = f"{run.output} holds a run of another manifest ({before['uri']}, {before['fovs']} FOVs)"
    if manifest["fovs"] != before["fovs"]:
        raise ConfigError(f"{refusal}; this one lists {manifest['fovs']}; choose another output")
    tried = run.fovs([SOURCE_DIGEST])
    if SOURCE_DIGEST not in tried.columns:
        raise ConfigError(f"{refusal}; choose another output")
    if SOURCE_DIGEST not in keys.columns:  # of a manifest of many files: it has changed, so that it is worth a scan
        keys = scan_manifest(manifest["uri"], run.config.image, run.storage)[0]
    was = tried.select(FOV_ID, ERROR, was=SOURCE_DIGEST).sort(FOV_ID)
    joined = was.join(keys.select(FOV_ID, SOURCE_DIGEST), on=FOV_ID, how="left", maintain_order="left")
    gone = joined.filter(pl.col(SOURCE_DIGEST).is_null())
    if gone.height:
        raise ConfigError(
            f"{refusal}; this one lacks {gone.height} of its FOVs, such as {gone[FOV_ID][0]}; choose another output"
        )
    other = joined.filter(pl.col("was").ne_missing(pl.col(SOURCE_DIGEST)))
    healthy = other.filter(pl.col(ERROR).is_null())
    if healthy.height:
        raise ConfigError(
            f"{refusal}: {healthy.height} FOVs that are encoded have another image, plane, illumination function or scaling in "
            f"this one, such as {healthy[FOV_ID][0]}; only FOVs that failed may change their place; choose another output"
        )
    return other.height + keys.height - tried.height
