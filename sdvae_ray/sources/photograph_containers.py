"""Photographs out of one container, as they are encoded: a WebDataset shard, a Parquet file, a folder of LSUN's LMDB."""

import itertools
import json
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.storage import Storage, is_remote

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
LABELS = ("label", "class")
_ROWS = 64  # photographs of a Parquet file in memory at a time

Losses = dict[str, list[str]]  # reason -> what was left out for it


@dataclass(frozen=True)
class Photograph:
    """`uri`: its file, or <container>#<member>. `label`: its class as it is written there, None where it has none."""

    uri: str
    label: str | None
    data: bytes


def read_shard(uri: str, storage: Storage) -> Iterator[Photograph]:
    try:
        with storage.open(uri) as file, tarfile.open(fileobj=file, mode="r|") as shard:
            members = (member for member in shard if member.isfile() and not _basename(member).startswith("."))
            for _, sample in itertools.groupby(members, _sample):
                images, label = [], None
                for member in sample:  # a shard is a stream: each is read when its turn comes
                    suffix = posixpath.splitext(member.name)[1].lower()
                    if suffix in SUFFIXES:
                        images.append((member.name, _content(shard, member)))
                    elif suffix == ".cls":
                        label = _content(shard, member).decode(errors="replace").strip()
                    elif suffix == ".json" and label is None:
                        label = _json_label(_content(shard, member))
                yield from (Photograph(f"{uri}#{name}", label, data) for name, data in images)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{uri} is damaged, or no tar file: {_one_line(error)}") from error


def _basename(member: tarfile.TarInfo) -> str:
    return posixpath.basename(member.name)


def _sample(member: tarfile.TarInfo) -> str:
    """WebDataset's key: the path up to the first dot of the file's name."""
    return posixpath.join(posixpath.dirname(member.name), _basename(member).split(".")[0])


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = shard.extractfile(member)
    return b"" if file is None else file.read()


def _json_label(data: bytes) -> str | None:
    try:
        values = json.loads(data)
    except ValueError:
        return None
    found = [values[name] for name in LABELS if name in values] if isinstance(values, dict) else []
    return str(found[0]) if found and isinstance(found[0], str | int) else None


def read_parquet(
    uri: str, storage: Storage, losses: Losses, column: str | None, label_column: str | None
) -> Iterator[Photograph]:
    try:
        with storage.open(uri) as file:
            table = pq.ParquetFile(file)
            image = _image_column(table.schema_arrow, uri, column)
            label, names = _label_column(table.schema_arrow, uri, label_column)
            number = itertools.count(1)
            for batch in table.iter_batches(_ROWS, columns=[image, label] if label else [image]):
                labels = batch[label].to_pylist() if label else [None] * len(batch)
                for cell, value in zip(batch[image].to_pylist(), labels, strict=True):
                    member = f"{uri}#{next(number)}"
                    data = cell.get("bytes") if isinstance(cell, dict) else cell
                    if data is None:
                        losses.setdefault("a row without bytes", []).append(member)
                    else:
                        known = names is not None and isinstance(value, int) and 0 <= value < len(names)
                        yield Photograph(member, _text(names[value] if names and known else value), data)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{uri} is damaged, or no Parquet file: {_one_line(error)}") from error


def _image_column(schema: pa.Schema, uri: str, column: str | None) -> str:
    found = [field.name for field in schema if _holds_images(field.type)]
    if column is not None:
        if column not in found:
            raise DataError(f"{uri} has no column of images {column!r}{did_you_mean(column, found)}")
        return column
    if not found:
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise DataError(f"{uri} has no column of images: binary, or a struct of bytes and path; it has {columns}")
    if len(found) > 1 and "image" not in found:
        raise DataError(f"{uri} has several columns of images; name one by --column (allowed: {', '.join(found)})")
    return found[0] if len(found) == 1 else "image"


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _label_column(schema: pa.Schema, uri: str, column: str | None) -> tuple[str | None, list[str] | None]:
    """The column of classes, and the names of its numbers where Hugging Face's metadata has them."""
    if column is not None and column not in schema.names:
        raise DataError(f"{uri} has no column {column!r}{did_you_mean(column, schema.names)}")
    label = column or next((name for name in LABELS if name in schema.names), None)
    try:
        features: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return label, features[label].get("names")
    except (ValueError, KeyError, TypeError, AttributeError):
        return label, None


def read_lmdb(folder: str) -> Iterator[Photograph]:
    if is_remote(folder):
        raise DataError(f"{folder} is an LMDB folder in a bucket; LMDB is read from a disk only: copy it there first")
    try:
        import lmdb
    except ImportError as error:
        raise DataError(f"{folder} is an LMDB folder; reading it needs the package lmdb") from error
    label = posixpath.basename(folder).removesuffix("_lmdb")
    try:
        with (
            lmdb.open(folder, readonly=True, lock=False, readahead=False, max_readers=1) as environment,
            environment.begin() as transaction,
        ):
            for key, data in transaction.cursor():
                yield Photograph(f"{folder}#{bytes(key).decode(errors='backslashreplace')}", label, bytes(data))
    except lmdb.Error as error:
        raise DataError(f"{folder} is damaged, or no LMDB folder: {_one_line(error)}") from error


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else None if value is None else str(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
