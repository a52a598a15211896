"""Counter-based randomness: a generator is a pure function of its keys, so no result depends on order, worker or retry."""

import hashlib

import numpy as np


def generator(seed: int, *keys: str) -> np.random.Generator:
    """Returns a Philox generator keyed by the first 16 bytes of the SHA-256 of the seed and the keys."""
    text = "\x1f".join([str(seed), *keys])
    return np.random.Generator(
        np.random.Philox(key=int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))
    )
