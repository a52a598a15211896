"""An approximate index over the FOVs of one extractor and side, built plate by plate through Ray and measured before it is whole.

A hashed sample trains it; every plate's task fills a copy of the empty index; the copies are merged. The queries that it is
tuned and measured on are FOVs left out until then, so that none finds itself; they are added last.

index/<extractor>/<side>/fovs.faiss     the index
index/<extractor>/<side>/fovs.parquet   id, fov_id, its keys, and the files that hold it
index/<extractor>/<side>/fovs.json      kind, parameters, bytes per vector, settings, recall@k against exact
"""

import functools
import json
from typing import Any

import numpy as np
import polars as pl
import ray

from sdvae_ray.config import RunConfig
from sdvae_ray.distributions import sample
from sdvae_ray.errors import DataError
from sdvae_ray.retrieval import approximate, tuning
from sdvae_ray.retrieval import index as faiss_index
from sdvae_ray.schema import FOV_ID, KEYS, PLATE, embeddings_table
from sdvae_ray.stages.columns import EMBEDDING
from sdvae_ray.stages.search import FIELD_INDEX
from sdvae_ray.storage import Storage, join
from sdvae_ray.tables import read_column, write_table

_TASK_CPUS = 0.5
_QUERIES = 500  # held out, half to choose settings, half to measure
_NEIGHBOURS = 10


def build_field_index(
    config: RunConfig, fovs: pl.DataFrame, extractor: str, side: str, storage: Storage
) -> dict[str, Any]:
    """The record that stands beside the index. `fovs`: usable rows with files. Raises DataError for too few of them."""
    settings = config.score.fov_index
    assert settings is not None
    named = [name for name in (config.score.perturbation,) if name is not None]
    rows = fovs.select(FOV_ID, "files", *dict.fromkeys([*KEYS, *named])).sort(FOV_ID).with_row_index("id")
    plates = [plate.select("id", FOV_ID, "files") for plate in rows.partition_by(*PLATE, maintain_order=True)]
    place = ray.put((config, extractor, side))
    every = [_hashed.options(num_cpus=_TASK_CPUS).remote(place, plate, _rows_at_most(rows.height)) for plate in plates]
    parts = [part for part in ray.get(every) if part is not None]
    if not parts:
        raise DataError(f"no FOV has an embedding of {extractor} of {side}")
    whole = functools.reduce(sample.merge, parts)
    queries = min(_QUERIES, whole.n // 10)
    if queries < 2:
        raise DataError(f"{whole.n} FOVs of {extractor} of {side} are too few to measure an index on")
    held, training = whole.values[:queries], whole.values[queries:]
    limit = int(whole.hashes[queries])  # what hashes below it is a query
    n = whole.n - queries
    choice = approximate.choose(n, held.shape[1], settings.memory_gb * 1e9, settings.recall)
    empty, choice = approximate.train(training[: choice.sample_rows or 1], choice)
    parcel = ray.put((faiss_index.to_bytes(empty), limit, held))
    tasks = [_filled.options(num_cpus=_TASK_CPUS).remote(place, plate, parcel) for plate in plates]
    filled = [found for found in ray.get(tasks) if found is not None]
    index = approximate.merge(faiss_index.from_bytes(data) for data, _, _ in filled)
    truth = _nearest([(similarity, ids) for _, similarity, ids in filled])
    tuned = tuning.tune(index, held, truth, _NEIGHBOURS, settings.recall)
    record = tuning.record(index, choice, tuned, level="fov", extractor=extractor, side=side)
    hashes = sample.hash_keys(rows[FOV_ID].to_list(), config.seed)
    by_hash = dict(zip(hashes.tolist(), rows["id"].to_list(), strict=True))
    ids = [by_hash[each] for each in whole.hashes[:queries].tolist()]
    faiss_index.insert(index, faiss_index.unit_blocks(held, index.d), ids)
    stem = join(config.output, "index", extractor, side, FIELD_INDEX)
    storage.write_bytes(f"{stem}.faiss", faiss_index.to_bytes(index))
    write_table(f"{stem}.parquet", rows.to_arrow(), storage)
    storage.write_bytes(f"{stem}.json", json.dumps(record, indent=1).encode() + b"\n")
    return record


def _rows_at_most(fovs: int) -> int:
    """Of the sample: queries and as many as the largest index trains on."""
    return _QUERIES + max(10_000, 64 * int(np.sqrt(max(1, fovs))))


def _nearest(parts: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(Q, k) ids of the nearest over all parts."""
    similarity, ids = (np.concatenate([part[at] for part in parts], axis=1) for at in (0, 1))
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :_NEIGHBOURS]
    return np.take_along_axis(ids, order, axis=1)


def _read(place: tuple[RunConfig, str, str], plate: pl.DataFrame) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(fov_ids, (n, G * D) float32, ids) of a plate's FOVs that have an embedding."""
    config, extractor, side = place
    table = embeddings_table(extractor, side)
    names, values = read_column(config.output, table, EMBEDDING, plate, Storage(config.storage))
    number = dict(plate.select(FOV_ID, "id").iter_rows())
    flat = values.reshape(len(names), -1).astype(np.float32) if names else np.empty((0, 0), np.float32)
    return names, flat, np.array([number[name] for name in names], np.int64)


@ray.remote
def _hashed(place: tuple[RunConfig, str, str], plate: pl.DataFrame, size: int) -> sample.Sample | None:
    names, vectors, _ = _read(place, plate)
    return sample.sample(names, vectors, size, place[0].seed) if names else None


@ray.remote
def _filled(
    place: tuple[RunConfig, str, str], plate: pl.DataFrame, parcel: tuple[bytes, int, np.ndarray]
) -> tuple[bytes, np.ndarray, np.ndarray] | None:
    """(the filled copy, similarities and ids of the nearest of its vectors to each query); None where the plate has none to add."""
    data, limit, queries = parcel
    names, vectors, ids = _read(place, plate)
    kept = sample.hash_keys(names, place[0].seed) >= limit if names else np.zeros(0, bool)
    if not kept.any():
        return None
    vectors, ids = vectors[kept], ids[kept]
    exact = faiss_index.build(vectors, ids)
    similarity, nearest = faiss_index.search(exact, queries, min(_NEIGHBOURS, len(ids)))
    filled = approximate.add(faiss_index.from_bytes(data), vectors, ids)
    return faiss_index.to_bytes(filled), similarity, nearest
