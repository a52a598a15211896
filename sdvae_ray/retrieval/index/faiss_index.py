"""Nearest-neighbour indices over profiles: FAISS, inner product of L2-normalised float32 vectors (cosine).

The only file that imports faiss. `build` makes the exact index; the approximate kinds are made here step by step, and
chosen, filled and measured by `retrieval.approximate`. An index lives in memory, as bytes, or as a local file read in
place; where the bytes are kept, and the list that says which well an id stands for, is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.errors import DataError, did_you_mean

Index = Any  # faiss has no types
BLOCK = 65_536  # vectors scaled at a time: their float64 copies would not fit in memory at once
VERSION: str = faiss.__version__
# what is measured again for a candidate: bits per dimension, and FAISS's name of it
CODES = {4: "SQ4", 6: "SQ6", 8: "SQ8", 16: "SQfp16"}
# kinds, and the settings of a search that each heeds; more of any finds more and takes longer
SETTINGS: dict[str, tuple[str, ...]] = {
    "flat": (),
    "ivf_sq8": ("nprobe",),
    "ivf_pq_refined": ("nprobe", "k_factor"),
    "hnsw": ("efSearch",),
}


def build(vectors: ArrayLike, ids: ArrayLike | None = None) -> Index:
    """Return an exact index of `vectors`, (N, D) finite numbers; ids: (N,) distinct int64 >= 0, row numbers if None.

    Rows are scaled to length 1; an all-zero row stays zero, and its similarity to anything is 0. Raises DataError for
    rows that are not finite and for ids that repeat or do not fit.
    """
    x = _unit(vectors)
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(x.shape[1]))
    index.add_with_ids(x, _keys(np.arange(len(x)) if ids is None else ids, len(x)))
    return index


def create(kind: str, dimensions: int, parameters: Mapping[str, int]) -> Index:
    """Return an untrained, empty index of a kind of `SETTINGS`.

    parameters of ivf_sq8: nlist; of ivf_pq_refined: nlist, subquantizers (of 4 bits; divides `dimensions`) and
    refine_bits (a key of `CODES`); of hnsw: links (neighbours of a vector on a level above the lowest). by_distance,
    of the ivf kinds: 1 ranks by distance, 0 by inner product; of exact vectors of length 1 the two agree, but a code's
    error tells in the one by the distance of query and vector, in the other by the query's length. By distance, an
    all-zero vector has a similarity of 0.5 to all. Raises DataError for another kind.
    """
    if kind not in SETTINGS:
        raise DataError(f"no kind of index {kind!r}{did_you_mean(kind, SETTINGS)}")
    name = "Flat"
    if kind == "ivf_sq8":
        name = f"IVF{parameters['nlist']},SQ8"
    elif kind == "ivf_pq_refined":
        scan, exact = f"PQ{parameters['subquantizers']}x4fs", CODES[parameters["refine_bits"]]
        name = f"IVF{parameters['nlist']},{scan},Refine({exact})"
    elif kind == "hnsw":
        name = f"HNSW{parameters['links']},Flat"
    metric = faiss.METRIC_L2 if parameters.get("by_distance") else faiss.METRIC_INNER_PRODUCT
    return faiss.IndexIDMap(faiss.index_factory(dimensions, name, metric))


def train(index: Index, sample: ArrayLike) -> None:
    """Fit the lists and the quantizers of an untrained index to (N, D) vectors; the same sample gives the same index."""
    index.train(unit_blocks(sample, index.d))


def insert(index: Index, x: NDArray[np.float32], ids: ArrayLike) -> None:
    """Put vectors of `unit_blocks` into a trained index under distinct ids that it does not have."""
    keys = _keys(ids, len(x))
    for start in range(0, len(x), BLOCK):
        index.add_with_ids(x[start : start + BLOCK], keys[start : start + BLOCK])


def ids_of(index: Index) -> NDArray[np.int64]:
    """(N,), in the order in which they were put in."""
    return faiss.vector_to_array(index.id_map).copy()


def absorb(index: Index, other: Index) -> None:
    """Move the vectors of `other`, filled from a copy of the same trained index, into `index`; `other` is used up.

    Codes are moved, not made again. A graph (hnsw) cannot be moved: see `vectors_of`. Raises DataError for an index
    of another kind or another training.
    """
    pairs = list(zip(_parts(index), _parts(other), strict=False))
    if kind_of(index) != kind_of(other) or any(_fitted(a) != _fitted(b) for a, b in pairs):
        raise DataError("shards that were not filled from the same trained index cannot be merged")
    keys = np.concatenate([ids_of(index), ids_of(other)])
    for into, source in pairs:
        into.merge_from(source, into.ntotal if hasattr(into, "nlist") else 0)  # lists number their vectors
    if isinstance(_inner(index), faiss.IndexRefine):
        _inner(index).ntotal = len(keys)
    faiss.copy_array_to_vector(keys, index.id_map)
    index.ntotal = len(keys)


def kind_of(index: Index) -> str:
    """The name in `SETTINGS` of an index that this file made."""
    kinds = {faiss.IndexIVFScalarQuantizer: "ivf_sq8", faiss.IndexRefine: "ivf_pq_refined", faiss.IndexHNSWFlat: "hnsw"}
    return kinds.get(type(_inner(index)), "flat")


def vectors_of(index: Index) -> NDArray[np.float32]:
    """(N, D), as they were put in, of a kind that keeps them: flat and hnsw."""
    x: NDArray[np.float32] = _inner(index).reconstruct_n(0, index.ntotal)
    return x


def configure(index: Index, settings: Mapping[str, int]) -> None:
    """Set what a search heeds, by the names of `SETTINGS`, whole numbers of at least 1. Kept in the index's bytes.

    Raises DataError for a setting that the index does not have.
    """
    kind = kind_of(index)
    for name, value in settings.items():
        if name not in SETTINGS[kind]:
            raise DataError(f"an index of kind {kind} has no setting {name!r}{did_you_mean(name, SETTINGS[kind])}")
        if value < 1:
            raise DataError(f"{name} must be at least 1, not {value}")
        inner = _inner(index)
        if name == "k_factor":
            inner.k_factor = float(value)
        elif name == "efSearch":
            inner.hnsw.efSearch = value
        else:
            _parts(index)[0].nprobe = min(value, nlist_of(index))  # fast scan takes time for lists that there are not


def nlist_of(index: Index) -> int:
    """Lists of an ivf index; 1 for the other kinds."""
    return int(getattr(_parts(index)[0], "nlist", 1))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """FAISS's threads, of the whole process, within the block."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def search(index: Index, queries: ArrayLike, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (similarities float32, ids int64), both (Q, min(k, N)), nearest first, level ones by id.

    queries: (Q, D) finite numbers, scaled to length 1 here. Similarities are cosines in [-1, 1] up to float32, of the
    vectors as an approximate index stores them; where it found fewer than k, the rest have id -1.
    """
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}")
    if index.ntotal == 0:
        raise DataError("the index is empty: there is nothing to search")
    x = _unit(queries)
    if x.shape[1] != index.d:
        raise DataError(f"queries have {x.shape[1]} features but the index has {index.d}")
    similarities, ids = index.search(x, min(k, index.ntotal))
    if index.metric_type == faiss.METRIC_L2:  # |a - b|^2 = 2 - 2 cos
        similarities = 1 - similarities / 2
    order = np.lexsort((ids, -similarities), axis=1)
    return np.take_along_axis(similarities, order, axis=1), np.take_along_axis(ids, order, axis=1)


def to_bytes(index: Index) -> bytes:
    """Return the whole index, ids included, in FAISS's own file format."""
    data: bytes = faiss.serialize_index(index).tobytes()
    return data


def from_bytes(data: bytes) -> Index:
    """Return the index that `to_bytes` wrote. Raises DataError if the bytes are no FAISS index."""
    try:
        return faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
    except (RuntimeError, AssertionError) as error:
        raise DataError(f"{len(data)} bytes are no readable FAISS index: cut short, or of another program") from error


def size(index: Index) -> int:
    """Bytes that `to_bytes` would give, without keeping them."""
    total = 0

    def count(data: bytes) -> int:
        nonlocal total
        total += len(data)
        return len(data)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count))  # type: ignore[attr-defined]
    return total


def open_mapped(path: str | Path) -> Index:
    """Open a local file of `to_bytes` without reading it: codes are paged in as searches touch them. For reading only.

    Fast-scan codes (ivf_pq_refined) are copied into memory, those that they are refined by are not. Raises DataError
    if there is no such file, or if it is no FAISS index.
    """
    if not Path(path).is_file():
        raise DataError(f"no index at {path}")
    # IO_FLAG_MMAP maps inverted lists only; the other flag, of FAISS 1.11, maps flat codes and graphs as well
    flags = getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    try:
        return faiss.read_index(str(path), flags)
    except (RuntimeError, AssertionError) as error:
        raise DataError(f"{path} is no readable FAISS index: cut short, or of another program") from error


def unit_blocks(vectors: ArrayLike, dimensions: int) -> NDArray[np.float32]:
    """Return (N, D) rows scaled to length 1, with little memory beside them. Raises DataError as `build`, or if D is wrong."""
    rows = np.asarray(vectors)
    if rows.ndim == 2 and rows.shape[1] != dimensions:
        raise DataError(f"vectors have {rows.shape[1]} features but the index has {dimensions}")
    if len(rows) <= BLOCK:
        return _unit(rows)
    out = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), BLOCK):
        out[start : start + BLOCK] = _unit(rows[start : start + BLOCK])
    return out


def _inner(index: Index) -> Index:
    return faiss.downcast_index(index.index)


def _parts(index: Index) -> Sequence[Index]:
    """What holds codes: the scanned index first, then what refines it."""
    inner = _inner(index)
    if not isinstance(inner, faiss.IndexRefine):
        return (inner,)
    return faiss.downcast_index(inner.base_index), faiss.downcast_index(inner.refine_index)


def _fitted(part: Index) -> tuple[object, ...]:
    """All that training set in it."""
    found: list[object] = [part.d]
    if hasattr(part, "nlist"):
        found.append(part.quantizer.reconstruct_n(0, part.quantizer.ntotal).tobytes())
    if hasattr(part, "pq"):
        found.append(faiss.vector_to_array(part.pq.centroids).tobytes())
    if hasattr(part, "sq"):
        found.append((part.sq.qtype, faiss.vector_to_array(part.sq.trained).tobytes()))
    return tuple(found)


def _keys(ids: ArrayLike, count: int) -> NDArray[np.int64]:
    keys = np.asarray(ids)
    if keys.shape != (count,) or (count and not np.issubdtype(keys.dtype, np.integer)) or (keys < 0).any():
        raise DataError(f"an index of {count} profiles needs as many whole ids of at least 0")
    if len(np.unique(keys)) != len(keys):
        raise DataError("ids of an index repeat; every profile needs its own")
    return np.ascontiguousarray(keys, dtype=np.int64)


def _unit(vectors: ArrayLike) -> NDArray[np.float32]:
    x = np.asarray(vectors, dtype=np.float64)
    if x.ndim != 2:
        raise DataError(f"an index takes a matrix of wells x features, not an array of shape {x.shape}")
    if not np.isfinite(x).all():
        raise DataError(f"{int((~np.isfinite(x).all(axis=1)).sum())} profiles have features that are not finite")
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.ascontiguousarray(x / np.where(norm == 0, 1.0, norm), dtype=np.float32)
