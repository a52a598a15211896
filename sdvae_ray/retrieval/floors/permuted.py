"""The floor of a score whose lists have no controls that could pose: the same score, profiles permuted within each plate.

A permutation keeps the plates and the common part of all profiles of a plate; a profile loses its labels and its position
alike. So this floor does not tell a position effect from a compound effect; posing.py does.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.arrays import Bools, Ints
from sdvae_ray.retrieval.significance.permutations import permuted_rows
from sdvae_ray.retrieval.tasks.activity_tables import OK

NUMBERS = ("mean_map", "mean_normalised_map", "fraction_retrieved")
NOT_PERMUTABLE = "one_well_per_plate"  # permuting the profiles of a plate changes nothing


def permuted_floor(
    score: Callable[[Ints], Mapping[str, Any]],
    plate: ArrayLike,
    movable: Bools,
    *,
    what: str,
    names: ArrayLike | None = None,
    seed: int,
    repeats: int,
    numbers: Sequence[str] = NUMBERS,
) -> dict[str, Any]:
    """Return the means of `numbers` over the repeats and the status, "ok"; or a status alone, the reason why there are no means.

    score(rows) takes row numbers (W,): well i gets the profile of well rows[i]. It returns a mapping with these; a DataError
    from it becomes the status. plate: (W,) text. movable: (W,) bool, the wells whose profiles change places within their plate.
    what: a text that keys the draws, with the seed. names: (W,) distinct text in whose order wells are drawn, so that nothing
    depends on the order of rows; None: wells are drawn in the order of rows.
    """
    plates = np.asarray(plate).astype(str)
    _, counts = np.unique(plates[movable], return_counts=True)
    if counts.max(initial=0) < 2:
        return {"status": NOT_PERMUTABLE}
    order = np.arange(len(plates)) if names is None else np.argsort(np.asarray(names).astype(str), kind="stable")
    scores = []
    for repeat in range(repeats):
        rows = np.empty_like(order)
        rows[order] = order[permuted_rows(plates[order], movable[order], what, seed, "", repeat)]
        try:
            scored = score(rows)
        except DataError as error:
            return {"status": f"not scored: {error}"}
        scores.append({name: scored[name] for name in numbers})
    means = pl.DataFrame(scores, schema=dict.fromkeys(numbers, pl.Float64)).mean().row(0, named=True)
    return {**means, "status": OK}
