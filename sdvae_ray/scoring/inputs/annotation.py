"""The fields that `score` takes, with the metadata of the manifest at hand, and what the record of the scores says of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.run.joined import JOINED
from sdvae_ray.run.record import CHANGES
from sdvae_ray.run.run import Run
from sdvae_ray.sources.annotation import read_annotation
from sdvae_ray.sources.manifest.describe import describe_manifest
from sdvae_ray.sources.manifest.reader import manifest_exists
from sdvae_ray.sources.manifest.scan import annotation_hash
from sdvae_ray.storage import absolute


@dataclass(frozen=True)
class Current:
    """The metadata that counts. uri: the manifest to take it from; None: the metadata is that of the encoded fields.

    facts: what the record of the scores says of it, JSON-ready.
    """

    uri: str | None
    facts: dict[str, Any]


def current_manifest(run: Run, manifest: str | None, say: Callable[[str], None]) -> Current:
    """Return where the metadata that counts is.

    manifest: a manifest that takes the place of the run's own. If the run's own is what it was at encode, or is gone, the metadata
    is that of the encoded fields; so it is in a joined run. Raises DataError if `manifest` does not exist.
    """
    uri = absolute(manifest) if manifest else run.config.manifest
    record = run.find_record() or {}
    encoded = record.get("manifest", {})
    facts: dict[str, Any] = {
        "encoded_with": {key: encoded.get(key) for key in ("uri", "sha256", "identity", "annotation")}
    }
    if not manifest and JOINED in record:  # every member has a manifest of its own
        return Current(None, facts)
    if not manifest and not manifest_exists(uri, run.storage):
        say(f"note: the manifest {uri} is not there; the metadata is that of the encoded fields")
        return Current(None, facts)
    try:
        described = describe_manifest(uri, encoded.get("fovs", 0), run.storage)
    except FileNotFoundError as error:
        raise DataError(f"there is no manifest at {uri}") from error
    facts["manifest"] = {key: described[key] for key in ("uri", "sha256")}
    is_same = described["sha256"] == encoded.get("sha256") and not record.get(CHANGES)
    return Current(None if is_same else uri, facts)


def current_metadata(
    run: Run, uri: str, fovs: pl.DataFrame, say: Callable[[str], None]
) -> tuple[pl.DataFrame | None, dict[str, Any]]:
    """Return fov_id and the Metadata_* of the manifest at `uri`, or None if they are those of the fields; and more facts.

    fovs: rows of the table fovs, as `read_annotation` takes them. Raises DataError as `read_annotation`.
    """
    annotation = read_annotation(uri, fovs, run.config.image, run.storage)
    facts = {
        "identity": annotation.identity,
        "annotation": annotation_hash(uri, run.storage),
        "changed": annotation.changed,
        "added": annotation.added,
        "gone": annotation.gone,
        "fovs": annotation.fovs,
    }
    say(f"{uri}: {annotation.line()}")
    return annotation.table if annotation.is_new else None, facts
