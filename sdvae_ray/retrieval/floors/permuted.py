"""The floor of a score whose lists have no controls that could pose: the same score, profiles permuted within each plate.

It keeps plates, positions and what the wells have in common, and no profile its own labels. Positions are lost with the labels:
it does not tell one from the other (see floors.posing_position for what does).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.significance.p_values import Ints
from sdvae_ray.retrieval.significance.permutations import Mask, permuted_rows
from sdvae_ray.retrieval.tasks.activity import OK

NUMBERS = ("mean_map", "mean_normalised_map", "fraction_retrieved")
NOT_PERMUTABLE = "one_well_per_plate"  # permuting the profiles of a plate changes nothing


def permuted_floor(
    score: Callable[[Ints], Mapping[str, Any]],
    plate: ArrayLike,
    movable: Mask,
    *,
    what: str,
    names: ArrayLike | None = None,
    seed: int,
    repeats: int,
) -> dict[str, Any]:
    """Return the means over the repeats of score(rows): NUMBERS, and status, "ok" or why there are none.

    score: of profiles rearranged so that well i has that of well rows[i], (W,); a mapping with NUMBERS. plate: (W,) text; what:
    keys the draws, with the seed. movable: (W,) the wells whose profiles change places, within their plate. names: (W,) distinct
    text in whose order wells are drawn, so that nothing depends on the order of rows; that order itself if None.
    """
    plates = np.asarray(plate).astype(str)
    _, counts = np.unique(plates[movable], return_counts=True)
    if counts.max(initial=0) < 2:
        return {"status": NOT_PERMUTABLE}
    order = np.arange(len(plates)) if names is None else np.argsort(np.asarray(names).astype(str), kind="stable")
    found = []
    for repeat in range(repeats):
        rows = np.empty_like(order)
        rows[order] = order[permuted_rows(plates[order], movable[order], what, seed, "", repeat)]
        try:
            made = score(rows)
        except DataError as error:
            return {"status": f"not scored: {error}"}
        found.append({name: made[name] for name in NUMBERS})
    means = pl.DataFrame(found, schema=dict.fromkeys(NUMBERS, pl.Float64)).mean().row(0, named=True)
    return {**means, "status": OK}
