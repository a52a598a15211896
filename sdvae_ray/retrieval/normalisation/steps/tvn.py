"""Typical variation normalisation (Ando, McLean & Berndl 2017): standardise, PCA whitening, then CORAL per batch.

The first two are fitted on all batches together, so that along each axis a typical control varies by 1. A batch is a plate
unless the caller gave batches.
"""

import functools

import numpy as np

from sdvae_ray.retrieval.arrays import Floats
from sdvae_ray.retrieval.normalisation.contract import Affine, Amount, Count, Fit, Fitted, Map
from sdvae_ray.retrieval.normalisation.moments import Moments, merged, moments
from sdvae_ray.retrieval.normalisation.source import ProfileSource
from sdvae_ray.retrieval.normalisation.steps import pca_whiten, standardise
from sdvae_ray.retrieval.normalisation.wells import Wells

PER = "batch"


def fit_to(
    source: ProfileSource, *, components: Count = 256, regularisation: Amount = 1.0, fit: Fit = "controls"
) -> Fitted:
    """Fit the three parts in turn. components: see pca_whiten. regularisation: r of `coral`."""
    scaling = standardise.fit_to(source, fit=fit)
    source = source.through(scaling.chain)
    whitening = pca_whiten.fit_to(source, components=components, fit=fit)
    source = source.through(whitening.chain)
    alignment = coral(source, fit, regularisation)
    record = {"regularisation": regularisation, "batches": len(alignment.maps)}
    return Fitted((*scaling.chain, *whitening.chain, alignment), {**whitening.record, **record})


def coral(source: ProfileSource, fit: str, regularisation: float) -> Affine:
    """Return the map of each batch that gives its controls the mean 0 and the covariance of the controls of all batches.

    x' = (x - m_b) (C_b + r I)^(-1/2) (C + r I)^(1/2), where m_b and C_b are the mean and the sample covariance of the batch's
    wells in the fit, and C is that of all wells in the fit. Whiten the profiles first, so that r means the same along every
    axis. CORAL (Sun, Feng & Saenko 2016, who have r = 1) between batches as in Ando, McLean & Berndl 2017. With r = 0 the
    covariances are equal if a batch has more wells in the fit than features; a direction in which its wells do not vary is
    lost.
    """
    batches = functools.reduce(_merged_by_name, source.map(_moments_of_batches, fit, together=True))
    target = ridge_power(_covariance(functools.reduce(merged, batches.values())), regularisation, 0.5)
    maps = {}
    for name, batch in batches.items():
        matrix = ridge_power(_covariance(batch), regularisation, -0.5) @ target
        maps[name] = Map(batch.mean, axes=matrix.T)
    return Affine("batch", maps)


def ridge_power(covariance: Floats, ridge: float, power: float) -> Floats:
    """Return (covariance + ridge I)^power, symmetric. A direction without variance gets 0, also for a negative power."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0) + ridge
    values[values <= len(values) * np.finfo(np.float64).eps * values.max(initial=0.0)] = 0.0
    raised = np.zeros_like(values)
    np.power(values, power, out=raised, where=values > 0)
    return np.asarray((vectors * raised) @ vectors.T)


def _covariance(batch: Moments) -> Floats:
    return batch.scatter / (batch.n - 1)


def _moments_of_batches(x: Floats, wells: Wells) -> dict[str, Moments]:
    return {str(name): moments(x[wells.batch == name]) for name in np.unique(wells.batch)}


def _merged_by_name(a: dict[str, Moments], b: dict[str, Moments]) -> dict[str, Moments]:
    names = sorted({*a, *b})
    return {name: merged(a[name], b[name]) if name in a and name in b else a.get(name) or b[name] for name in names}
