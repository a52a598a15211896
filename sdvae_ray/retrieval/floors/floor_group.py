"""The wells of one group for its floors: normalised by any fit, and scored with any roles and labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.arrays import Bools, Profiles
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.permutations import Texts
from sdvae_ray.retrieval.significance.splits import Space
from sdvae_ray.retrieval.tasks.activity import Negatives, activity_in
from sdvae_ray.retrieval.tasks.activity_tables import NO_CONTROLS, Activity
from sdvae_ray.retrieval.tasks.well_table import NAME, POSITION

Normalise = Callable[[Bools], Profiles]  # a group's wells to fit on, (W,) -> its normalised profiles (W, D')

# Why a quantity has no number, beside the reasons of activity.py.
TOO_FEW_CONTROLS = "too_few_controls"  # to be split, for a step of the fit, or for any p to reach the threshold
ONE_LAYOUT = "one_layout"  # the controls are at the same positions on every plate
NOT_NORMALISED = "not_normalised"  # a step cannot be fitted for another reason, such as controls that do not differ
NO_GEOMETRY = "no_geometry"  # nowhere do controls stand as a compound's wells do: the position effect is unknown


@dataclass(frozen=True)
class FloorGroup:
    """Treated and control wells of one group, in the order of their names, and how they are scored."""

    name: str
    normalise: Normalise
    wells: pl.DataFrame
    chance: Chance
    negatives: Negatives

    @property
    def control(self) -> Bools:
        return self.wells["is_control"].to_numpy()

    @property
    def treated(self) -> Bools:
        return self.wells["is_treated"].to_numpy()

    @property
    def plate(self) -> Texts:
        return self.wells["plate"].to_numpy().astype(str)

    @property
    def position(self) -> Texts:
        return self.wells[POSITION].to_numpy().astype(str)

    def profiles(self, fit: Bools) -> Profiles | str:
        """Return the profiles (W, D') normalised by a fit on the wells of `fit` (W,), or the reason why they cannot be
        normalised.
        """
        try:
            return self.normalise(fit)
        except DataError:
            if not self.control.any():
                return NO_CONTROLS
            fewest = min(int(fit[self.plate == plate].sum()) for plate in np.unique(self.plate))
            return TOO_FEW_CONTROLS if fewest < 2 else NOT_NORMALISED

    def fitted_on(self, fit: Bools) -> Profiles | str:
        """Return what `profiles` returns; NO_CONTROLS or TOO_FEW_CONTROLS if there is nothing to fit on."""
        if not self.control.any():
            return NO_CONTROLS
        return self.profiles(fit) if fit.any() else TOO_FEW_CONTROLS

    def activity(
        self, profiles: Profiles | str, negatives: Bools, queries: Bools, labels: Texts | None = None
    ) -> Activity | str:
        """Return the score of `queries` against `negatives`, both (W,); labels (W,), if given, replace the compounds. `profiles`
        may be the reason why there are no profiles; that reason comes back."""
        return self.activity_over([(profiles, negatives)], queries, labels)

    def activity_over(
        self, spaces: Sequence[tuple[Profiles | str, Bools]], queries: Bools, labels: Texts | None = None
    ) -> Activity | str:
        """Return the score over several spaces, each of profiles and its negatives."""
        parts = []
        for profiles, negatives in spaces:
            if isinstance(profiles, str):
                return profiles
            parts.append((profiles, negatives))
        anywhere = np.logical_or.reduce([negatives for _, negatives in parts])
        wells = self.wells.with_columns(is_control=pl.Series(anywhere), is_treated=pl.Series(queries))
        if labels is not None:
            wells = wells.with_columns(compound=pl.Series(labels))
        playing = anywhere | queries
        return activity_in(
            [Space(profiles[playing], negatives[playing]) for profiles, negatives in parts],
            wells.filter(pl.Series(playing)),
            self.chance,
            key=(NAME,),
            negatives=self.negatives,
        )
