"""The fraction retrieved over its floor, (FR - f) / (1 - f), with an interval over compounds and poses.

f is the share of posing controls that the score would retrieve. If every compound with an effect is retrieved, and one without an
effect as often as a pose is, then FR = a + (1 - a) f for the share a of compounds with an effect, and a is FR over floor.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Floats


@dataclass(frozen=True)
class OverFloor:
    """fraction, floor: FR and f, in [0, 1]. over_floor: at most 1, below 0 if FR is below its floor; low, high: its 95 % percentile
    interval. compounds, poses: how many. All numbers are NaN without a compound or without a pose."""

    fraction: float
    floor: float
    over_floor: float
    low: float
    high: float
    compounds: int
    poses: int


def over_floor(retrieved: ArrayLike, posing: ArrayLike, draws: int = 2000, seed: int = 0) -> OverFloor:
    """Return FR over floor. retrieved: (C,) one number or bool per compound. posing: (K,) in [0, 1], one per pose. Values that are
    NaN or None are left out; the order of the others changes nothing.

    Where no pose is retrieved, a bootstrap of the poses would say that f is 0 for certain. So that it does not, two poses are
    added to the resampled ones, one retrieved and one not (the rule of Agresti & Coull 1998 with half its weight): `high` and
    `low` are then wider, and the estimate is as it was.
    """
    compounds, poses = (_known(values) for values in (retrieved, posing))
    if not len(compounds) or not len(poses):
        nothing = (np.nan,) * 5
        return OverFloor(*nothing, len(compounds), len(poses))
    fraction, floor = float(compounds.mean()), float(poses.mean())
    random = block_generator(seed, "over floor", len(compounds), len(poses))
    fractions = random.choice(compounds, (draws, len(compounds))).mean(axis=1)
    padded = np.append(poses, [0.0, 1.0])
    floors = random.choice(padded, (draws, len(padded))).mean(axis=1)
    floors += floor - padded.mean()  # the centre stays where it is, the width is that of the padded poses
    drawn = _over(fractions, np.clip(floors, 0, 1))
    low, high = np.nanquantile(drawn, [0.025, 0.975])  # NaN where every pose is drawn as retrieved
    return OverFloor(
        fraction, floor, float(_over(fraction, floor)), float(low), float(high), len(compounds), len(poses)
    )


def _over(fraction: ArrayLike, floor: ArrayLike) -> Floats:
    room = 1 - np.asarray(floor)
    return np.asarray((np.asarray(fraction) - floor) / np.where(room > 0, room, np.nan))


def _known(values: ArrayLike) -> Floats:
    numbers = np.asarray(values, dtype=np.float64)
    return np.sort(numbers[~np.isnan(numbers)])
