"""The fields that `score` takes, with the metadata of the manifest at hand, and what the record of the scores says of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.run.annotation import replaced
from sdvae_ray.run.record import CHANGES, describe_manifest
from sdvae_ray.run.run import Run
from sdvae_ray.sources.annotation import read_annotation
from sdvae_ray.sources.manifest.scan import annotation_hash
from sdvae_ray.storage import absolute


@dataclass(frozen=True)
class Fields:
    """The fields of a run as the scores take them.

    fovs        rows of the table fovs, with the Metadata_* of the manifest at hand
    annotation  fov_id and these Metadata_*, where they are not those of the encoded fields; else None
    facts       what the record of the scores says of them, JSON-ready
    """

    fovs: pl.DataFrame
    annotation: pl.DataFrame | None
    facts: dict[str, Any]


def with_current_metadata(run: Run, fovs: pl.DataFrame, manifest: str | None, say: Callable[[str], None]) -> Fields:
    """Return the fields with the Metadata_* of the manifest, joined by fov_id.

    manifest: a manifest that takes the place of the run's own. If the run's own is what it was at encode, or is gone, the metadata
    is that of the encoded fields. Raises DataError as `read_annotation`, and if `manifest` does not exist.
    """
    uri = absolute(manifest) if manifest else run.config.manifest
    record = run.find_record() or {}
    encoded = record.get("manifest", {})
    facts: dict[str, Any] = {
        "encoded_with": {key: encoded.get(key) for key in ("uri", "sha256", "identity", "annotation")}
    }
    if not manifest and not run.storage.exists(uri):
        say(f"note: the manifest {uri} is not there; the metadata is that of the encoded fields")
        return Fields(fovs, None, facts)
    try:
        described = describe_manifest(uri, fovs.height, run.storage)
    except FileNotFoundError as error:
        raise DataError(f"there is no manifest at {uri}") from error
    facts["manifest"] = {key: described[key] for key in ("uri", "sha256")}
    if described["sha256"] == encoded.get("sha256") and not record.get(CHANGES):
        return Fields(fovs, None, facts)
    annotation = read_annotation(uri, fovs, run.config.image, run.storage)
    facts["manifest"] |= {"identity": annotation.identity, "annotation": annotation_hash(uri, run.storage)}
    facts |= {
        "changed": annotation.changed,
        "added": annotation.added,
        "gone": annotation.gone,
        "fovs": annotation.fovs,
    }
    say(f"{uri}: {annotation.line()}")
    if not annotation.is_new:
        return Fields(fovs, None, facts)
    return Fields(replaced(fovs, annotation.table), annotation.table, facts)
