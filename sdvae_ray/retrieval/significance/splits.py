"""Splits of the control positions: the normalisation is fitted on one part of the controls, and the other part are the negatives.

Splits are of well positions, never of wells: a position that is in a fit on one plate is in it on all plates. A part of the
positions, the pool, is in no fit of any split. Under no effect a compound's wells are exchangeable with the pool in all splits
at once, so that the null by exchange holds for the mean over the splits (exchange.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.errors import DataError
from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Bools, Profiles

Texts = NDArray[np.str_]


@dataclass(frozen=True)
class Space:
    """Profiles normalised by one fit, and the controls that they are scored against.

    features: (W, D) finite. is_negative: (W,) bool, the controls that had no part in the fit.
    """

    features: Profiles
    is_negative: Bools


@dataclass(frozen=True)
class Split:
    """The controls of one split, both (W,) bool: of the fit, and the negatives."""

    fit: Bools
    negatives: Bools


def blocks_of(splits: int) -> int:
    """Return the number of blocks that `control_splits` deals the positions into. Raises ValueError for 2 splits, which have no
    pool, and for fewer than 1."""
    if splits < 1 or splits == 2:
        raise ValueError(f"the controls are split once, or three times or more, not {splits} times")
    return 2 if splits == 1 else 2 * (splits - 1)


def control_splits(
    position: Texts, plate: Texts, is_control: Bools, splits: int, seed: int, name: str, repeat: int = 0
) -> list[Split]:
    """Return the splits of the control positions, drawn by the seed, the name and the repeat.

    position, plate: (W,) text. splits: S = 1 fits on one half of the positions; the other half are the negatives and the pool.
    S >= 3: the positions are dealt into 2 (S - 1) blocks. S blocks are for fits, and each split fits on all of them but one; its
    negatives are all other blocks. So a fit has half of the positions. The last S - 2 blocks are the pool: a quarter of the
    positions for S = 3, a third for S = 4. Positions that are controls on the same plates are dealt round the blocks in random
    order, so that the blocks have equal shares of every plate's controls. Nothing depends on the order of rows. Raises DataError
    for fewer positions than blocks.
    """
    blocks = blocks_of(splits)
    block_of = _dealt(position[is_control], plate[is_control], blocks, seed, name, repeat)
    if len(block_of) < blocks:
        times = "1 split" if splits == 1 else f"{splits} splits"
        raise DataError(
            f"{times} of the controls need {blocks} well positions at least, and they are at {len(block_of)}"
        )
    block = np.full(len(position), blocks)
    block[is_control] = [block_of[well] for well in position[is_control].tolist()]
    if splits == 1:
        return [Split(block == 0, block == 1)]
    fits = [(block < splits) & (block != left_out) for left_out in range(splits)]
    return [Split(fit, is_control & ~fit) for fit in fits]


def pool_of(spaces: Sequence[Split] | Sequence[Space]) -> Bools:
    """Return a mask (W,): the controls that are negatives in all spaces or splits, which no fit has seen."""
    return np.logical_and.reduce([part.negatives if isinstance(part, Split) else part.is_negative for part in spaces])


def _dealt(position: Texts, plate: Texts, blocks: int, seed: int, name: str, repeat: int) -> dict[str, int]:
    """Return position -> block."""
    plates_of: dict[str, list[str]] = {}
    for well, plate_of_well in sorted(set(zip(position.tolist(), plate.tolist(), strict=True))):
        plates_of.setdefault(well, []).append(plate_of_well)
    alike: dict[tuple[str, ...], list[str]] = {}
    for well, plates in plates_of.items():
        alike.setdefault(tuple(plates), []).append(well)
    dealt: dict[str, int] = {}
    for layout, wells in sorted(alike.items()):
        for at in block_generator(seed, "control splits", name, *layout, block=repeat).permutation(len(wells)):
            dealt[wells[at]] = len(dealt) % blocks
    return dealt
