"""Nearest-neighbour indices over profiles: FAISS, inner product of L2-normalised float32 vectors (cosine).

The only file that imports faiss. `build` makes the exact index. The approximate kinds are made here step by step, and chosen,
filled and measured by `retrieval.index.approximate` and `tuning`. An index lives in memory, as bytes, or as a local file that is
read in place. The caller keeps the bytes, and the table that says which well an id stands for.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.arrays import finite_rows, unit_rows

Index = Any  # faiss has no types
BLOCK = 65_536  # vectors scaled at a time: float64 copies of all vectors would not fit in memory at once
VERSION: str = faiss.__version__
# bits per dimension of the codes that refine a candidate's similarity -> FAISS's name of such codes
CODES = {4: "SQ4", 6: "SQ6", 8: "SQ8", 16: "SQfp16"}
# kind of index -> the settings of its search; a larger value finds more neighbours and takes longer
SETTINGS: dict[str, tuple[str, ...]] = {"flat": (), "ivf_sq8": ("nprobe",), "ivf_pq_refined": ("nprobe", "k_factor")}


def build(vectors: ArrayLike, ids: ArrayLike | None = None) -> Index:
    """Return an exact index of `vectors`, (N, D) finite numbers; ids: (N,) distinct int64 >= 0, row numbers if None.

    Rows are scaled to length 1; an all-zero row stays zero, and its similarity to any vector is 0. Raises DataError for rows
    that are not finite, ValueError for another number of ids than vectors. Repeated ids are not noticed.
    """
    x = unit_float32(vectors)
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(x.shape[1]))
    index.add_with_ids(x, np.arange(len(x)) if ids is None else _one_id_each(ids, len(x)))
    return index


def create(kind: str, dimensions: int, parameters: Mapping[str, int]) -> Index:
    """Return an untrained, empty index of a kind of `SETTINGS`. Raises ValueError for an unknown kind.

    parameters of ivf_sq8: nlist, the number of lists, and by_distance. Parameters of ivf_pq_refined: nlist, subquantizers (of 4
    bits; a divisor of `dimensions`), refine_bits (a key of `CODES`), and by_distance. by_distance: 1 ranks by distance, 0 by
    inner product. Both give one order for exact vectors of length 1. But the error of a code counts in proportion to the
    distance of query and vector if by_distance is 1, and to the query's length if it is 0. By distance, an all-zero vector has
    a similarity of 0.5 to every vector.
    """
    if kind not in SETTINGS:
        raise ValueError(f"no kind of index {kind!r}")
    name = "Flat"
    if kind == "ivf_sq8":
        name = f"IVF{parameters['nlist']},SQ8"
    elif kind == "ivf_pq_refined":
        scanned, refined = f"PQ{parameters['subquantizers']}x4fs", CODES[parameters["refine_bits"]]
        name = f"IVF{parameters['nlist']},{scanned},Refine({refined})"
    metric = faiss.METRIC_L2 if parameters.get("by_distance") else faiss.METRIC_INNER_PRODUCT
    return faiss.IndexIDMap(faiss.index_factory(dimensions, name, metric))


def train(index: Index, sample: ArrayLike) -> None:
    """Fit the lists and the quantizers of an untrained index to (N, D) vectors; the same sample gives the same index."""
    index.train(unit_float32(sample))


def insert(index: Index, vectors: ArrayLike, ids: ArrayLike) -> None:
    """Put (N, D) vectors, scaled to length 1, into a trained index, under ids (N,) int64 that are distinct and new to the
    index.

    The ids are not checked for repeats. Do not insert into an index that `absorb` has filled: FAISS leaves the gaps of its
    blocks of fast-scan codes unset, and later codes would be wrong. Raises DataError for vectors that are not finite,
    ValueError for another number of ids than vectors.
    """
    rows = np.asarray(vectors)
    keys = _one_id_each(ids, len(rows))
    for start in range(0, len(rows), BLOCK):
        index.add_with_ids(unit_float32(rows[start : start + BLOCK]), keys[start : start + BLOCK])


def ids_of(index: Index) -> NDArray[np.int64]:
    """Return the (N,) int64 ids of an index, in the order in which they were inserted."""
    return faiss.vector_to_array(index.id_map).copy()


def absorb(index: Index, other: Index) -> None:
    """Move the vectors of `other`, filled from a copy of the same trained index, into `index`; `other` is used up.

    Codes are moved, not made again.
    """
    ids = np.concatenate([ids_of(index), ids_of(other)])
    if kind_of(index) == "ivf_pq_refined":
        _move_full_lists(_parts(index)[0], _parts(other)[0])
    for into, source in zip(_parts(index), _parts(other), strict=True):
        into.merge_from(source, into.ntotal if hasattr(into, "nlist") else 0)  # lists number their vectors
    if isinstance(_inner(index), faiss.IndexRefine):
        _inner(index).ntotal = len(ids)
    faiss.copy_array_to_vector(ids, index.id_map)
    index.ntotal = len(ids)


def kind_of(index: Index) -> str:
    """Return the name in `SETTINGS` of an index that this file made."""
    kinds = {faiss.IndexIVFScalarQuantizer: "ivf_sq8", faiss.IndexRefine: "ivf_pq_refined"}
    return kinds.get(type(_inner(index)), "flat")


def configure(index: Index, settings: Mapping[str, int]) -> None:
    """Set the search settings of an index: whole numbers of at least 1, by the names of `SETTINGS`. `to_bytes` keeps them.

    Raises ValueError for a setting that this kind of index does not have, and for a value below 1.
    """
    for name, value in settings.items():
        if name not in SETTINGS[kind_of(index)] or value < 1:
            raise ValueError(f"an index of kind {kind_of(index)} has no setting {name!r} of {value}")
        if name == "k_factor":
            _inner(index).k_factor = float(value)
        else:
            # fast scan takes time even for lists that do not exist
            _parts(index)[0].nprobe = min(value, nlist_of(index))


def nlist_of(index: Index) -> int:
    """Return the number of lists of an ivf index; 1 for a flat one."""
    return int(getattr(_parts(index)[0], "nlist", 1))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let FAISS run `count` threads, in the whole process, until the block ends."""
    before = thread_count()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def thread_count() -> int:
    """Return the largest number of threads that FAISS may run."""
    return int(faiss.omp_get_max_threads())


def search(index: Index, queries: ArrayLike, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (similarities float32, ids int64), both (Q, min(k, N)): nearest first, equal similarities by id.

    queries: (Q, D) finite numbers, scaled to length 1 here. Similarities are cosines in [-1, 1], up to the rounding of float32;
    an approximate index takes them from its codes. If an approximate search reached fewer than k vectors, the remaining ids are
    -1. Raises DataError for queries that are not finite or have another D than the index, ValueError for k < 1 and for an empty
    index.
    """
    if k < 1 or index.ntotal == 0:
        raise ValueError(f"{k} neighbours of {index.ntotal} vectors")
    x = unit_float32(queries)
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
    """Return the index that `to_bytes` wrote. Raises DataError if the bytes are not a FAISS index."""
    with _readable(f"{len(data)} bytes are"):
        return faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))


def open_mapped(path: str | Path) -> Index:
    """Open a local file that holds the bytes of `to_bytes`, without reading it all: a search reads the codes that it needs.

    The index can be searched, not changed. Fast-scan codes (ivf_pq_refined) are copied into memory; the codes that refine them
    are not. Raises DataError if there is no such file, or if it is not a FAISS index.
    """
    if not Path(path).is_file():
        raise DataError(f"no index at {path}")
    # IO_FLAG_MMAP maps inverted lists only; the other flag, of FAISS 1.11, maps flat codes as well
    flags = getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    with _readable(f"{path} is"):
        return faiss.read_index(str(path), flags)


@contextmanager
def _readable(subject: str) -> Iterator[None]:
    """Turn FAISS's error about bytes that it cannot read into a DataError."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        raise DataError(f"{subject} no readable FAISS index: cut short, or of another program") from error


def unit_float32(vectors: ArrayLike) -> NDArray[np.float32]:
    """Return rows (N, D) as float32, scaled to length 1, `BLOCK` rows at a time. Raises DataError for rows that are not finite,
    ValueError if `vectors` is not a matrix."""
    rows = np.asarray(vectors)
    if rows.ndim != 2:
        raise ValueError(f"an index takes a matrix of profiles x features, not an array of shape {rows.shape}")
    unit = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        if lost := int((~finite_rows(block)).sum()):
            raise DataError(f"{lost} profiles have features that are not finite")
        unit[start : start + BLOCK] = unit_rows(block)
    return unit


def _one_id_each(ids: ArrayLike, count: int) -> NDArray[np.int64]:
    """Return the ids of `count` vectors as int64. Raises ValueError for another number of ids."""
    keys = np.asarray(ids, np.int64)
    if keys.shape != (count,):
        raise ValueError(f"{count} vectors came with ids of shape {keys.shape}; every vector needs one")
    return keys


def _inner(index: Index) -> Index:
    """Return the index under the map of ids."""
    return faiss.downcast_index(index.index)


def _parts(index: Index) -> Sequence[Index]:
    """Return the indices that hold codes: the scanned one and, for ivf_pq_refined, the one that refines its results."""
    inner = _inner(index)
    if not isinstance(inner, faiss.IndexRefine):
        return (inner,)
    return faiss.downcast_index(inner.base_index), faiss.downcast_index(inner.refine_index)


def _move_full_lists(into: Index, source: Index) -> None:
    """Move the lists of fast-scan codes for which FAISS (up to 1.15) would write past the end of a list's memory.

    If a list's length is a multiple of a block's bytes, FAISS appends in blocks, and copies as many blocks too many as the list
    has (BlockInvertedLists::add_entries). The last block of such a list is full, so blocks of codes can be put behind it.
    """
    lists: Any = faiss.downcast_InvertedLists(into.invlists)
    others: Any = faiss.downcast_InvertedLists(source.invlists)
    for number in range(lists.nlist):
        length, more = lists.list_size(number), others.list_size(number)
        if length == 0 or more == 0 or length % lists.block_size:
            continue
        full, blocks = length // lists.n_per_block, -(-more // lists.n_per_block)
        codes = faiss.rev_swig_ptr(others.get_codes(number), blocks * lists.block_size).copy()
        ids = faiss.rev_swig_ptr(others.get_ids(number), more) + into.ntotal
        lists.resize(number, length + more)
        all_codes = faiss.rev_swig_ptr(lists.get_codes(number), (full + blocks) * lists.block_size)
        all_codes[full * lists.block_size :] = codes
        faiss.rev_swig_ptr(lists.get_ids(number), length + more)[length:] = ids
        others.resize(number, 0)
