"""An approximate index over the FOVs or patches of one extractor and side, built plate by plate through Ray and measured before it
is whole.

A hashed sample trains it; every plate's task fills a copy of the empty index; the copies are merged. The queries that it is
tuned and measured on are left out until then, so that none finds itself; they are added last. A kind that does not reach the
recall wanted gives way to the next that fits the memory; where none does, the one that came nearest is kept, and says so.

index/<extractor>/<side>/fovs.faiss     the index; of patches: patches.faiss, and so on
index/<extractor>/<side>/fovs.parquet   id, fov_id, the files that hold it and its Metadata_*, a row per FOV, ascending by id
index/<extractor>/<side>/fovs.json      kind, parameters, bytes per vector, settings, recall@k against exact

In an index of patches the row of a FOV has `patches`, the numbers (row by row in the field) of those that were kept: `id` + j is
the id of the patch number patches[j].
"""

import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import ray

from sdvae_ray.cluster.ordered_tasks import in_order
from sdvae_ray.distributions import sample
from sdvae_ray.engine.columns import kept_patches
from sdvae_ray.errors import DataError
from sdvae_ray.queries.saved_index import ID, LEVELS, PATCHES_PER_FOV, ROOT
from sdvae_ray.retrieval.index import approximate, faiss_index, tuning
from sdvae_ray.run.run import Run
from sdvae_ray.run.tables import write_table
from sdvae_ray.schema import EMBEDDING, FOV_ID, METADATA, PATCHES, PLATE_KEY, embeddings_table

_TASK_CPUS = 0.5
_QUERIES = 500  # held out, half to choose settings, half to measure
_NEIGHBOURS = 10


class _Place(NamedTuple):
    """What a task reads. patches: per FOV, 0 for an index of FOVs."""

    run: Run
    extractor: str
    side: str
    patches: int


class _Read(NamedTuple):
    """Of one plate. keys (n,), ids (n,) int64, vectors (n, G * D) float32; rows (f,) int64, the FOVs' first ids."""

    keys: list[str]
    ids: np.ndarray
    vectors: np.ndarray
    names: list[str]
    rows: np.ndarray


class _Filled(NamedTuple):
    """Of one plate.

    data                 bytes of the index of what is not held out; None where nothing is left
    similarity, nearest  (Q, <= k), of what is in `data` to each query
    held, held_ids       hashes and ids of the queries that are of this plate
    rows, patches        (f,) and (f, k), as the table has them
    """

    data: bytes | None
    similarity: np.ndarray
    nearest: np.ndarray
    held: np.ndarray
    held_ids: np.ndarray
    rows: np.ndarray
    patches: np.ndarray


class _Sampled(NamedTuple):
    """held (Q, D): the queries, which hash below `limit`. training (n, D): the rest of the sample."""

    held: np.ndarray
    training: np.ndarray
    limit: int


class _Built(NamedTuple):
    """An index without its queries, and what its tasks say."""

    index: faiss_index.Index
    choice: approximate.Choice
    tuned: tuning.Tuned
    filled: list[_Filled]


def build_field_index(run: Run, fovs: pl.DataFrame, extractor: str, side: str, level: str = "fov") -> dict[str, Any]:
    """The record that stands beside the index. `fovs`: usable rows with files; level: fov or patch.

    Raises DataError for too few of them, and where no patches are kept.
    """
    settings = run.config.score.fov_index
    assert settings is not None
    patches = 0
    if level == "patch":
        patches = min(run.config.extractors[extractor].keep_patches, run.config.image.patches)
        if not patches:
            raise DataError(f"{extractor} keeps no patches: extractors.{extractor}.keep_patches is 0")
    each = max(1, patches)
    rows = fovs.select(FOV_ID, "files", f"^{METADATA}.*$").sort(FOV_ID)
    rows = rows.select((pl.int_range(pl.len(), dtype=pl.Int64) * each).alias(ID), pl.all())
    plates = [plate.select(ID, FOV_ID, "files") for plate in rows.partition_by(*PLATE_KEY, maintain_order=True)]
    place = ray.put(_Place(run, extractor, side, patches))
    most = _rows_at_most(rows.height * each)
    hashed = in_order(_hashed.options(num_cpus=_TASK_CPUS), ((place, plate, most) for plate in plates))
    parts = (part for part in hashed if part is not None)
    first = next(parts, None)
    if first is None:
        raise DataError(f"no FOV has an embedding of {extractor} of {side}")
    whole = functools.reduce(sample.merge, parts, first)
    what = "patches" if patches else "FOVs"
    queries = min(_QUERIES, whole.n // 10)
    if queries < 2:
        raise DataError(f"{whole.n} {what} of {extractor} of {side} are too few to measure an index on")
    sampled = _Sampled(whole.values[:queries], whole.values[queries:], int(whole.hashes[queries]))
    memory = settings.memory_gb * 1e9
    best: _Built | None = None
    for choice in approximate.choices(whole.n - queries, whole.values.shape[1], memory, settings.recall):
        built = _build(choice, sampled, place, plates, settings.recall)
        if best is None or built.tuned.recall_chosen_on > best.tuned.recall_chosen_on:
            best = built
        if best.tuned.reached:
            break
    assert best is not None
    more = {PATCHES_PER_FOV: patches} if patches else {}
    record = tuning.record(best.index, best.choice, best.tuned, level=level, extractor=extractor, side=side, **more)
    hashes, ids = (np.concatenate([getattr(part, name) for part in best.filled]) for name in ("held", "held_ids"))
    by_hash = dict(zip(hashes.tolist(), ids.tolist(), strict=True))
    held_ids = [by_hash[each] for each in whole.hashes[:queries].tolist()]
    faiss_index.insert(best.index, faiss_index.unit_blocks(sampled.held, best.index.d), held_ids)
    stem = run.uri(ROOT, extractor, side, LEVELS[level])
    run.storage.write_bytes(f"{stem}.faiss", faiss_index.to_bytes(best.index))
    write_table(f"{stem}.parquet", _names(rows, best.filled, bool(patches)), run.storage)
    run.storage.write_bytes(f"{stem}.json", json.dumps(record, indent=1).encode() + b"\n")
    return record


def _build(
    choice: approximate.Choice, sampled: _Sampled, place: ray.ObjectRef, plates: list[pl.DataFrame], recall: float
) -> _Built:
    """One kind, trained on the sample, filled by a task per plate, merged and tuned."""
    empty, choice = approximate.train(sampled.training[: choice.sample_rows or 1], choice)
    parcel = ray.put((faiss_index.to_bytes(empty), sampled.limit, sampled.held))
    parts = in_order(_filled.options(num_cpus=_TASK_CPUS), ((place, plate, parcel) for plate in plates))
    filled: list[_Filled] = []
    index = approximate.merge(_indices(parts, filled))
    truth = _nearest([(part.similarity, part.nearest) for part in filled])
    return _Built(index, choice, tuning.tune(index, sampled.held, truth, _NEIGHBOURS, recall), filled)


def _indices(parts: Iterable[_Filled | None], filled: list[_Filled]) -> Iterator[faiss_index.Index]:
    """The plates' indices, in order and one at a time; what else their tasks say is added to `filled`."""
    for part in parts:
        if part is None:
            continue
        filled.append(part._replace(data=None))
        if part.data is not None:
            yield faiss_index.from_bytes(part.data)


def _names(rows: pl.DataFrame, filled: list[_Filled], with_patches: bool) -> pa.Table:
    """The rows that are in the index."""
    found = pl.DataFrame({ID: np.concatenate([part.rows for part in filled])})
    if with_patches:
        found = found.with_columns(pl.Series(PATCHES, np.concatenate([part.patches for part in filled]).tolist()))
    return rows.join(found, on=ID, how="inner", maintain_order="left").to_arrow()


def _rows_at_most(vectors: int) -> int:
    """Of the sample: queries and as many as the largest index trains on."""
    return _QUERIES + max(10_000, 64 * int(np.sqrt(max(1, vectors))))


def _nearest(parts: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(Q, k) ids of the nearest over all parts."""
    similarity, ids = (np.concatenate([part[at] for part in parts], axis=1) for at in (0, 1))
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :_NEIGHBOURS]
    return np.take_along_axis(ids, order, axis=1)


def _read(place: _Place, plate: pl.DataFrame) -> _Read | None:
    """The embeddings of a plate's FOVs that have one; None where none has."""
    table, column = embeddings_table(place.extractor, place.side), PATCHES if place.patches else EMBEDDING
    names, values = place.run.read(table, column, plate)
    if not names:
        return None
    row = dict(plate.select(FOV_ID, ID).iter_rows())
    rows = np.array([row[name] for name in names], np.int64)
    each = max(1, place.patches)
    keys = sample.patch_keys(names, each) if place.patches else names
    vectors = values.reshape(len(keys), -1).astype(np.float32)
    return _Read(keys, (rows[:, None] + np.arange(each)).reshape(-1), vectors, names, rows)


@ray.remote
def _hashed(place: _Place, plate: pl.DataFrame, size: int) -> sample.Sample | None:
    read = _read(place, plate)
    return None if read is None else sample.sample(read.keys, read.vectors, size, place.run.config.seed)


@ray.remote
def _filled(place: _Place, plate: pl.DataFrame, parcel: tuple[bytes, int, np.ndarray]) -> _Filled | None:
    """parcel: the empty index, the least hash that is not held out, the queries. None where the plate has no embedding."""
    read = _read(place, plate)
    if read is None:
        return None
    data, limit, queries = parcel
    hashes = sample.hash_keys(read.keys, place.run.config.seed)
    kept = hashes >= limit
    patches = [kept_patches(place.run.config, place.extractor, name) for name in read.names] if place.patches else []
    rest = (hashes[~kept], read.ids[~kept], read.rows, np.array(patches, np.int32))
    if not kept.any():
        none = np.empty((len(queries), 0), np.float32)
        return _Filled(None, none, none.astype(np.int64), *rest)
    vectors, ids = read.vectors[kept], read.ids[kept]
    exact = approximate.add(faiss_index.create("flat", vectors.shape[1], {}), vectors, ids)
    similarity, nearest = faiss_index.search(exact, queries, min(_NEIGHBOURS, len(ids)))
    filled = approximate.add(faiss_index.from_bytes(data), vectors, ids)
    return _Filled(faiss_index.to_bytes(filled), similarity, nearest, *rest)
