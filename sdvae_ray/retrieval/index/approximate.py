"""Approximate nearest-neighbour indices, for FOVs or patches by the million: chosen, filled in parallel, tuned, measured.

    choice = choose(n, dimensions, memory_bytes, recall)      # or plan(kind, n, dimensions)
    empty, choice = train(sample, choice)                     # once, on choice.sample_rows vectors or more
    shard = add(empty, vectors, ids)                          # for each plate, anywhere; to_bytes and from_bytes carry it
    whole = merge(shards)                                     # finds what one build of all vectors finds
    tuned = tune(whole, queries, exact, k, recall)            # sets nprobe, k_factor or efSearch
    record(whole, choice, tuned)                              # to keep beside the index

Ids are int64; what each stands for is kept in a table beside the index. Every kind takes inner products of unit
vectors. All but flat estimate them, so an index without its measured recall says little: measure it with queries that
are not in the index, or each finds itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.retrieval.index import faiss_index as store
from sdvae_ray.retrieval.index.faiss_index import SETTINGS, Index

FEW = 10_000  # vectors that an exact search goes through in less than a millisecond a query
LINKS = 32  # of hnsw
# Recall@10 to count on from the stored codes when every vector is looked at, by their bits a dimension. Clustered unit
# vectors (benchmarks/index.py, 384 dimensions, 100,000 to 1,000,000) gave 0.85, 0.94 to 0.96, 0.985 and 0.999; tighter
# clusters give less, since steps are of the whole range of a feature. What an index reaches is what `tune` says.
REACHES = {4: 0.80, 6: 0.93, 8: 0.97, 16: 0.995}
# Cosine of nearest neighbours above which the ivf kinds rank by distance: their distance is below 1, a query's length, there,
# and so is what an error of the codes does (on raw embeddings, at 0.99, ivf_sq8 finds 0.95 so and 0.50 by inner product)
CLOSE = 0.5
POINTS_PER_LIST = 39  # fewer training vectors per centroid than this, and FAISS warns of poor ones


@dataclass(frozen=True)
class Choice:
    """A kind of index with its parameters, before it is trained.

    kind              key of `SETTINGS`
    parameters        as `create` takes them
    bytes_per_vector  estimate of the index's bytes, ids and centroids included, over its n vectors
    note              what `train` had to change, or ""
    """

    kind: str
    dimensions: int
    parameters: dict[str, int]
    bytes_per_vector: float
    note: str = ""

    @property
    def sample_rows(self) -> int:
        """Vectors to train on: 64 a list, at least 10,000; 0 where there is nothing to train."""
        return max(10_000, 64 * self.parameters["nlist"]) if "nlist" in self.parameters else 0


class Trained(NamedTuple):
    index: Index
    choice: Choice


def choose(n: int, dimensions: int, memory_bytes: float, recall: float) -> Choice:
    """Return the kind for n vectors in `memory_bytes` that can reach `recall`: the first of `choices`.

    More recall never gives fewer bytes a vector, nor does more memory; more vectors never give more.
    """
    return choices(n, dimensions, memory_bytes, recall)[0]


def choices(n: int, dimensions: int, memory_bytes: float, recall: float) -> list[Choice]:
    """Return the kinds for n vectors that fit the memory and can reach `recall` (of 10 neighbours, in (0, 1]), in order.

    Those whose codes allow the recall (`REACHES`), fastest and smallest first: flat up to `FEW` vectors; ivf_pq_refined
    with 4, 6, 8 or 16 bits a dimension to refine by; ivf_sq8; flat. So only flat serves a recall above 0.995. What a
    kind reaches depends on the vectors: where it is measured to be too little, take the next. hnsw is not among them,
    only planned by name: it takes more than four bytes a dimension, its graph cannot be merged, and at equal recall
    many queries at once go no faster (one alone about 1.4 times as fast). Raises DataError if nothing fits, and says
    what would.
    """
    if n < 1 or dimensions < 1 or not 0 < recall <= 1:
        raise DataError(f"an index is of n > 0, dimensions > 0, 0 < recall <= 1, not {n}, {dimensions}, {recall}")
    flat = plan("flat", n, dimensions)
    refined = [(plan("ivf_pq_refined", n, dimensions, bits), reach) for bits, reach in REACHES.items()]
    ordered = [*refined, (plan("ivf_sq8", n, dimensions), REACHES[8]), (flat, 1.0)]
    able = ([flat] if n <= FEW else []) + [choice for choice, reach in ordered if reach >= recall]
    fitting = [choice for choice in able if choice.bytes_per_vector * n <= memory_bytes]
    if fitting:
        return fitting
    least = min(choice.bytes_per_vector for choice in able) * n / 1e9
    said = f"no index of {n} x {dimensions} fits {memory_bytes / 1e9:.3g} GB at recall {recall}"
    raise DataError(f"{said}: the smallest takes {least:.3g} GB")


def plan(kind: str, n: int, dimensions: int, refine_bits: int = 6) -> Choice:
    """Return a kind by name, for n vectors: nlist the root of n; 4-bit codes of about 3 dimensions each.

    A subquantizer takes 3 dimensions, or the first of 4, 2, 5, 6, 8, 1 that divides them all. refine_bits (4, 6, 8 or
    16) is for ivf_pq_refined.
    """
    if kind not in SETTINGS:
        raise DataError(f"no kind of index {kind!r}{did_you_mean(kind, SETTINGS)}")
    if refine_bits not in store.CODES:
        raise DataError(f"refine_bits must be one of {', '.join(map(str, store.CODES))}, not {refine_bits}")
    nlist = max(1, math.isqrt(n))
    lists = 8 + nlist * (4 * dimensions + 8) / n  # FAISS numbers the vectors within the lists as well
    if kind == "hnsw":
        return Choice(kind, dimensions, {"links": LINKS}, 8 + 4 * dimensions + 4 * (2 * LINKS) + 13)
    if kind == "ivf_sq8":
        return Choice(kind, dimensions, {"nlist": nlist}, 8 + lists + dimensions)
    if kind == "ivf_pq_refined":
        subquantizers = dimensions // next(width for width in (3, 4, 2, 5, 6, 8, 1) if dimensions % width == 0)
        parameters = {"nlist": nlist, "subquantizers": subquantizers, "refine_bits": refine_bits}
        # fast-scan codes come in blocks of 32 vectors: half a block is empty at the end of a list
        scanned = (subquantizers + 1) // 2 * (1 + 16 * nlist / n)
        fixed = 64 * dimensions / n  # the subquantizers' centroids
        return Choice(
            kind, dimensions, parameters, 8 + lists + scanned + math.ceil(dimensions * refine_bits / 8) + fixed
        )
    return Choice(kind, dimensions, {}, 8 + 4 * dimensions)


def train(sample: ArrayLike, choice: Choice, threads: int = 1) -> Trained:
    """Return the empty index fitted to `sample`, (N, D), and its choice; neither flat nor hnsw needs vectors in it.

    A sample of fewer than 39 vectors a list gets fewer lists, and the choice returned says so in `note`. Raises
    DataError for a sample that cannot train any (ivf_sq8 none, ivf_pq_refined fewer than 624), or that is not finite.
    The ivf kinds rank by distance where the sample's vectors lie close together (`CLOSE`), as its parameters then say.
    """
    rows, least = len(np.asarray(sample)), {"ivf_sq8": 1, "ivf_pq_refined": 16 * POINTS_PER_LIST}
    if rows < least.get(choice.kind, 0):
        raise DataError(f"{choice.kind} is trained on {least[choice.kind]} vectors or more, not {rows}: take flat")
    nlist = choice.parameters.get("nlist", 1)
    possible = max(1, rows // POINTS_PER_LIST)
    if nlist > possible and choice.kind in least:
        note = f"nlist {possible}, not {nlist}: {rows} training vectors are fewer than {POINTS_PER_LIST} a list"
        choice = replace(choice, parameters={**choice.parameters, "nlist": possible}, note=note)
    if choice.kind in least:
        by_distance = int(nearest_cosine(sample) > CLOSE)
        choice = replace(choice, parameters={**choice.parameters, "by_distance": by_distance})
    index = store.create(choice.kind, choice.dimensions, choice.parameters)
    with store.threads(threads):
        if choice.kind in least:
            store.train(index, sample)
    return Trained(index, choice)


def nearest_cosine(sample: ArrayLike, most: int = 2000) -> float:
    """Median over (N, D) vectors, the first `most`, of the cosine to the nearest other of them; 0 for fewer than two."""
    rows = np.asarray(sample)[:most]
    if len(rows) < 2:
        return 0.0
    x = store.unit_blocks(rows, rows.shape[1])
    cosines = x @ x.T
    np.fill_diagonal(cosines, -1)
    return float(np.median(cosines.max(axis=1)))


def add(empty: Index, vectors: ArrayLike, ids: ArrayLike, threads: int = 1) -> Index:
    """Return a copy of a trained, empty index with the vectors of one shard, (N, D), under distinct int64 ids >= 0.

    N may be 0. Raises DataError for vectors that are not finite or of another width, and for ids that do not fit.
    """
    if empty.ntotal:
        raise DataError(f"a shard starts from the empty index, not from one of {empty.ntotal} vectors")
    shard = store.from_bytes(store.to_bytes(empty))
    with store.threads(threads):
        store.insert(shard, store.unit_blocks(vectors, shard.d), ids)
    return shard


def merge(shards: Iterable[Index], threads: int = 1) -> Index:
    """Return one index of the vectors of all shards of the same trained index, which are used up.

    Equal in its results to one `add` of all the vectors in the same order. Codes are moved, and one shard at a time
    is needed; only the graph of hnsw is built anew, from all. Raises DataError for shards of different training, for
    ids in two of them, and if there is none.
    """
    rest = iter(shards)
    whole = next(rest, None)
    if whole is None:
        raise DataError("no shards to merge")
    with store.threads(threads):
        if store.kind_of(whole) == "hnsw":
            every = [whole, *rest]
            if any(store.kind_of(shard) != "hnsw" or shard.d != whole.d for shard in every):
                raise DataError("shards of different indices cannot be merged")
            x = np.concatenate([store.vectors_of(shard) for shard in every])
            ids = np.concatenate([store.ids_of(shard) for shard in every])
            whole.reset()
            whole = store.from_bytes(store.to_bytes(whole))  # as it was before its first vector, random numbers too
            store.insert(whole, x, ids)
            return whole
        for shard in rest:
            store.absorb(whole, shard)
    ids = store.ids_of(whole)
    if len(np.unique(ids)) != len(ids):
        raise DataError("ids of an index repeat between shards; every profile needs its own")
    return whole
