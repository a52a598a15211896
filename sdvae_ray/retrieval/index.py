"""Exact nearest-neighbour index over profiles: FAISS, inner product of L2-normalised float32 vectors (cosine).

The only file that imports faiss. An index lives in memory or as bytes; where the bytes are kept, and the list that
says which well an id stands for, is the caller's.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.errors import DataError

Index = Any  # faiss has no types


def build(vectors: ArrayLike, ids: ArrayLike | None = None) -> Index:
    """Return an exact index of `vectors`, (N, D) finite numbers; ids: (N,) distinct int64 >= 0, row numbers if None.

    Rows are scaled to length 1; an all-zero row stays zero, and its similarity to anything is 0. Raises DataError for
    rows that are not finite and for ids that repeat or do not fit.
    """
    x = _unit(vectors)
    keys = np.arange(len(x)) if ids is None else np.asarray(ids)
    if keys.shape != (len(x),) or not np.issubdtype(keys.dtype, np.integer) or (keys < 0).any():
        raise DataError(f"an index of {len(x)} profiles needs as many whole ids of at least 0")
    if len(np.unique(keys)) != len(keys):
        raise DataError("ids of an index repeat; every profile needs its own")
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(x.shape[1]))
    index.add_with_ids(x, np.ascontiguousarray(keys, dtype=np.int64))
    return index


def search(index: Index, queries: ArrayLike, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (similarities float32, ids int64), both (Q, min(k, N)), nearest first, level ones by id.

    queries: (Q, D) finite numbers, scaled to length 1 here. Similarities are cosines in [-1, 1] up to float32.
    """
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}")
    x = _unit(queries)
    if x.shape[1] != index.d:
        raise DataError(f"queries have {x.shape[1]} features but the index has {index.d}")
    similarities, ids = index.search(x, min(k, index.ntotal))
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


def _unit(vectors: ArrayLike) -> NDArray[np.float32]:
    x = np.asarray(vectors, dtype=np.float64)
    if x.ndim != 2:
        raise DataError(f"an index takes a matrix of wells x features, not an array of shape {x.shape}")
    if not np.isfinite(x).all():
        raise DataError(f"{int((~np.isfinite(x).all(axis=1)).sum())} profiles have features that are not finite")
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.ascontiguousarray(x / np.where(norm == 0, 1.0, norm), dtype=np.float32)
