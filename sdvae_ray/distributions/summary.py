"""Number, mean, sd and quantiles of millions of values, from parts that merge: exact moments, and quantiles by a histogram.

The histogram has the buckets of an HDR histogram (Tene 2012): a float32 without its last 11 bits of mantissa. So a bucket is 2^-12
of its value wide, and its middle is wrong by at most ERROR of the value; 0 and infinity are exact. The counts of parts are added,
so the quantiles depend on the values alone: not on the order, the parts or the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

ERROR = 2.0**-13  # of a quantile, relative, at most; of values below 1e-38 more
_DROPPED = 11  # of the 23 bits of the mantissa
_SIGN = np.uint32(1 << 31)


@dataclass(frozen=True)
class Summary:
    """The values that are not NaN, of one part or of several together.

    n         their number
    mean, m2  mean, and the sum of squared differences from it, float64; NaN or infinite if a value is infinite
    buckets   (B,) uint32, ascending as the values are; counts: (B,) int64
    """

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0
    buckets: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> Self:
        """Return the summary of values of any shape; NaN is left out."""
        flat = values.reshape(-1)
        known = flat[~np.isnan(flat)].astype(np.float64)
        if len(known) == 0:
            return cls()
        with np.errstate(invalid="ignore", over="ignore"):
            mean = float(known.mean())
            m2 = float(np.square(known - mean).sum())
            bits = known.astype(np.float32).view(np.uint32)
        ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN)  # as unsigned numbers they are in the order of the values
        buckets, counts = np.unique(ordered >> np.uint32(_DROPPED), return_counts=True)
        return cls(len(known), mean, m2, buckets, counts.astype(np.int64))

    def merged(self, other: "Summary") -> "Summary":
        """Return the summary of both together (Chan, Golub & LeVeque 1983)."""
        if not self.n or not other.n:
            return self if self.n else other
        n = self.n + other.n
        with np.errstate(invalid="ignore"):
            shift = other.mean - self.mean
            mean = self.mean + shift * other.n / n if np.isfinite(shift) else self.mean + other.mean
            m2 = self.m2 + other.m2 + shift**2 * (self.n * other.n / n)
        both = np.concatenate([self.buckets, other.buckets])
        buckets, where = np.unique(both, return_inverse=True)
        counts = np.zeros(len(buckets), np.int64)
        np.add.at(counts, where, np.concatenate([self.counts, other.counts]))
        return Summary(n, float(mean), float(m2), buckets, counts)

    @property
    def sd(self) -> float | None:
        """Return the standard deviation; None if a value is infinite, or without values."""
        return float(np.sqrt(self.m2 / self.n)) if self.n and np.isfinite(self.m2) else None

    def quantiles(self, quantiles: Sequence[float]) -> list[float]:
        """Return for each quantile q about the value at position q (n - 1), rounded, of the n sorted values; empty if n is 0."""
        ends = np.cumsum(self.counts)
        places = [round(q * (self.n - 1)) for q in quantiles] if self.n else []
        return [_middle(self.buckets[np.searchsorted(ends, place, side="right")]) for place in places]


def _middle(bucket: np.uint32) -> float:
    """Return the middle of a bucket; 0 and infinity as they are."""
    low, high = (_value(np.uint32((int(bucket) << _DROPPED) | last)) for last in (0, (1 << _DROPPED) - 1))
    if np.isnan(low) or np.isnan(high):  # beside infinity there is NaN alone
        return float(high if np.isnan(low) else low)
    return 0.0 if 0.0 in (low, high) else (low + high) / 2


def _value(ordered: np.uint32) -> float:
    bits = ordered ^ _SIGN if ordered & _SIGN else ~ordered
    return float(np.uint32(bits).view(np.float32))
