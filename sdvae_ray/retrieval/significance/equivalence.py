"""Verdicts on a paired difference: equivalent, inferior, superior or undecided, by an interval and a margin declared before.

Two one-sided tests (Schuirmann 1987) at `level` are one interval of 1 - 2 * level: 90 % at 5 %. The words are those of trials of
non-inferiority and equivalence (Piaggio et al. 2012, the extension of CONSORT):

equivalent  the whole interval lies between -margin and +margin
inferior    the whole interval lies below -margin
superior    the whole interval lies above +margin
undecided   any other interval, and every difference without a margin

"Undecided" is never "no difference". An interval below 0 that reaches beyond -margin is undecided too: the difference is there, and
whether it matters is open.

The interval is over compounds and plates: that of the hierarchical bootstrap, or where it is wider estimate -+ h with

    h^2 = t(C - 1)^2 * s_C^2 / C + t(P - 1)^2 * s_P^2 / P

for C compounds and P plates, s_C and s_P the standard deviations of their means, t the quantile of Student's distribution at
1 - level (variances of two sources, each with its own degrees of freedom: Cochran 1964). The bootstrap alone is too narrow with few
plates: it called a difference exactly at the margin equivalent in 12 to 20 % of simulations with two plates that differ, the wider
interval in 2 to 5 % (benchmarks/verdicts.py, docs/conclude.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from sdvae_ray.retrieval.arrays import Floats
from sdvae_ray.retrieval.significance.bootstrap import Resampled, resampled

Word = Literal["equivalent", "inferior", "superior", "undecided"]
EQUIVALENT: Word = "equivalent"
INFERIOR: Word = "inferior"
SUPERIOR: Word = "superior"
UNDECIDED: Word = "undecided"
_MOST = 1_000_000  # compounds or plates that `needed` asks for, at most


@dataclass(frozen=True)
class Needed:
    """An estimate of what would decide, if the difference and the spreads stayed as they are: so many compounds, so many plates,
    or both. for_verdict: the verdict that they would give. None: the present number."""

    for_verdict: Word
    compounds: int | None
    plates: int | None


@dataclass(frozen=True)
class Equivalence:
    """A difference and its verdict.

    estimate      mean over compounds of the mean over a compound's wells, in units of the values
    low, high     interval of 1 - 2 * level over compounds and plates
    compounds     C
    plates        P; 1: the interval says nothing about another plate
    margin        in units of the values; None: no margin is known
    verdict       see above
    p_equivalent, p_inferior, p_superior  the least level at which the data give this verdict; None without a margin
    needed        what would decide; None if it is decided, or without a margin, or if nothing below a million would

    All numbers but the counts are None with fewer than two compounds.
    """

    estimate: float | None
    low: float | None
    high: float | None
    compounds: int
    plates: int
    margin: float | None
    verdict: Word
    p_equivalent: float | None = None
    p_inferior: float | None = None
    p_superior: float | None = None
    needed: Needed | None = None

    @property
    def is_not_inferior(self) -> bool:
        """Return whether the whole interval lies above -margin."""
        return self.margin is not None and self.low is not None and self.low > -self.margin


def equivalence(
    wells: pl.DataFrame, margin: float | None, level: float = 0.05, draws: int = 2000, seed: int = 0
) -> Equivalence:
    """Return the mean difference with its interval and verdict.

    wells: compound, plate, value: the difference at every well; rows with a null value are left out. margin: above 0, or None.
    level: of each of the two one-sided tests, in (0, 0.5). The order of rows changes nothing.
    """
    if not 0 < level < 0.5 or (margin is not None and not margin > 0):
        raise ValueError(f"a level between 0 and 0.5 and a margin above 0 are wanted, not {level} and {margin}")
    values = resampled(wells, draws, seed)
    compounds, plates = len(values.means), len(values.plate_means)
    if compounds < 2:
        return Equivalence(None, None, None, compounds, plates, margin, UNDECIDED)
    spread = _Spread.of(values)
    estimate, half = float(values.means.mean()), spread.half_width(level)
    low, high = np.nanquantile(values.drawn, [level, 1 - level])
    low, high = float(min(low, estimate - half)), float(max(high, estimate + half))
    if margin is None:
        return Equivalence(estimate, low, high, compounds, plates, None, UNDECIDED)

    def p_above(bound: float) -> float:
        return max(float(np.nanmean(values.drawn <= bound)), spread.p_of(estimate - bound))

    def p_below(bound: float) -> float:
        return max(float(np.nanmean(values.drawn >= bound)), spread.p_of(bound - estimate))

    verdict = _word(low, high, margin)
    return Equivalence(
        estimate,
        low,
        high,
        compounds,
        plates,
        margin,
        verdict,
        p_equivalent=max(p_above(-margin), p_below(margin)),
        p_inferior=p_below(-margin),
        p_superior=p_above(margin),
        needed=spread.needed(estimate, margin, level) if verdict == UNDECIDED else None,
    )


def holm(p_values: ArrayLike) -> Floats:
    """Return Holm's (1979) corrected p-values, (n,), in the order given: valid for a family of tests, whatever their dependence."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected


def _word(low: float, high: float, margin: float) -> Word:
    if high < -margin:
        return INFERIOR
    if low > margin:
        return SUPERIOR
    return EQUIVALENT if -margin < low and high < margin else UNDECIDED


@dataclass(frozen=True)
class _Spread:
    """Variances of the means of compounds and of plates, as if one more compound or plate were drawn; their numbers."""

    of_compounds: float
    of_plates: float
    compounds: int
    plates: int

    @classmethod
    def of(cls, values: Resampled) -> "_Spread":
        compounds, plates = len(values.means), len(values.plate_means)
        of_plates = float(values.plate_means.var(ddof=1)) if plates > 1 else 0.0
        return cls(float(values.means.var(ddof=1)), of_plates, compounds, plates)

    def half_width(self, level: float, compounds: int | None = None, plates: int | None = None) -> float:
        """Return h at `level`; compounds, plates: of another experiment with the same spreads."""
        compounds, plates = compounds or self.compounds, plates or self.plates
        square = stdtrit(compounds - 1, 1 - level) ** 2 * self.of_compounds / compounds
        if plates > 1:
            square += stdtrit(plates - 1, 1 - level) ** 2 * self.of_plates / plates
        return float(np.sqrt(square))

    def p_of(self, distance: float) -> float:
        """Return the level at which h equals `distance`; for a distance below 0, one less the level of its absolute value."""
        if distance < 0:
            return 1 - self.p_of(-distance)
        if self.of_compounds == self.of_plates == 0:
            return 0.0 if distance > 0 else 0.5
        low, high = 0.0, 0.5  # h falls from infinity at 0 to 0 at 0.5
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.half_width(middle) > distance else (low, middle)
        return high

    def needed(self, estimate: float, margin: float, level: float) -> Needed | None:
        """Return the least number of compounds alone, else of plates alone, else of both in proportion, that decides."""
        room = margin - abs(estimate)
        word = EQUIVALENT if room > 0 else INFERIOR if estimate < 0 else SUPERIOR

        def decides(compounds: int, plates: int) -> bool:
            return self.half_width(level, compounds, plates) < abs(room)

        if (more := _least(self.compounds, lambda n: decides(n, self.plates))) is not None:
            return Needed(word, more, None)
        if self.plates > 1 and (more := _least(self.plates, lambda n: decides(self.compounds, n))) is not None:
            return Needed(word, None, more)
        times = _least(1, lambda n: decides(n * self.compounds, n * self.plates))
        return None if times is None else Needed(word, times * self.compounds, times * self.plates)


def _least(present: int, decides: Callable[[int], bool]) -> int | None:
    """Return the least number above `present` that decides, if more decide wherever fewer do; None if none up to a million does."""
    low, high = present, 2 * present
    while not decides(high):
        low, high = high, 2 * high
        if high > _MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
