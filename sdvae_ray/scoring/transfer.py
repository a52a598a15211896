"""Transfer between the groups of a run, such as cell lines and times: each pair of groups of an extractor and side is one Ray task.

Both groups are normalised together. score.fit cross: fitted on half of the control positions of both; the controls at the others
are negatives, and pose for the position floor. score.fit controls: fitted on the controls of both, and controls pose in a second
space, fitted on the other half of the control positions.
"""

from typing import Any

import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import TASK_CPUS, weighing
from sdvae_ray.controls import CONTROL, GROUP
from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.significance.splits import control_splits
from sdvae_ray.retrieval.tasks.transfer import Posing, transfer
from sdvae_ray.retrieval.tasks.transfer_pairs import Pair, pairs_of, unscored
from sdvae_ray.run.run import Run
from sdvae_ray.schema import WELL_COLUMN, WELL_KEY
from sdvae_ray.scoring.cross_fitting import cross_fits
from sdvae_ray.scoring.inputs.labels import Label
from sdvae_ray.scoring.inputs.roles import task_chance
from sdvae_ray.scoring.normalised import Normaliser, normaliser_of
from sdvae_ray.scoring.profiles import Profiles

_COPIES = 6  # of the normalised profiles of both groups: two spaces, and what is made ready to be ranked
_COMPONENTS = 512  # a guess at how many features are left, for Ray's plan alone


def start_transfers(run: Run, label: Label, profiles: Profiles, wells: pl.DataFrame) -> list[Any]:
    """Return one Ray task for each pair of groups; `tasks_of` collects them.

    label: extractor and side. wells: all wells of the profiles, with roles.
    """
    along = run.config.score.transfer_columns
    if not along:
        return []
    started = []
    for pair in pairs_of(wells.select(GROUP, *run.config.score.group), run.config.score.group, along):
        members = wells.filter(pl.col(GROUP).is_in([pair.first, pair.second]))
        try:
            space = normaliser_of(run, [(profiles, members)])
        except DataError as error:
            started.append(ray.put(_rows(label, unscored(pair, _said(error)))))
        else:
            held = members.height * min(profiles.width, _COMPONENTS) * 4
            memory = weighing(_COPIES * held + 2 * space.held_bytes)
            started.append(_transfer.options(**memory).remote(run, label, pair, space, members))
    return started


@ray.remote(num_cpus=TASK_CPUS)
def _transfer(run: Run, label: Label, pair: Pair, space: Normaliser, wells: pl.DataFrame) -> pl.DataFrame:
    settings = run.config.score
    try:
        name = f"{pair.first} and {pair.second}"
        fits = cross_fits(run, wells, name, most=1)
        fit, fittable, scored = fits.first(wells)
        features = space(fit, fittable).features
        posing = None
        if not fits.p_valid:
            control = wells[CONTROL].to_numpy()
            (half,) = control_splits(
                wells[WELL_COLUMN].to_numpy().astype(str), wells["plate"].to_numpy().astype(str), control, 1,
                run.config.seed, name,
            )  # fmt: skip
            posing = Posing(space(half.fit, ~half.negatives).features, half.negatives)
        columns: dict[str, Any] = {"position": WELL_COLUMN, "key": WELL_KEY}
        repeats = max(1, settings.floor_repeats)
        scores = transfer(features, scored, pair, task_chance(run), posing=posing, repeats=repeats, **columns)
    except DataError as error:
        scores = unscored(pair, _said(error))
    return _rows(label, scores)


def _rows(label: Label, scores: pl.DataFrame) -> pl.DataFrame:
    return label.before(scores.with_columns(pl.col("target").alias(GROUP)))


def _said(error: DataError) -> str:
    return f"not scored: {error}"
