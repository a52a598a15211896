"""One pass over a manifest of any length: its rules, the identity of every field of view, and the hash of its annotation.

The identity of a field is where its pixels come from: fov_id, and per stain the image, the plane, the illumination function and
the scaling. Everything else (platemaps, compounds, control types, shards that hold the same files) is annotation or a copy, and may
change after the field has been encoded.
"""

import hashlib
import struct

import numpy as np
import polars as pl
import pyarrow as pa

from sdvae_ray.errors import DataError
from sdvae_ray.schema import (
    CROP,
    FOV_ID,
    KEYS,
    METADATA,
    PIXELS,
    SOURCE_DIGEST,
    annotation_columns,
    channel_column,
    divisor_column,
    illum_column,
    offset_column,
    uri_column,
)
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.settings.policies import unknown_value
from sdvae_ray.sources.manifest.reader import Folder, batches, opened_manifest, read_columns, row_places
from sdvae_ray.sources.manifest.rules import (
    CANONICAL,
    canonical_fov_id,
    check_columns,
    check_rows,
    check_unique,
    shared_image,
)
from sdvae_ray.sources.planes import check_schemes, holds_images
from sdvae_ray.sources.tables import FILE, ROW, first_row, place
from sdvae_ray.storage import Storage

_BATCH = 1 << 15  # rows
_DIGITS = 12  # hex digits of a source digest: polars keeps so short a text within 16 bytes, and two places of one FOV are compared
_UNIT = "\x1f"  # between values: it stands in no text


def source_digests(table: pl.DataFrame, image: ImageConfig) -> pl.Series:
    """Return one digest per row of a manifest, 12 hex digits: two rows have the same digest if their identity is the same.

    Of the stains of `image`; the scaling counts where the columns of the manifest give it, and so does the value by which the
    policy is found.
    """
    parts = [pl.col(FOV_ID), *(pl.col(name).cast(pl.String).fill_null("") for name in image.policy_columns)]
    for stain in image.stains:
        parts.append(pl.col(uri_column(stain)))
        channel, illum = channel_column(stain), illum_column(stain)
        if channel in table.columns:
            parts.append(pl.col(channel).fill_null(0).cast(pl.String))
        else:
            parts.append(pl.lit("0"))
        parts.append(pl.col(illum).cast(pl.String).fill_null("") if illum in table.columns else pl.lit(""))
    texts = table.select(pl.concat_str(parts, separator=_UNIT)).to_series().to_list()
    if image.scaling.method == "manifest":
        columns = [column(stain) for stain in image.stains for column in (offset_column, divisor_column)]
        scaling = table.select(pl.col(columns).cast(pl.Float64).fill_null(np.nan)).rows()
        texts = [
            f"{text}{_UNIT}{struct.pack(f'<{len(row)}d', *row).hex()}" for text, row in zip(texts, scaling, strict=True)
        ]
    digests = [hashlib.blake2b(text.encode(), digest_size=_DIGITS // 2).hexdigest() for text in texts]
    return pl.Series(SOURCE_DIGEST, digests, pl.String)


def identity_hash(digests: pl.Series) -> str:
    """Return the sha256, in hex digits, of the source digests of a manifest; the order of the rows does not count."""
    return hashlib.sha256("".join(digests.sort().to_list()).encode()).hexdigest()


def manifest_identity(uri: str, keys: pl.DataFrame, storage: Storage) -> str:
    """Return one hash of where the pixels of a manifest come from. keys: source_digest of its rows; none if it is many files."""
    with opened_manifest(uri, storage) as manifest:
        return manifest.index.identity if isinstance(manifest, Folder) else identity_hash(keys[SOURCE_DIGEST])


def annotation_hash(uri: str, storage: Storage) -> str:
    """Return the sha256, in hex digits, of the Metadata_* columns of a manifest beside the keys, in the order of the rows."""
    digest = hashlib.sha256()
    with opened_manifest(uri, storage) as manifest:
        if isinstance(manifest, Folder):
            return manifest.index.annotation
        names = sorted(annotation_columns(manifest.schema.names))
        digest.update(_UNIT.join(names).encode())
        for batch in batches(manifest, _BATCH, [FOV_ID, *names]):
            values = [pl.col(name).cast(pl.String).fill_null("") for name in (FOV_ID, *names)]
            rows = pl.DataFrame(batch).select(pl.concat_str(values, separator=_UNIT)).to_series()
            digest.update("\n".join(rows.to_list()).encode() + b"\n")
    return digest.hexdigest()


def scan_manifest(
    uri: str, image: ImageConfig, storage: Storage, check_uris: bool = False
) -> tuple[pl.DataFrame, list[str]]:
    """Return (fov_id and source_digest of every row of a manifest, in its order; notes), after a check by the rules of a manifest.

    Of an image with policies also `crop`, the pixels of the row's policy, and the column by which it is found.

    check_uris: True: also an image at a URI that storage has no reader for is refused, see `check_schemes`. A note tells of fields
    that share the image of a stain. Batches of rows are read: the driver holds some tens of bytes per field. Raises DataError for a
    manifest that breaks a rule, with the row.
    """
    parts, images = list[pl.DataFrame](), {stain: list[pl.Series]() for stain in image.stains}
    with opened_manifest(uri, storage) as manifest:
        seen = 0
        present = _checked_columns(manifest.schema, image, uri)
        kept = {*KEYS, *image.policy_columns}
        names = [name for name in present if name in kept or not name.startswith(METADATA)]
        for batch in batches(manifest, _BATCH, [name for name in names if name != PIXELS]):
            if check_uris:
                check_schemes(pl.DataFrame(batch), image.stains, uri, illumination_alone=holds_images(names))
            rows = pl.DataFrame(batch).with_row_index(ROW, offset=seen + 1).with_columns(pl.lit(uri).alias(FILE))
            check_rows(rows, image.stains)
            fields = rows.select(FOV_ID, *image.policy_columns, _hash=canonical_fov_id().hash())
            parts.append(fields.with_columns(source_digests(rows, image), *_crops(rows, image)))
            for stain, hashes in images.items():
                hashes.append(rows.select(_image_of(rows, stain)).to_series())
            seen += rows.height
    if not seen:
        raise DataError(f"{uri} has no rows")
    fovs = pl.concat(parts)
    twice = fovs.with_row_index(ROW, offset=1).filter(pl.col("_hash").is_duplicated())
    if twice.height:
        keys = [pl.col(FOV_ID).str.split("/").list.get(number).alias(key) for number, key in enumerate(KEYS)]
        check_unique(
            twice.with_columns(keys).select(FOV_ID, ROW, pl.lit(uri).alias(FILE), canonical_fov_id().alias(CANONICAL))
        )
    ids = fovs[FOV_ID]
    notes = [note for stain, hashes in images.items() if (note := _shared(stain, pl.concat(hashes), ids))]
    return fovs.drop("_hash"), notes


def sealed_keys(uri: str, image: ImageConfig, storage: Storage) -> pl.DataFrame | None:
    """Return fov_id, row_group and row of every row of a manifest of many files; None for a manifest of one file.

    Of an image with policies also `crop`, and the column by which it is found. Whoever wrote the index has checked the rows, and
    every file is compared with its checksum, so that the rules are not applied again. Raises DataError as `scan_manifest`.
    """
    with opened_manifest(uri, storage) as manifest:
        if not isinstance(manifest, Folder):
            return None
        _checked_columns(manifest.schema, image, uri)
        rows = pl.DataFrame(read_columns(manifest, [FOV_ID, *image.policy_columns]))
        sizes = manifest.sizes
    named = rows.with_row_index(ROW, offset=1).with_columns(pl.lit(uri).alias(FILE))
    return rows.with_columns(*_crops(named, image), **row_places(sizes))


def _crops(rows: pl.DataFrame, image: ImageConfig) -> list[pl.Series]:
    """Return the column `crop` of rows of a manifest; none without policies. Raises DataError for a value without a policy."""
    if image.policies is None:
        return []
    column = image.policies.column
    crops = {value: policy.crop for value, policy in image.every_policy.items()}
    if row := first_row(rows, ~pl.col(column).is_in(list(crops)).fill_null(False)):
        raise DataError(f"{place(row)}: {unknown_value(image.policies, row[column])}")
    return [rows[column].replace_strict(crops, return_dtype=pl.Int64).alias(CROP)]


def _checked_columns(schema: pa.Schema, image: ImageConfig, uri: str) -> list[str]:
    """Return the names of the columns. Raises DataError if one that the run needs is missing or of another type."""
    check_columns(pl.DataFrame(schema.empty_table()).schema, image.stains, uri)
    if absent := [name for name in image.policy_columns if name not in schema.names]:
        raise DataError(f"{uri} has no column {absent[0]}, by which image.policies chooses")
    return list(schema.names)


def _image_of(rows: pl.DataFrame, stain: str) -> pl.Expr:
    channel = channel_column(stain)
    plane = pl.col(channel).fill_null(0).cast(pl.String) if channel in rows.columns else pl.lit("0")
    return pl.concat_str(pl.col(uri_column(stain)), plane, separator=_UNIT).hash()


def _shared(stain: str, hashes: pl.Series, ids: pl.Series) -> str | None:
    """Return a note about fields that share their image of a stain with another; None without such fields."""
    rows = hashes.is_duplicated().arg_true()
    if not len(rows):
        return None
    first = rows[0]
    twin = rows.filter(hashes.gather(rows) == hashes[first])[1]
    return shared_image(stain, len(rows), ids[first], ids[twin])
