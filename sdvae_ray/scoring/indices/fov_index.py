"""An approximate index over the FOVs or patches of one extractor and side, built plate by plate through Ray.

A hashed sample of the vectors trains the index. A task per plate fills a copy of the empty index, and the copies are merged. The
queries that the index is tuned and measured on stay out of it until then, so that no query finds itself; they are added last. A
kind of index that does not reach the recall wanted gives way to the next kind that fits the memory. Where no kind reaches it, the
index of the highest recall is kept, and its record says so.

index/<extractor>/<side>/fovs.faiss     the index; of patches: patches.faiss, and so on
index/<extractor>/<side>/fovs.parquet   a row per FOV, ascending by id: id, fov_id, the FOV's files and its Metadata_*
index/<extractor>/<side>/fovs.json      kind, parameters, bytes per vector, settings, recall@k against exact

In an index of patches a FOV's row has `patches`, the numbers of the patches that were kept (row by row in the field): the patch
number patches[j] has the id `id` + j. Ids of FOVs lie as far apart as the largest number of patches that a FOV keeps.
"""

import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import TASK_CPUS, in_order
from sdvae_ray.distributions import sample
from sdvae_ray.engine.columns import kept_patches
from sdvae_ray.errors import DataError
from sdvae_ray.queries.saved_index import ID, LEVELS, PATCHES_PER_FOV, ROOT
from sdvae_ray.retrieval.index import approximate, faiss_index, tuning
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.field_values import of_patches
from sdvae_ray.schema import EMBEDDING, FOV_ID, METADATA, PATCHES, PLATE_KEY, embeddings_table

_QUERIES = 500  # vectors held out: half to choose settings, half to measure
_NEIGHBOURS = 10


class _Source(NamedTuple):
    """The embeddings that the tasks read. patches: the largest number of patches that a FOV keeps, or 0 for an index of FOVs."""

    run: Run
    extractor: str
    side: str
    patches: int

    def __str__(self) -> str:
        return f"{'patches' if self.patches else 'FOVs'} of {self.extractor} of {self.side}"


class _PlateVectors(NamedTuple):
    """The n vectors of one plate: one of each FOV, or one of each patch.

    fovs: the FOVs that have an embedding: ID, FOV_ID and the column of the policies.
    keys: (n,) text to hash. ids: (n,) int64. vectors: (n, G * D) float32.
    """

    fovs: pl.DataFrame
    keys: list[str]
    ids: np.ndarray
    vectors: np.ndarray


class _Sampled(NamedTuple):
    """A sample of the vectors. queries: (Q, D), those with the smallest hashes (Q,). training: (n, D), the rest of the sample."""

    queries: np.ndarray
    hashes: np.ndarray
    training: np.ndarray
    limit: int  # the least hash of `training`
    total: int  # number of all vectors, sampled or not


class _PlateShard(NamedTuple):
    """One plate's part of the index.

    shard                bytes of the index of the plate's vectors without the queries; None if no vector is left
    similarity, nearest  (Q, <= k): the plate's nearest vectors to every query, and their ids
    hashes, ids          of the queries that are vectors of this plate
    fovs                 the FOVs that have an embedding: ID, and PATCHES in an index of patches
    """

    shard: bytes | None
    similarity: np.ndarray
    nearest: np.ndarray
    hashes: np.ndarray
    ids: np.ndarray
    fovs: pl.DataFrame


class _Built(NamedTuple):
    """An index without its queries. empty: the trained index before it was filled. plates: its shards, without their bytes."""

    empty: faiss_index.Index
    index: faiss_index.Index
    choice: approximate.Choice
    tuned: tuning.Tuned
    plates: list[_PlateShard]


def build_fov_index(run: Run, fovs: pl.DataFrame, extractor: str, side: str, level: str = "fov") -> dict[str, Any]:
    """Build and write the index that score.fov_index asks for, and return its record. Ray must be connected.

    fovs: usable rows of fovs, with `files`. level: "fov" or "patch". Raises DataError for too few vectors, if no patches are kept,
    and if no kind of index fits the memory.
    """
    settings = run.config.score.fov_index
    assert settings is not None
    patches = 0
    if level == "patch":
        patches = min(run.config.extractors[extractor].keep_patches, run.config.image.patches)
        if not patches:
            raise DataError(f"{extractor} keeps no patches: extractors.{extractor}.keep_patches is 0")
    source = _Source(run, extractor, side, patches)
    rows = fovs.select(FOV_ID, "files", f"^{METADATA}.*$").sort(FOV_ID)
    rows = rows.select((pl.int_range(pl.len(), dtype=pl.Int64) * max(1, patches)).alias(ID), pl.all())
    columns = [ID, FOV_ID, "files", *run.config.image.policy_columns]
    plates = [plate.select(columns) for plate in rows.partition_by(*PLATE_KEY, maintain_order=True)]
    sampled = _sample(source, plates)
    best: _Built | None = None
    count, dimensions = sampled.total - len(sampled.queries), sampled.queries.shape[1]
    for choice in approximate.choices(count, dimensions, settings.memory_gb * 1e9, settings.recall):
        built = _build(source, plates, sampled, choice, settings.recall)
        if best is None or built.tuned.recall_chosen_on > best.tuned.recall_chosen_on:
            best = built
        if best.tuned.reached:
            break
    assert best is not None
    more = {PATCHES_PER_FOV: patches} if patches else {}
    record = tuning.record(best.index, best.choice, best.tuned, level=level, extractor=extractor, side=side, **more)
    whole = _with_queries(best, sampled)
    name = (ROOT, extractor, side, LEVELS[level])
    run.storage.write_bytes(f"{run.uri(*name)}.faiss", faiss_index.to_bytes(whole))
    indexed = pl.concat([plate.fovs for plate in best.plates])
    run.write_table(rows.join(indexed, on=ID, how="inner", maintain_order="left"), *name[:-1], f"{name[-1]}.parquet")
    run.storage.write_bytes(f"{run.uri(*name)}.json", json.dumps(record, indent=1).encode() + b"\n")
    return record


def _sample(source: _Source, plates: list[pl.DataFrame]) -> _Sampled:
    """Return a sample of the vectors by their hashes. Raises DataError for too few vectors."""
    vectors = sum(plate.height for plate in plates) * max(1, source.patches)
    size = _QUERIES + max(10_000, 64 * int(np.sqrt(max(1, vectors))))  # the largest index trains on so many
    tasks = in_order(_sample_plate, ((source, plate, size) for plate in plates))
    samples = (plate for plate in tasks if plate is not None)
    first = next(samples, None)
    if first is None:
        raise DataError(f"no FOV has an embedding of {source.extractor} of {source.side}")
    whole = functools.reduce(sample.merge, samples, first)
    held = min(_QUERIES, whole.n // 10)
    if held < 2:
        raise DataError(f"{whole.n} {source} are too few to measure an index on")
    return _Sampled(whole.values[:held], whole.hashes[:held], whole.values[held:], int(whole.hashes[held]), whole.n)


def _build(
    source: _Source, plates: list[pl.DataFrame], sampled: _Sampled, choice: approximate.Choice, recall: float
) -> _Built:
    """Return one kind of index, trained on the sample, filled by a task per plate, merged and tuned."""
    with faiss_index.threads(1):
        empty, choice = approximate.train(sampled.training[: choice.sample_rows or 1], choice)
        shared = ray.put((source, faiss_index.to_bytes(empty), sampled.limit, sampled.queries))
        tasks = in_order(_fill_plate, ((shared, plate) for plate in plates))
        filled: list[_PlateShard] = []
        index = approximate.merge(_shards(tasks, filled))
        tuned = tuning.tune(index, sampled.queries, _nearest(filled), _NEIGHBOURS, recall)
    return _Built(empty, index, choice, tuned, filled)


def _shards(tasks: Iterable[_PlateShard | None], filled: list[_PlateShard]) -> Iterator[faiss_index.Index]:
    """Yield the plates' indices, in order and one at a time; add the plates, without their bytes, to `filled`."""
    for plate in tasks:
        if plate is None:
            continue
        filled.append(plate._replace(shard=None))
        if plate.shard is not None:
            yield faiss_index.from_bytes(plate.shard)


def _nearest(plates: list[_PlateShard]) -> np.ndarray:
    """Return the ids (Q, k) of the vectors nearest to every query, over all plates."""
    similarity = np.concatenate([plate.similarity for plate in plates], axis=1)
    ids = np.concatenate([plate.nearest for plate in plates], axis=1)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :_NEIGHBOURS]
    return np.take_along_axis(ids, order, axis=1)


def _with_queries(built: _Built, sampled: _Sampled) -> faiss_index.Index:
    """Return the index with the queries inserted under their own ids; `built` is used up."""
    hashes = np.concatenate([plate.hashes for plate in built.plates]).tolist()
    ids = np.concatenate([plate.ids for plate in built.plates]).tolist()
    id_of = dict(zip(hashes, ids, strict=True))
    with faiss_index.threads(1):
        queries = approximate.add(built.empty, sampled.queries, [id_of[value] for value in sampled.hashes.tolist()])
        return approximate.merge([built.index, queries])


def _read(source: _Source, plate: pl.DataFrame) -> _PlateVectors | None:
    """Return the vectors of a plate's FOVs; None if no FOV has an embedding."""
    table = embeddings_table(source.extractor, source.side)
    fov_ids, values = source.run.read(table, PATCHES if source.patches else EMBEDDING, plate)
    if not fov_ids:
        return None
    fovs = pl.DataFrame({FOV_ID: fov_ids}).join(plate.drop("files"), on=FOV_ID, how="left", maintain_order="left")
    if not source.patches:
        return _PlateVectors(fovs, fov_ids, fovs[ID].to_numpy(), values.reshape(len(fov_ids), -1).astype(np.float32))
    ids = np.concatenate([first + np.arange(len(kept)) for first, kept in zip(fovs[ID], values, strict=True)])
    keys = [key for name, kept in zip(fov_ids, values, strict=True) for key in sample.patch_keys([name], len(kept))]
    return _PlateVectors(fovs, keys, ids, of_patches(values).reshape(len(keys), -1).astype(np.float32))


@ray.remote(num_cpus=TASK_CPUS)
def _sample_plate(source: _Source, plate: pl.DataFrame, size: int) -> sample.Sample | None:
    """Return the sample of one plate; None if no FOV has an embedding."""
    read = _read(source, plate)
    return None if read is None else sample.sample(read.keys, read.vectors, size, source.run.config.seed)


@ray.remote(num_cpus=TASK_CPUS)
def _fill_plate(shared: tuple[_Source, bytes, int, np.ndarray], plate: pl.DataFrame) -> _PlateShard | None:
    """Return one plate's shard; None if no FOV has an embedding. shared: source, empty index, limit of hashes, queries."""
    source, empty, limit, queries = shared
    read = _read(source, plate)
    if read is None:
        return None
    hashes = sample.hash_keys(read.keys, source.run.config.seed)
    indexed = hashes >= limit
    fovs = read.fovs.select(ID)
    if source.patches:
        image = source.run.config.image
        numbers = [
            kept_patches(source.run.config, source.extractor, row[FOV_ID], image.policy_of(row).patches).tolist()
            for row in read.fovs.iter_rows(named=True)
        ]
        fovs = fovs.with_columns(pl.Series(PATCHES, numbers))
    rest = (hashes[~indexed], read.ids[~indexed], fovs)
    if not indexed.any():
        return _PlateShard(None, np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64), *rest)
    vectors, ids = read.vectors[indexed], read.ids[indexed]
    with faiss_index.threads(1):
        shard = approximate.add(faiss_index.from_bytes(empty), vectors, ids)
        similarity, nearest = faiss_index.search(faiss_index.build(vectors, ids), queries, _NEIGHBOURS)
    return _PlateShard(faiss_index.to_bytes(shard), similarity, nearest, *rest)
