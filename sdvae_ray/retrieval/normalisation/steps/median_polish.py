"""x - effect of the well's row - effect of its column, per feature: median polish (Tukey 1977; Brideau et al. 2003 for plates).

The effects are those of a plate layout, so that all plates of the group share them, or of every plate. Each plate keeps its level.
A row or a column without a well in the fit has no effect. Where one compound has the same position on every plate, the effect of a
position that is no effect of its row or column cannot be told from the compound, and stays.
"""

from typing import Any

import numpy as np

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.arrays import Floats, Ints
from sdvae_ray.retrieval.normalisation.contract import Affine, Amount, Count, Fit, Fitted, Map, Per
from sdvae_ray.retrieval.normalisation.source import ProfileSource, by_columns
from sdvae_ray.retrieval.normalisation.wells import By, Texts


def fit_to(
    source: ProfileSource, *, iterations: Count = 10, prior: Amount = 0.0, fit: Fit = "controls", per: Per = "group"
) -> Fitted:
    """Fit the effects of rows and columns. iterations: sweeps over plates, rows and columns. prior: wells without an effect that
    every row and column is shrunk by, n / (n + prior) for n wells in the fit. Raises DataError if no well of the fit has a
    position.
    """
    members = list(source.map(lambda _, wells: wells, fit))
    factors: tuple[By, By] = ("row", "column") if per == "group" else ("plate row", "plate column")
    labels = [np.concatenate([wells.names(by) for wells in members]) for by in ("plate", *factors)]
    if not (labels[1] != "").any():
        raise DataError(
            f"{source.wells.where()}: no well of the fit has a position such as A01, which median_polish needs"
        )
    names, codes = zip(*(np.unique(label, return_inverse=True) for label in labels), strict=True)
    effects = by_columns(source, fit, lambda x: _effects(x, codes, iterations))
    steps, record = [], dict[str, Any]()
    for by, name, code, effect in zip(factors, names[1:], codes[1:], effects, strict=True):
        effect = _centred(effect.T, name, per)
        count = np.bincount(code)[:, None]
        effect *= count / (count + prior)
        maps = {str(label): Map(effect[at]) for at, label in enumerate(name) if label != ""}
        steps.append(Affine(by, maps))
        record[f"{by.rpartition(' ')[2]}s"] = len(maps)
    return Fitted(tuple(steps), record)


def _effects(x: Floats, codes: tuple[Ints, ...], iterations: int) -> tuple[Floats, Floats]:
    """Return the effects of rows (D, R) and of columns (D, C) on the features of x (n, D). codes: plate, row, column, (n,) each."""
    rest = x.copy()
    members = [[np.flatnonzero(code == at) for at in range(code.max() + 1)] for code in codes]
    effects = [np.zeros((len(wells), x.shape[1])) for wells in members]
    for _ in range(iterations):
        for effect, wells_of in zip(effects, members, strict=True):
            for at, wells in enumerate(wells_of):
                median = np.median(rest[wells], axis=0)
                effect[at] += median
                rest[wells] -= median
    return effects[1].T, effects[2].T


def _centred(effect: Floats, names: Texts, per: Per) -> Floats:
    """Return the effects (R, D) less their median, of every plate or of all, so that the step moves no plate's level."""
    plate = np.array([str(name).rpartition(" ")[0] if per == "plate" else "" for name in names])
    centred = np.empty_like(effect)
    for name in np.unique(plate):
        rows = plate == name
        centred[rows] = effect[rows] - np.median(effect[rows], axis=0)
    return centred
