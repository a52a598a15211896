"""Approximate nearest-neighbour indices, for FOVs or patches by the million: chosen, trained, filled in parallel, merged.

    choice, *others = choices(n, dimensions, memory_bytes, recall)     # or plan(kind, n, dimensions)
    empty, choice = train(sample, choice)                              # once, on choice.sample_rows vectors or more
    shard = add(empty, vectors, ids)                                   # per plate, on any machine; to_bytes and from_bytes carry it
    whole = merge(shards)                                              # finds what one build of all vectors finds

Ids are int64; a table that the caller keeps says what an id stands for. Every kind takes inner products of unit vectors. All
kinds except flat estimate them, so an index is worth little without its measured recall: see `retrieval.index.tuning`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.index import faiss_index
from sdvae_ray.retrieval.index.faiss_index import Index

FEW = 10_000  # vectors that an exact search goes through in less than a millisecond a query
# bits per dimension of the stored codes -> recall@10 to count on when every vector is looked at. Clustered unit vectors
# (benchmarks/index.py, 384 dimensions, 100,000 to 1,000,000) gave 0.85, 0.94 to 0.96, 0.985 and 0.999. Tighter clusters give less,
# since the steps of a code divide the whole range of a feature. `tune` measures the recall of an index.
REACHES = {4: 0.80, 6: 0.93, 8: 0.97, 16: 0.995}
# Cosine of nearest neighbours above which the ivf kinds rank by distance: it is then below 1, the length of a query, and so is the
# effect of the codes' error (on raw embeddings, at a cosine of 0.99, ivf_sq8 finds 0.95 by distance and 0.50 by inner product)
CLOSE = 0.5
POINTS_PER_LIST = 39  # FAISS warns of poor centroids where there are fewer training vectors per centroid
LEAST_SAMPLE = {"ivf_sq8": 1, "ivf_pq_refined": 16 * POINTS_PER_LIST}  # training vectors; 4-bit codes have 16 centroids


@dataclass(frozen=True)
class Choice:
    """A kind of index with its parameters, before it is trained.

    kind              key of `faiss_index.SETTINGS`
    parameters        as `faiss_index.create` takes them
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
        """Return how many vectors to train on: 64 for every list, at least 10,000; 0 for a kind without training."""
        return max(10_000, 64 * self.parameters["nlist"]) if "nlist" in self.parameters else 0


def choices(n: int, dimensions: int, memory_bytes: float, recall: float) -> list[Choice]:
    """Return the kinds of index for n vectors that fit into `memory_bytes` and can reach `recall`, the preferred one first.

    recall: the wanted share, in (0, 1], of the 10 nearest neighbours. The order is by speed and size: flat up to `FEW` vectors;
    ivf_pq_refined with 4, 6, 8 or 16 bits a dimension to refine by; ivf_sq8; flat. A kind is left out if its codes do not allow
    the recall (`REACHES`), so that flat alone serves a recall above 0.995. The recall that a kind reaches depends on the
    vectors: if the measured recall is too low, take the next kind.
    The first kind takes no fewer bytes a vector for more recall or more memory, and no more for more vectors. Raises DataError
    if no kind fits; the error names the memory that would do.
    """
    flat = plan("flat", n, dimensions)
    refined = [(plan("ivf_pq_refined", n, dimensions, bits), reach) for bits, reach in REACHES.items()]
    ordered = [*refined, (plan("ivf_sq8", n, dimensions), REACHES[8]), (flat, 1.0)]
    able = ([flat] if n <= FEW else []) + [choice for choice, reach in ordered if reach >= recall]
    fitting = [choice for choice in able if choice.bytes_per_vector * n <= memory_bytes]
    if not fitting:
        least = min(choice.bytes_per_vector for choice in able) * n / 1e9
        raise DataError(
            f"no index of {n} x {dimensions} fits {memory_bytes / 1e9:.3g} GB at recall {recall}: the smallest takes {least:.3g} GB"
        )
    return fitting


def plan(kind: str, n: int, dimensions: int, refine_bits: int = 6) -> Choice:
    """Return the choice of one kind, by its name, for n vectors: sqrt(n) lists; 4-bit codes of about 3 dimensions each.

    A subquantizer takes 3 dimensions, or the first of 4, 2, 5, 6, 8, 1 that divides `dimensions`. refine_bits (4, 6, 8 or 16)
    is for ivf_pq_refined. Raises ValueError for an unknown kind and for other bits.
    """
    if kind not in faiss_index.SETTINGS or refine_bits not in faiss_index.CODES:
        raise ValueError(f"no kind of index {kind!r} with {refine_bits} bits to refine by")
    if kind == "flat":
        return Choice(kind, dimensions, {}, 8 + 4 * dimensions)
    nlist = max(1, math.isqrt(n))
    lists = 8 + nlist * (4 * dimensions + 8) / n  # FAISS numbers the vectors within the lists as well
    if kind == "ivf_sq8":
        return Choice(kind, dimensions, {"nlist": nlist}, 8 + lists + dimensions)
    subquantizers = dimensions // next(width for width in (3, 4, 2, 5, 6, 8, 1) if dimensions % width == 0)
    # fast-scan codes come in blocks of 32 vectors: half a block is empty at the end of a list
    scanned = (subquantizers + 1) // 2 * (1 + 16 * nlist / n)
    centroids = 64 * dimensions / n
    size = 8 + lists + scanned + math.ceil(dimensions * refine_bits / 8) + centroids
    parameters = {"nlist": nlist, "subquantizers": subquantizers, "refine_bits": refine_bits}
    return Choice(kind, dimensions, parameters, size)


def train(sample: ArrayLike, choice: Choice) -> tuple[Index, Choice]:
    """Return an empty index trained on `sample`, (N, D), and its choice. An index of kind flat needs no training.

    A sample of fewer than 39 vectors a list gets fewer lists; the `note` of the returned choice says so. If the vectors of the
    sample lie close together (`CLOSE`), the ivf kinds rank by distance, and the parameters say so. Raises DataError for a
    sample that is too small for any list (`LEAST_SAMPLE`), or not finite.
    """
    if choice.kind not in LEAST_SAMPLE:
        return faiss_index.create(choice.kind, choice.dimensions, choice.parameters), choice
    rows, least, nlist = len(np.asarray(sample)), LEAST_SAMPLE[choice.kind], choice.parameters["nlist"]
    if rows < least:
        raise DataError(f"{choice.kind} is trained on {least} vectors or more, not {rows}: take flat")
    parameters = {**choice.parameters, "by_distance": int(nearest_cosine(sample) > CLOSE)}
    note, possible = "", max(1, rows // POINTS_PER_LIST)
    if nlist > possible:
        note = f"nlist {possible}, not {nlist}: {rows} training vectors are fewer than {POINTS_PER_LIST} a list"
        parameters["nlist"] = possible
    index = faiss_index.create(choice.kind, choice.dimensions, parameters)
    faiss_index.train(index, sample)
    return index, replace(choice, parameters=parameters, note=note)


def nearest_cosine(sample: ArrayLike, most: int = 2000) -> float:
    """Return the median cosine, in [-1, 1], of a vector and its nearest neighbour, among the first `most` of (N, D) vectors. 0 for
    fewer than two vectors."""
    x = faiss_index.unit_float32(np.asarray(sample)[:most])
    if len(x) < 2:
        return 0.0
    cosines = x @ x.T
    np.fill_diagonal(cosines, -1)
    return float(np.median(cosines.max(axis=1)))


def add(empty: Index, vectors: ArrayLike, ids: ArrayLike) -> Index:
    """Return a copy of a trained, empty index with the vectors of one shard, (N, D), under their ids; N may be 0.

    ids: (N,) int64 >= 0. Ids must be distinct, but only `merge` checks it. Raises DataError for vectors that are not finite,
    ValueError for another number of ids than vectors and for an index that is not empty.
    """
    if empty.ntotal:
        raise ValueError(f"a shard starts from the empty index, not from one of {empty.ntotal} vectors")
    shard = faiss_index.from_bytes(faiss_index.to_bytes(empty))
    faiss_index.insert(shard, vectors, ids)
    return shard


def merge(shards: Iterable[Index]) -> Index:
    """Return one index of the vectors of all shards. The shards must be filled from one trained index; they are used up.

    A search finds the same as in an index that one `add` fills with all the vectors in this order. Codes are moved, and one
    shard at a time is in memory. Raises ValueError for shards of different training, for an id that repeats in or between
    shards, and for no shards.
    """
    rest = iter(shards)
    whole = next(rest, None)
    if whole is None:
        raise ValueError("no shards to merge")
    for shard in rest:
        faiss_index.absorb(whole, shard)
    ids = faiss_index.ids_of(whole)
    if len(np.unique(ids)) != len(ids):
        raise ValueError("ids of an index repeat between shards; every profile needs its own")
    return whole
