"""The settings of a comparison with chance: one value, made once from a run's settings, that is passed to every score."""

from dataclasses import dataclass
from typing import Literal

from sdvae_ray.retrieval.ranking.formula import Ties
from sdvae_ray.retrieval.ranking.similarity import Distance

Null = Literal["exchange", "copairs", "copairs_exact"]
NULLS: tuple[Null, ...] = ("exchange", "copairs", "copairs_exact")


@dataclass(frozen=True)
class Chance:
    """The settings of a comparison with chance: the ranking, the null of p-values, and when a group of queries is retrieved.

    null       exchange: a compound's wells change places with control wells (exchange.py); for phenotypic activity
               alone, other scores take copairs' null. copairs: random orders of a rank list (p_values.py).
               copairs_exact: the same orders counted if they are few enough, else drawn.
    null_size  number of draws, at least 1
    seed       0 <= seed < 2^64
    strict     True: p counts the draws above the observed value, as copairs does; False: also the draws equal to it
    threshold  a group is retrieved if its corrected p <= threshold, as the authors have it (copairs: <)
    ties       see ranking.formula
    distance   see ranking.similarity; the null by exchange takes cosines alone
    """

    null: Null = "exchange"
    null_size: int = 10_000
    seed: int = 0
    strict: bool = False
    threshold: float = 0.05
    ties: Ties = "average"
    distance: Distance = "cosine"

    def __post_init__(self) -> None:
        if self.null not in NULLS:
            raise ValueError(f"null must be one of {', '.join(NULLS)}, not {self.null!r}")
        if self.null_size < 1:
            raise ValueError(f"a null needs at least 1 draw, not {self.null_size}")
