"""The metadata of a manifest that came after a run was encoded, joined to the run's fields by fov_id."""

from dataclasses import dataclass

import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.schema import ERROR, FOV_ID, SOURCE_DIGEST, annotation_columns
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.sources.manifest.reader import opened_manifest, read_columns
from sdvae_ray.sources.manifest.scan import identity_hash, scan_manifest
from sdvae_ray.sources.tables import listed
from sdvae_ray.storage import Storage


@dataclass(frozen=True)
class Annotation:
    """The metadata of the fields of a run by another manifest than the run was encoded with.

    table     fov_id and every Metadata_* beside the keys, one row per field of the run
    identity  hash of where the pixels of the manifest come from
    changed   column -> number of fields whose value has changed, of the columns that both have
    added     columns that the fields did not have
    gone      columns that the manifest does not have
    fovs      number of fields with a value that has changed
    """

    table: pl.DataFrame
    identity: str
    changed: dict[str, int]
    added: list[str]
    gone: list[str]
    fovs: int

    @property
    def is_new(self) -> bool:
        """Return whether anything differs from what was known when the fields were encoded."""
        return bool(self.changed or self.added or self.gone)

    def line(self) -> str:
        """Return one sentence: which columns have changed, and of how many fields."""
        if not self.is_new:
            return "its metadata is that of the encoded fields"
        parts = [f"{name} of {count} FOVs" for name, count in sorted(self.changed.items())]
        said = [f"{listed(parts)} changed"] if parts else []
        said += [f"{listed(self.added)} added"] if self.added else []
        said += [f"{listed(self.gone)} gone"] if self.gone else []
        return f"the metadata has changed since the fields were encoded: {'; '.join(said)}. No field is encoded again"


def read_annotation(uri: str, fovs: pl.DataFrame, image: ImageConfig, storage: Storage) -> Annotation:
    """Return the metadata of the manifest at `uri` for the fields of a run.

    fovs: rows of the table fovs, with Metadata_*, error and, if the run has it, source_digest. Raises DataError if the manifest
    breaks a rule, lacks a field, or has other pixels for one that is encoded.
    """
    scanned, _ = scan_manifest(uri, image, storage)
    joined = fovs.join(scanned, on=FOV_ID, how="left", suffix="_now", maintain_order="left")
    now = pl.col(f"{SOURCE_DIGEST}_now" if SOURCE_DIGEST in fovs.columns else SOURCE_DIGEST)
    if (lacking := joined.filter(now.is_null())).height:
        raise DataError(
            f"{uri} lacks {lacking.height} of the {fovs.height} FOVs of the run, such as {lacking[FOV_ID][0]}; "
            "score.exclude leaves wells out of the scores"
        )
    if SOURCE_DIGEST in fovs.columns:
        moved = joined.filter(pl.col(ERROR).is_null() & (pl.col(SOURCE_DIGEST) != now))
        if moved.height:
            raise DataError(
                f"{uri} has another image, plane, illumination function or scaling than was encoded for {moved.height} FOVs, "
                f"such as {moved[FOV_ID][0]}: it is a manifest of another run"
            )
    with opened_manifest(uri, storage) as manifest:
        names = sorted(annotation_columns(manifest.schema.names))
        table = pl.DataFrame(read_columns(manifest, [FOV_ID, *names])).with_columns(pl.col(names).cast(pl.String))
    table = fovs.select(FOV_ID).join(table, on=FOV_ID, how="left", maintain_order="left")
    before = sorted(annotation_columns(fovs.columns))
    both = [name for name in names if name in before]
    differs = {name: fovs[name].cast(pl.String).fill_null("") != table[name].fill_null("") for name in both}
    any_differs = pl.DataFrame(differs).select(pl.any_horizontal(pl.all()).sum()).item() if differs else 0
    return Annotation(
        table,
        identity_hash(scanned[SOURCE_DIGEST]),
        {name: int(rows.sum()) for name, rows in differs.items() if rows.any()},
        [name for name in names if name not in before],
        [name for name in before if name not in names and fovs[name].null_count() < fovs.height],
        int(any_differs),
    )
