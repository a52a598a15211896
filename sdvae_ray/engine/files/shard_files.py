"""The bytes of one shard: a Parquet file that runs read, or a WebDataset tar for other tools."""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.engine.files.pack import PackedFov
from sdvae_ray.schema import PACK_ERROR, pixels_column
from sdvae_ray.sources.manifest.row import stains_by_file

_SUFFIXES = {"tiff": "tif", "jpeg": "jpg"}

Groups = Iterable[tuple[pa.Table, Sequence[PackedFov]]]  # rows of the manifest, and the files of the FOV of every row


def parquet_shard(groups: Groups, stains: Sequence[str]) -> bytes:
    """Return a Parquet file with one row group per item of `groups`. The pixel columns are last, and not compressed."""
    buffer = io.BytesIO()
    writer: pq.ParquetWriter | None = None
    pixels = [pixels_column(stain) for stain in stains]
    try:
        for rows, fovs in groups:
            table = rows.append_column(PACK_ERROR, pa.array([fov.error for fov in fovs], pa.string()))
            for stain, name in zip(stains, pixels, strict=True):
                table = table.append_column(name, pa.array([fov.files.get(stain) for fov in fovs], pa.large_binary()))
            if writer is None:
                writer = pq.ParquetWriter(
                    buffer,
                    table.schema,
                    compression={name: "none" if name in pixels else "zstd" for name in table.column_names},
                    use_dictionary=[
                        name for name in rows.column_names if pa.types.is_string(table.schema.field(name).type)
                    ],
                    write_statistics=False,  # no reader asks for statistics, and every reader fetches the footer
                )
            writer.write_table(table, row_group_size=len(table))
    finally:
        if writer is not None:
            writer.close()
    return buffer.getvalue()


def tar_shard(groups: Groups, stains: Sequence[str], first: int) -> bytes:
    """Return a WebDataset tar: `<n>.<stain>.tif` for every file of a FOV, then `<n>.json` with its row of the manifest.

    n counts the FOVs of the manifest; the first FOV of this shard has the number `first`. In the JSON, `files` gives the member of
    every stain, and `pack_error` the reason why a FOV has no files.
    """
    buffer = io.BytesIO()
    number = first
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for rows, fovs in groups:
            for row, fov in zip(rows.to_pylist(), fovs, strict=True):
                key = f"{number:09d}"
                members: dict[str, str | None] = dict.fromkeys(stains)
                for uri, sharing in stains_by_file(row, stains).items():
                    if (data := fov.files.get(sharing[0])) is not None:
                        member = f"{key}.{sharing[0]}.{_suffix(uri)}"
                        _add(tar, member, data)
                        members |= dict.fromkeys(sharing, member)
                facts: dict[str, Any] = {**row, "files": members, PACK_ERROR: fov.error}
                _add(tar, f"{key}.json", json.dumps(facts).encode())
                number += 1
    return buffer.getvalue()


def _suffix(uri: str) -> str:
    suffix = PurePosixPath(uri).suffix.lstrip(".").lower()
    return _SUFFIXES.get(suffix, suffix) or "tif"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
