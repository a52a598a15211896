"""The sizes of the images of a manifest, asked of storage for a few fields of every source: bytes and requests per field."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sdvae_ray.planning.census import SOURCE, Census, Source
from sdvae_ray.schema import SHARD, SHARD_ROW_GROUP
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.sources.manifest.row import Row, function_of, stains_by_file
from sdvae_ray.sources.shards import ShardReader, shard_uri
from sdvae_ray.storage import Storage

_REQUESTS = 16  # in flight


def with_sizes(census: Census, manifest: str, image: ImageConfig, storage: Storage) -> Census:
    """Return the census with the bytes of its images, and for shards with their requests, from the rows of its sample.

    The sample's mean stands for its source; it is exact where all files of a source have one size, or the sample is the whole
    source. Raises FileNotFoundError, StorageError or ShardError if a file of the sample cannot be asked.
    """
    rows = census.sample.to_dicts()
    by_source = {source.name: [row for row in rows if row[SOURCE] == source.name] for source in census.sources}
    if SHARD in census.sample.columns:
        return census.replaced(lambda source: _of_shards(source, by_source[source.name], manifest, image, storage))
    files = {uri for row in rows for uri in (*stains_by_file(row, image.stains), *_functions(row, image))}
    ordered = sorted(files)
    with ThreadPoolExecutor(_REQUESTS) as threads:
        sizes = dict(zip(ordered, threads.map(storage.size, ordered), strict=True))
    return census.replaced(lambda source: _of_files(source, by_source[source.name], image, sizes))


def _functions(row: Row, image: ImageConfig) -> list[str]:
    return [uri for stain in image.stains if (uri := function_of(row, stain)) is not None]


def _of_files(
    source: Source, rows: list[dict[str, Any]], image: ImageConfig, sizes: Mapping[str, int]
) -> dict[str, float]:
    images = sum(sizes[uri] for row in rows for uri in stains_by_file(row, image.stains))
    functions = {uri for row in rows for uri in _functions(row, image)}
    of_functions = source.functions * sum(sizes[uri] for uri in functions) / len(functions) if functions else 0.0
    return {"bytes_in": source.fovs * images / len(rows) if source.files else 0.0, "function_bytes": of_functions}


def _of_shards(
    source: Source, rows: list[dict[str, Any]], manifest: str, image: ImageConfig, storage: Storage
) -> dict[str, float]:
    reader = ShardReader(storage, image.stains)
    groups = {(row[SHARD], row[SHARD_ROW_GROUP]): {**row, SHARD: shard_uri(row[SHARD], manifest)} for row in rows}
    footers = {shard: reader.footer_requests(row) for (shard, _), row in groups.items()}
    ranges = [reader.requests(row) for row in groups.values()]
    return {
        "group_reads": source.row_groups * sum(map(len, ranges)) / len(groups),
        "bytes_in": source.row_groups * sum(map(sum, ranges)) / len(groups),
        "footer_reads": source.shards * sum(map(len, footers.values())) / len(footers),
        "footer_bytes": source.shards * sum(map(sum, footers.values())) / len(footers),
    }
