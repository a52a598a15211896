"""Cross-fitting: the controls that a group's normalisation is fitted on, and the controls that are its negatives, in every split.

score.fit cross: no negative has a part in the fit of its space (retrieval/significance/splits.py). score.fit controls, as
published: the negatives are the controls of the fit, and p is not valid. Without a fitted step there is nothing to split. The fit
that is stored for search is that of all controls either way.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from sdvae_ray.controls import CONTROL, TREATED
from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.normalisation.normalise import resolve_steps
from sdvae_ray.retrieval.normalisation.shelf import has_fit
from sdvae_ray.retrieval.significance.least_p import least_exchange_p
from sdvae_ray.retrieval.significance.splits import Space, Split, control_splits, pool_of
from sdvae_ray.run.run import Run
from sdvae_ray.schema import WELL_COLUMN
from sdvae_ray.scoring.inputs.roles import chance_of
from sdvae_ray.scoring.normalised import Normaliser

SPARE = 2
_EVERY = 10**15  # draws: arrangements are counted, whatever score.null_size is
MANY = 20_000  # wells of a group; of more wells the profiles of several splits are not held at once, and there is one


@dataclass(frozen=True)
class CrossFits:
    """The splits of one group's controls. crossed: no negative is in the fit of its split. p_valid: nothing was fitted on the
    negatives; so it is without fitted steps, and never with harmony, which moves all wells that it is given.
    """

    splits: list[Split]
    crossed: bool
    p_valid: bool

    def first(self, wells: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, pl.DataFrame]:
        """Return (the controls (W,) of the first split's fit, the wells (W,) that a step with `fit: all` may be fitted on, the
        table of wells with is_control for its negatives).
        """
        split = self.splits[0]
        return split.fit, self.fittable(split), wells.with_columns(pl.Series(CONTROL, split.negatives))

    def fittable(self, split: Split) -> np.ndarray:
        """Return a mask (W,): all wells, without the negatives if they must have no part in a fit."""
        return ~split.negatives if self.crossed else np.ones(len(split.fit), dtype=bool)

    def spaces(self, normaliser: Normaliser) -> list[Space]:
        """Return the space of every split: its float32 profiles if there are several splits, and its negatives."""
        spaces = []
        for split in self.splits:
            features = normaliser(split.fit, self.fittable(split)).features
            spaces.append(Space(features.astype(np.float32) if len(self.splits) > 1 else features, split.negatives))
        return spaces


def cross_fits(run: Run, wells: pl.DataFrame, name: str, most: int | None = None) -> CrossFits:
    """Return the splits of a group's controls, as score.fit has it.

    wells: with roles. name: of the group; it keys the draw, with the seed. most: splits at most; None: score.splits. Raises
    DataError for fewer than 2 control positions. A group has one split if it has more than MANY wells, if its positions are too
    few for more, or if the controls that no fit of several splits has seen are so few that a compound has fewer than SPARE times
    the arrangements that it needs to be retrieved alone.
    """
    settings = run.config.score
    control = wells[CONTROL].to_numpy()
    steps = resolve_steps(settings.normalise)
    p_valid = has_fit(steps)
    if settings.fit == "controls" or not steps:
        return CrossFits([Split(control, control)], crossed=False, p_valid=not steps)
    position, plate = (wells[column].to_numpy().astype(str) for column in (WELL_COLUMN, "plate"))
    drawn = position, plate, control
    splits = min(settings.splits, most or (1 if wells.height > MANY else settings.splits))
    if splits > 1:
        try:
            several = control_splits(*drawn, splits, run.config.seed, name)
        except DataError:  # too few positions for so many
            pass
        else:
            if _has_arrangements(run, wells, pool_of(several)):
                return CrossFits(several, crossed=True, p_valid=p_valid)
    return CrossFits(control_splits(*drawn, 1, run.config.seed, name), crossed=True, p_valid=p_valid)


def _has_arrangements(run: Run, wells: pl.DataFrame, pool: np.ndarray) -> bool:
    """Return whether half of the compounds have SPARE times the arrangements with the controls `pool` (W,) that one compound needs
    to be retrieved alone.

    At the bare number only the very best arrangement of all would be retrieved, and an effect of middling size never.
    """
    chance = chance_of(run)
    if chance.null != "exchange":
        return True
    codes = wells.select(pl.struct("compound").rank("dense"), pl.col("plate").rank("dense").alias("_plate"))
    compound = np.where(wells[TREATED].to_numpy(), codes["compound"].to_numpy().astype(np.int64) - 1, -1)
    names = np.unique(compound[compound >= 0])
    if not len(names):
        return False
    compound = np.where(compound >= 0, np.searchsorted(names, compound), -1)
    plate = codes["_plate"].to_numpy().astype(np.int64) - 1
    every = replace(chance, null_size=_EVERY)
    least = least_exchange_p(compound, plate, pool, len(names), every)
    return bool(np.median(least) <= chance.threshold / (SPARE * len(names)))
