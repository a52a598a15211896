"""Bring batches of one group on top of each other: CORAL by the controls, Harmony by all wells."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.retrieval.normalisation.moments import Moments, merged, moments
from sdvae_ray.retrieval.normalisation.source import Apply, Source, Wells
from sdvae_ray.retrieval.normalisation.whitening import Floats, ridge_power

HARMONY = "harmonypy"
_LEAST_MAJOR = 2  # of harmonypy: before it, Z_corr has wells along its other axis


def coral(source: Source, fit: str, regularisation: float) -> tuple[Apply, dict[str, Any]]:
    """Give the controls of each batch the mean 0 and the covariance of the controls of all batches.

    x' = (x - m_b) (C_b + r I)^(-1/2) (C + r I)^(1/2): m_b, C_b mean and sample covariance of the batch's wells in the
    fit, C of all wells in the fit. Profiles are best whitened, so that r means the same along every axis. CORAL (Sun, Feng &
    Saenko 2016, who have r = 1) between batches as in Ando, McLean & Berndl 2017; with r = 0 the covariances are equal
    where a batch has more wells in the fit than features, and a direction in which they do not vary is lost.
    Raises DataError for a batch with fewer than 2 wells in the fit.
    """
    names, number = np.unique(source.wells.batch, return_inverse=True)
    counts = np.bincount(number[source.wells.in_fit(fit)], minlength=len(names))
    if (counts < 2).any():
        worst = int(np.flatnonzero(counts < 2)[0])
        raise DataError(f"batch {names[worst]}: {counts[worst]} wells to fit on; tvn needs at least 2 in each batch")

    def of_part(x: Floats, wells: Wells) -> dict[str, Moments]:
        return {str(name): moments(x[wells.batch == name]) for name in np.unique(wells.batch)}

    found = source.reduce(of_part, _merged_by_name, fit)
    target = ridge_power(_covariance(functools.reduce(merged, found.values())), regularisation, 0.5)
    moves = {
        name: (part.mean, ridge_power(_covariance(part), regularisation, -0.5) @ target) for name, part in found.items()
    }
    return Coral(moves), {"regularisation": regularisation, "batches": len(names)}


@dataclass(frozen=True)
class Coral:
    """(x - mean) @ transform, by the batch of each well. moves: of a batch, its mean (D,) and the transform after it (D, D)."""

    moves: Mapping[str, tuple[Floats, Floats]]

    def __call__(self, x: Floats, wells: Wells) -> Floats:
        out = np.empty_like(x)
        for name in np.unique(wells.batch):
            on = wells.batch == name
            mean, transform = self.moves[str(name)]
            out[on] = (x[on] - mean) @ transform
        return out


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


def _covariance(of: Moments) -> Floats:
    return of.scatter / (of.n - 1)


def _merged_by_name(a: dict[str, Moments], b: dict[str, Moments]) -> dict[str, Moments]:
    both = {name: merged(a[name], b[name]) for name in a.keys() & b.keys()}
    return {name: both.get(name) or a.get(name) or b[name] for name in sorted({*a, *b})}
