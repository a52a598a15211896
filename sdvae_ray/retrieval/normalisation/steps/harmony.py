"""Harmony over batches (Korsunsky et al. 2019) by the package harmonypy: soft clusters of all wells, each batch moved within them.

All wells take part, negatives included, and are held at once. Profiles are best whitened before. A group of one batch stays
as it is.
"""

import importlib
import importlib.metadata
import importlib.util
from typing import Any, Literal

import numpy as np

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.retrieval.normalisation.contract import Amount, Corrected, Count, Fitted, Whole
from sdvae_ray.retrieval.normalisation.source import ProfileSource, gathered

NO_FIT = "harmony moves the wells it was given and has no fit for another well"
PACKAGE = "harmonypy"
_LEAST_MAJOR = 2  # of harmonypy: before it, Z_corr has wells along its other axis


def check(**_: Any) -> None:
    """Raise ConfigError if harmonypy is not installed, or is too old."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise ConfigError(f"normalisation step harmony: the package {PACKAGE} is not installed (pip install {PACKAGE})")
    version = importlib.metadata.version(PACKAGE)
    if int(version.partition(".")[0]) < _LEAST_MAJOR:
        raise ConfigError(
            f"normalisation step harmony: {PACKAGE} {version} is installed; {_LEAST_MAJOR}.0 or later is wanted"
        )


def fit_to(
    source: ProfileSource,
    *,
    clusters: Count | Literal["auto"] = "auto",
    theta: Amount = 2.0,
    iterations: Count = 10,
    seed: Whole = 0,
) -> Fitted:
    """Return the profiles that harmony corrected, as a step that cannot be applied to other wells. It runs on one thread.

    clusters: "auto" is one per 30 wells, 2 to 100. theta: penalty of clusters that hold wells of one batch. iterations: at
    most. Raises DataError for fewer wells than clusters.
    """
    x, batch = gathered(source, np.float64), source.wells.batch
    count = max(2, min(round(len(x) / 30), 100)) if isinstance(clusters, str) else clusters
    names = np.unique(batch)
    record = {"clusters": count, "asked": clusters, "theta": theta, "seed": seed, "batches": len(names)}
    if len(names) < 2:
        return Fitted((Corrected(x, NO_FIT),), record)
    if count > len(x):
        raise DataError(f"batches {', '.join(names[:4])}: {len(x)} wells cannot make the {count} clusters of harmony")
    result = importlib.import_module(PACKAGE).run_harmony(
        np.ascontiguousarray(x.T), {"batch": batch}, "batch", theta=theta, nclust=count, max_iter_harmony=iterations,
        random_state=seed, verbose=False, ncores=1,
    )  # fmt: skip
    corrected = np.asarray(result.Z_corr, dtype=np.float64).reshape(x.shape)
    return Fitted((Corrected(corrected, NO_FIT),), record)
