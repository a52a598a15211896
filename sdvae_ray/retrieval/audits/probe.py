"""A linear probe: can a linear classifier tell the label of a compound that it has never seen?

Wells of held-out compounds are classified by a ridge classifier on standardised profiles (scikit-learn), in folds that share no
compound. The floor permutes the labels among the compounds, and every fold is fitted anew.
"""

from typing import Any

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sdvae_ray.errors import DataError
from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Floats
from sdvae_ray.retrieval.significance.permutations import Texts
from sdvae_ray.retrieval.tasks.activity_tables import OK

FOLDS = 5
MOST = 20_000  # wells; of more, whole compounds are drawn by the seed
_SEEDS = 2**31  # scikit-learn takes 32 bits


def linear_probe(features: Floats, label: Texts, compound: Texts, seed: int, repeats: int) -> dict[str, Any]:
    """Return balanced_accuracy (mean recall over the labels, of the held-out wells), chance (1 / labels), wells, compounds, labels,
    folds, floor_balanced_accuracy (mean over the repeats) and status.

    features: (W, D) normalised profiles of treated wells, whose order must not depend on the data's. label: (W,) one label a well;
    compound: (W,). A label of a single compound is left out: it cannot be held out and learned. Raises DataError for fewer than two
    labels of two compounds.
    """
    names, first = np.unique(compound, return_index=True)
    of_compound = label[first]
    labels, count = np.unique(of_compound, return_counts=True)
    order = block_generator(seed, "probe", "wells", len(names)).permutation(len(names))
    wells_of = np.unique(compound, return_counts=True)[1]
    few = order[np.cumsum(wells_of[order]) <= MOST] if len(compound) > MOST else order
    chosen = np.isin(of_compound, labels[count > 1]) & np.isin(np.arange(len(names)), few)
    kept_labels, counts = np.unique(of_compound[chosen], return_counts=True)
    if len(kept_labels) < 2 or counts.min() < 2:
        raise DataError("fewer than two labels have two compounds")
    rows = np.isin(compound, names[chosen])
    x, groups = np.asarray(features[rows], dtype=np.float64), np.searchsorted(names[chosen], compound[rows])
    folds = int(min(FOLDS, counts.min()))
    own = of_compound[chosen]
    draws = [block_generator(seed, "probe", "floor", len(own), block=at).permutation(len(own)) for at in range(repeats)]
    accuracies = [
        _held_out(x, labels_of[groups], groups, folds, seed) for labels_of in (own, *(own[at] for at in draws))
    ]
    return {
        "balanced_accuracy": accuracies[0],
        "chance": 1 / len(kept_labels),
        "wells": int(rows.sum()),
        "compounds": int(chosen.sum()),
        "labels": len(kept_labels),
        "folds": folds,
        "floor_balanced_accuracy": float(np.mean(accuracies[1:])) if repeats else None,
        "status": OK,
    }


def _held_out(x: Floats, label: Texts, groups: np.ndarray, folds: int, seed: int) -> float:
    """Return the balanced accuracy of the labels predicted for wells of held-out compounds."""
    predicted = np.empty_like(label)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % _SEEDS)
    for train, test in splitter.split(x, label, groups):
        # D is the mean eigenvalue of the wells' products after standardisation, where wells are fewer than features
        model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=float(x.shape[1]), class_weight="balanced"))
        predicted[test] = model.fit(x[train], label[train]).predict(x[test])
    return float(balanced_accuracy_score(label, predicted))
