"""Counter-based randomness: a generator is a pure function of its keys, so no result depends on order, worker or retry."""

import hashlib

import numpy as np


def generator(seed: int, *keys: str) -> np.random.Generator:
    """Return a Philox generator keyed by the first 16 bytes of the SHA-256 of the seed and the keys."""
    text = "\x1f".join([str(seed), *keys])
    return np.random.Generator(
        np.random.Philox(key=int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))
    )


def block_generator(seed: int, *keys: str | int, block: int = 0) -> np.random.Generator:
    """Return the Philox generator of one block of a stream: block 7 can be drawn without drawing blocks 0 to 6.

    seed: 0 <= seed < 2^64. The key is the seed and a 64-bit BLAKE2b hash of the keys; the block is the counter's top word.
    """
    text = "\x1f".join(str(key) for key in keys)
    digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    counter = np.array([0, 0, 0, block], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, digest], dtype=np.uint64), counter=counter))
