"""The names of tables and columns, and the change of arrays to Arrow columns that pyarrow, polars and Ray all read back.

One row is one field of view (FOV). A numeric array column is written as the canonical `arrow.fixed_shape_tensor`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

FOV_ID = "fov_id"  # source/batch/plate/well/site
SOURCE_DIGEST = "source_digest"  # text in fovs: hash of where the FOV's pixels come from; sources/manifest/scan.py
METADATA = "Metadata_"
SOURCE_COLUMN, BATCH_COLUMN = "Metadata_Source", "Metadata_Batch"
PLATE_COLUMN, WELL_COLUMN, SITE_COLUMN = "Metadata_Plate", "Metadata_Well", "Metadata_Site"
PLATE_KEY = (SOURCE_COLUMN, BATCH_COLUMN, PLATE_COLUMN)  # a plate's name alone may stand in several batches
WELL_KEY = (*PLATE_KEY, WELL_COLUMN)
KEYS = (*WELL_KEY, SITE_COLUMN)
ERROR = "error"  # text; null in fovs where the FOV is usable, "" between stages
ERROR_CLASS = (
    "error_class"  # of an error in fovs: absent, damaged or denied; null for an error of the engine; "" between stages
)
ABSENT, DAMAGED, DENIED = "absent", "damaged", "denied"
AWAY = "away"  # of an error outside a run: a run waits for storage
ROW = "row_json"  # between stages: the Metadata_* of a row as one JSON text, so that nulls stay nulls in every block
CROP = (
    "crop"  # of the rows of a manifest in the driver: pixels of the crop by the row's policy, where a run has policies
)
NODE_COLUMNS = ("load_node", "encode_node", "device")

PIXELS = "pixels"  # manifest: the bytes of one encoded file with the planes of all stains, where the manifest has them; else null
COLOUR = "colour"  # manifest: true where the file is a photograph, whose channels 0, 1 and 2 are red, green and blue

# a manifest of shards: the columns of a manifest, and where the bytes of a FOV's files lie
SHARD = "shard"  # the Parquet file that holds them: a path beside the manifest, or a URI
SHARD_ROW_GROUP, SHARD_ROW = "shard_row_group", "shard_row"  # the row group in the shard, and the row in that row group
SHARD_BYTES, SHARD_SHA256 = "shard_bytes", "shard_sha256"  # of the whole shard
SHARD_FOOTER = "shard_footer_crc32"  # CRC-32 of its Parquet footer, with the eight bytes after it
SHARD_CROP = (
    "shard_crop"  # pixels: the shard holds the central square of every plane; absent where it holds whole files
)
PACK_ERROR = "pack_error"  # why the FOV's files could not be packed; null where the shard holds them

SCALE_BITS = "scale_bits"  # manifest: the bits of image.scaling for which `calibrate` made the scaling constants

SEPARATOR = ":"  # between table and column

BITS, CODED, ENTROPY = "bits", "bits_coded", "bits_entropy"
# bits per patch and stain, columns beside the metrics of a side -> small print under "bits" in the report
RATES = {BITS: "stored", CODED: "coded", ENTROPY: "entropy"}

FOVS, LATENTS, METRICS, EMBEDDINGS = "fovs", "latents", "metrics", "embeddings"
LATENT, EMBEDDING = "latent", "embedding"  # columns of these tables
LOGVAR = "logvar"  # column of a latents table, on request
PATCHES = "patches"  # column of an embeddings table: the embeddings of the patches that are kept


def uri_column(stain: str) -> str:
    """Return the manifest's column of the stain's file: a path or a URI."""
    return f"uri_{stain}"


def channel_column(stain: str) -> str:
    """Return the manifest's column of the index of the stain's plane in its file, 0 for a file of one plane."""
    return f"channel_{stain}"


def illum_column(stain: str) -> str:
    """Return the manifest's column of the stain's illumination function: a path or a URI; null means ones."""
    return f"illum_{stain}"


def pixels_column(stain: str) -> str:
    """Return the shard's column of the bytes of the stain's file. Null if an earlier stain of the FOV has the same file, which is
    stored once."""
    return f"{PIXELS}_{stain}"


def checksum_column(stain: str) -> str:
    """Return the manifest's column of the CRC-32 of the bytes in the stain's `pixels_column`; null if there are none."""
    return f"crc32_{stain}"


def height_column(stain: str) -> str:
    """Return the manifest's column of the height in pixels that the stain's plane had before the crop of a shard."""
    return f"height_{stain}"


def width_column(stain: str) -> str:
    """Return the manifest's column of the width in pixels that the stain's plane had before the crop of a shard."""
    return f"width_{stain}"


def offset_column(stain: str) -> str:
    """Return the manifest's column of the offset of the stain's scaling."""
    return f"scale_offset_{stain}"


def divisor_column(stain: str) -> str:
    """Return the manifest's column of the divisor of the stain's scaling."""
    return f"scale_divisor_{stain}"


def sampled_column(stain: str) -> str:
    """Return the manifest's column of the number of fields of view by which `calibrate` found the stain's scaling."""
    return f"scale_fovs_{stain}"


def spread_column(stain: str) -> str:
    """Return the manifest's column of the spread over these fields of the stain's range: a robust standard deviation in counts."""
    return f"scale_spread_{stain}"


def latents_table(autoencoder: str) -> str:
    """Return the name of the table of an autoencoder's latents."""
    return f"{LATENTS}/{autoencoder}"


def metrics_table(side: str) -> str:
    """Return the name of the table of a side's metrics."""
    return f"{METRICS}/{side}"


def embeddings_table(extractor: str, side: str) -> str:
    """Return the name of the table of a side's embeddings by an extractor."""
    return f"{EMBEDDINGS}/{extractor}/{side}"


def fov_id(keys: Mapping[str, Any]) -> str:
    """Return the fov_id of a row, source/batch/plate/well/site, from its five key columns."""
    return "/".join(str(keys[key]) for key in KEYS)


def annotation_columns(names: Iterable[str]) -> list[str]:
    """Return the Metadata_* columns that are no keys, in their order."""
    return [name for name in names if name.startswith(METADATA) and name not in KEYS]


def column(table: str, name: str) -> str:
    """Return the name under which a table's column travels from the engine to the writer."""
    return f"{table}{SEPARATOR}{name}"


def tensor_array(values: np.ndarray) -> pa.ExtensionArray:
    """Return an (n, ...) numeric array as n rows of fixed_shape_tensor; n may be 0."""
    values = np.ascontiguousarray(values)
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(values.dtype), values.shape[1:])
    length = int(np.prod(values.shape[1:], dtype=np.int64))
    storage = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), length)
    return pa.ExtensionArray.from_storage(kind, storage)


def is_text(name: str) -> bool:
    """Return whether a column of a run's tables holds text, even if all its values are null."""
    return name in (FOV_ID, SOURCE_DIGEST, ERROR, ERROR_CLASS, *NODE_COLUMNS) or name.startswith(METADATA)


def table_from_columns(columns: Mapping[str, np.ndarray | Sequence[Any]]) -> pa.Table:
    """Return a table of columns: text as string, (n,) numbers unchanged, (n, ...) numbers as tensors."""
    arrays: dict[str, Any] = {}
    for name, values in columns.items():
        array = np.asarray(values)
        if array.ndim > 1:
            arrays[name] = tensor_array(array)
        elif is_text(name):
            arrays[name] = pa.array(array.tolist(), pa.string())
        else:
            arrays[name] = pa.array(array)
    return pa.table(arrays)


def column_to_numpy(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return a column of a table, or of a block of Ray, as numpy (n, ...); text as objects."""
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(combined, pa.ChunkedArray):  # zero chunks
        combined = pa.concat_arrays(combined.chunks) if combined.num_chunks else pa.array([], column.type)
    if isinstance(column.type, pa.FixedShapeTensorType):
        if len(combined) == 0:
            return np.empty((0, *column.type.shape), column.type.value_type.to_pandas_dtype())
        return combined.to_numpy_ndarray()
    return combined.to_numpy(zero_copy_only=False)
