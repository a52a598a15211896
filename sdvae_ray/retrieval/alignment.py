"""Bring batches of one group on top of each other: CORAL by the controls, Harmony by all wells."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.retrieval.whitening import Floats, ridge_power

HARMONY = "harmonypy"
_LEAST_MAJOR = 2  # of harmonypy: before it, Z_corr has wells along its other axis


def coral(
    x: Floats, in_fit: NDArray[np.bool_], batch: NDArray[np.str_], regularisation: float
) -> tuple[Floats, dict[str, Any]]:
    """Give the controls of each batch the mean 0 and the covariance of the controls of all batches.

    x' = (x - m_b) (C_b + r I)^(-1/2) (C + r I)^(1/2): m_b, C_b mean and sample covariance of the batch's wells in the
    fit, C of all wells in the fit. x: (W, D), best whitened, so that r means the same along every axis. CORAL (Sun, Feng &
    Saenko 2016, who have r = 1) between batches as in Ando, McLean & Berndl 2017; with r = 0 the covariances are equal
    where a batch has more wells in the fit than features, and a direction in which they do not vary is lost.
    Raises DataError for a batch with fewer than 2 wells in the fit.
    """
    names = np.unique(batch)
    target = ridge_power(_covariance(x[in_fit]), regularisation, 0.5)
    out = np.empty_like(x)
    for name in names:
        on = batch == name
        fit = x[on & in_fit]
        if len(fit) < 2:
            raise DataError(f"batch {name}: {len(fit)} wells to fit on; tvn needs at least 2 in each batch")
        out[on] = (x[on] - fit.mean(axis=0)) @ ridge_power(_covariance(fit), regularisation, -0.5) @ target
    return out, {"regularisation": regularisation, "batches": len(names)}


def harmony(
    x: Floats, batch: NDArray[np.str_], clusters: int | str, theta: float, iterations: int, seed: int
) -> tuple[Floats, dict[str, Any]]:
    """Return Harmony's corrected profiles (Korsunsky et al. 2019): soft clusters of all wells, each batch moved within them.

    x: (W, D), best after a PCA. clusters: "auto" is one per 30 wells, 2 to 100. theta: how much clusters of one batch
    are penalised. One thread. A group of one batch is returned as it is. Raises ConfigError without harmonypy 2 or later.
    """
    require_harmony()
    count = max(2, min(round(len(x) / 30), 100)) if isinstance(clusters, str) else clusters
    names = np.unique(batch)
    record = {"clusters": count, "asked": clusters, "theta": theta, "seed": seed, "batches": len(names)}
    if len(names) < 2:
        return x, record
    if count > len(x):
        raise DataError(f"batches {', '.join(names[:4])}: {len(x)} wells cannot make the {count} clusters of harmony")
    result = importlib.import_module(HARMONY).run_harmony(
        np.ascontiguousarray(x.T), {"batch": batch}, "batch", theta=theta, nclust=count, max_iter_harmony=iterations,
        random_state=seed, verbose=False, ncores=1,
    )  # fmt: skip
    return np.asarray(result.Z_corr, dtype=np.float64).reshape(x.shape), record


def require_harmony() -> None:
    """ConfigError where the step harmony could not run."""
    if importlib.util.find_spec(HARMONY) is None:
        raise ConfigError(f"normalisation step harmony: the package {HARMONY} is not installed (pip install {HARMONY})")
    version = importlib.metadata.version(HARMONY)
    if int(version.partition(".")[0]) < _LEAST_MAJOR:
        raise ConfigError(
            f"normalisation step harmony: {HARMONY} {version} is installed; {_LEAST_MAJOR}.0 or later is wanted"
        )


def _covariance(x: Floats) -> Floats:
    return np.atleast_2d(np.cov(x, rowvar=False))
