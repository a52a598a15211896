"""A subsample of vectors chosen by a hash of their keys: it merges in any order, and takes the same keys on every side.

The rows of smallest hash are kept ("bottom-k"; Cohen & Kaplan 2007): a uniform choice without replacement that depends on the seed
and the set of keys alone, not on order, worker, machine or Python's hash seed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.errors import DataError

_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Sample:
    """The `size` rows of smallest hash among n rows; all rows if n <= size.

    Two sides with equal `hashes` hold the same keys, row by row.
    """

    size: int
    seed: int
    n: int
    hashes: NDArray[np.uint64]  # (k,) ascending, k = min(n, size)
    values: NDArray[np.float32]  # (k, D)


def patch_keys(fov_ids: Sequence[str], patches: int) -> list[str]:
    """Return one key for every stored patch of n FOVs: all patches of the first FOV, then of the second, and so on."""
    return [f"{fov_id}{_SEPARATOR}{patch}" for fov_id in fov_ids for patch in range(patches)]


def hash_keys(keys: Sequence[str], seed: int) -> NDArray[np.uint64]:
    """Return (n,) uint64: the little-endian BLAKE2b (digest size 8) of seed, U+001F and key, in UTF-8."""
    start = hashlib.blake2b(f"{seed}{_SEPARATOR}".encode(), digest_size=8)
    digests = []
    for key in keys:
        digest = start.copy()
        digest.update(key.encode())
        digests.append(digest.digest())
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def sample(keys: Sequence[str], values: ArrayLike, size: int, seed: int) -> Sample:
    """Return the sample of at most `size` of n rows. keys: one per row. values: (n, D) numbers, kept as float32.

    A key names one row: a key given twice counts as two rows. Raises DataError for values that are not finite in float32,
    ValueError for size < 1 and for another number of keys than rows.
    """
    with np.errstate(over="ignore"):  # refused below
        rows = np.asarray(values, dtype=np.float32)
    if size < 1:
        raise ValueError(f"a sample needs a size of at least 1, not {size}")
    if rows.ndim != 2 or len(rows) != len(keys):
        raise ValueError(f"{len(keys)} keys do not fit values of shape {rows.shape}; one key per row is needed")
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise DataError(f"{int(bad.sum())} vectors have features that are not finite in float32")
    return Sample(size, seed, len(rows), *_smallest(hash_keys(keys, seed), rows, size))


def merge(a: Sample, b: Sample) -> Sample:
    """Return the sample of both sets together: exactly the sample of one call on all rows, in any order.

    Raises ValueError if the sizes, the seeds or the vectors' lengths differ.
    """
    if (a.size, a.seed) != (b.size, b.seed):
        raise ValueError(
            f"samples of size {a.size} and seed {a.seed}, and of size {b.size} and seed {b.seed}, cannot be merged"
        )
    if a.values.shape[1] != b.values.shape[1]:
        raise ValueError(f"samples of {a.values.shape[1]} and {b.values.shape[1]} features cannot be merged")
    both = np.concatenate([a.hashes, b.hashes]), np.concatenate([a.values, b.values])
    return Sample(a.size, a.seed, a.n + b.n, *_smallest(*both, a.size))


def _smallest(
    hashes: NDArray[np.uint64], values: NDArray[np.float32], size: int
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    if len(hashes) > size:
        kept = np.flatnonzero(hashes <= np.partition(hashes, size - 1)[size - 1])
        hashes, values = hashes[kept], values[kept]
    order = np.argsort(hashes, kind="stable")
    if (np.diff(hashes[order]) == 0).any():
        # equal hashes go by the bytes of the row, so that the order of arrival has no effect
        order = np.array(sorted(order.tolist(), key=lambda row: (hashes[row], values[row].astype(">f4").tobytes())))
    order = order[:size]
    return hashes[order], values[order]
