"""Does a metric of images predict how much of the phenotype a side loses? Rank correlation, and prediction of unseen families.

Sides of one family (one autoencoder, one codec, one kind of degradation) are alike, so that a metric is judged by families that it
was not fitted on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Floats


@dataclass(frozen=True)
class Prediction:
    """How a metric goes with the loss of phenotype.

    correlation  Spearman's, over sides, within each compound and part, then the mean; above 0: more damage, more loss
    low, high    its percentile interval over compounds and sides
    parts        (K,) the correlation within each part alone, the mean over compounds
    error        root mean squared error of a side's mean loss, predicted from the other families
    blind        the same error of the mean loss of the other families, without the metric
    sides, families, compounds  how many
    predicts     low > 0, and error < blind

    Numbers are NaN where they do not exist.
    """

    correlation: float
    low: float
    high: float
    parts: Floats
    error: float
    blind: float
    sides: int
    families: int
    compounds: int

    @property
    def predicts(self) -> bool:
        """Return whether the interval of the correlation lies above 0 and unseen families are predicted better than blindly."""
        return bool(self.low > 0 and self.error < self.blind)


def prediction(
    damage: ArrayLike, loss: ArrayLike, families: ArrayLike, draws: int = 300, level: float = 0.95, seed: int = 0
) -> Prediction:
    """Return how well `damage` predicts `loss`.

    damage: (K, C, N) a metric of K parts (stains, passes or bands), C compounds and N sides, turned so that more is worse; all
    finite. loss: (C, N) the phenotype lost. families: (N,) the family of a side. A draw resamples compounds and sides.
    """
    x, y, names = np.asarray(damage, np.float64), np.asarray(loss, np.float64), np.asarray(families)
    compounds, sides = y.shape
    within = _correlations(x, y)
    drawn = []
    random = block_generator(seed, "prediction", compounds, sides)
    for _ in range(draws):
        who, which = random.integers(0, compounds, compounds), random.integers(0, sides, sides)
        drawn.append(_mean(_correlations(x[:, who][:, :, which], y[who][:, which])))
    tail = (1 - level) / 2
    known = np.asarray(drawn)[np.isfinite(drawn)]
    low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
    error, blind = _unseen(x.mean((0, 1)), y.mean(0), names)
    of_parts = np.array([_mean(row) for row in within])
    distinct = len(np.unique(names))
    return Prediction(_mean(within), float(low), float(high), of_parts, error, blind, sides, distinct, compounds)


def _correlations(x: Floats, y: Floats) -> Floats:
    """Return Spearman's correlation over the last axis, (K, C); NaN where one of the two is constant."""
    first, second = rankdata(x, axis=-1), rankdata(y, axis=-1)
    first -= first.mean(-1, keepdims=True)
    second -= second.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (first * second).sum(-1) / np.sqrt((first**2).sum(-1) * (second**2).sum(-1))


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else np.nan


def _unseen(damage: Floats, loss: Floats, families: np.ndarray) -> tuple[float, float]:
    """Return the errors of predicting each family's losses from the others, by isotonic regression on damage, and by their mean."""
    from sklearn.isotonic import IsotonicRegression

    errors, blind = np.full_like(loss, np.nan), np.full_like(loss, np.nan)
    for family in np.unique(families):
        own = families == family
        if own.all():
            return np.nan, np.nan
        fit = IsotonicRegression(out_of_bounds="clip").fit(damage[~own], loss[~own])
        errors[own], blind[own] = fit.predict(damage[own]) - loss[own], loss[~own].mean() - loss[own]
    return float(np.sqrt(np.mean(errors**2))), float(np.sqrt(np.mean(blind**2)))
