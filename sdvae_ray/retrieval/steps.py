"""The steps of a normalisation: each is fitted on some wells, applied to all, and says what it decided.

STEPS is the list of them: a function and its parameters with their defaults and ranges. Nothing here reads a run file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.alignment import coral, harmony
from sdvae_ray.retrieval.whitening import METHODS, Floats, centre_and_scale, pca_whitening, principal_axes, sphering

Bools = NDArray[np.bool_]
Texts = NDArray[np.str_]
Made = tuple[Floats, dict[str, Any]]

# The authors' values (Cropsal & Mercado 2025, arXiv 2510.19887, released code); nowhere else in the package.
PUBLISHED_COMPONENTS = 256
PUBLISHED_VARIANCE = 1e-6

MAD_TO_SD = 1.4826  # of a normal distribution; pycytominer's RobustMAD has these digits
PLATE, GROUP = "plate", "group"
HARMONISE = "harmony"


@dataclass(frozen=True)
class Wells:
    """Who is who among W wells: is_control, fittable (W,) bool; plate, batch (W,) text."""

    is_control: Bools
    fittable: Bools
    plate: Texts
    batch: Texts

    def in_fit(self, fit: str) -> Bools:
        return self.is_control if fit == "controls" else self.fittable

    def parts(self, step: str, fit: str, per: str) -> Iterator[tuple[Bools, Bools]]:
        """(wells of the part, those of them that are fitted on), for the whole group or plate after plate."""
        if per == GROUP:
            yield np.ones(len(self.plate), dtype=bool), self.in_fit(fit)
            return
        for name in np.unique(self.plate):
            on = self.plate == name
            chosen = on & self.in_fit(fit)
            if chosen.sum() < 2:
                what = "control wells" if fit == "controls" else "wells to fit on"
                raise DataError(f"plate {name}: {chosen.sum()} {what}; {step} needs at least 2 on each plate")
            yield on, chosen

    def where(self) -> str:
        """Opens an error about the whole group."""
        return f"plates {', '.join(np.unique(self.plate)[:4])}"


@dataclass(frozen=True)
class Parameter:
    """default; `words`, the texts that are allowed; `whole` and `least` of a number, None where numbers are not."""

    default: Any
    words: tuple[str, ...] = ()
    least: float | None = None
    whole: bool = False


def standardise(x: Floats, wells: Wells, fit: str, per: str, name: str = "standardise") -> Made:
    """(x - mean) / population sd, per feature: StandardScaler. A feature constant over the fit is only centred."""

    def of(values: Floats) -> tuple[Floats, Floats, Bools]:
        return centre_and_scale(values)

    return _located(x, wells, fit, per, name, of)


def plate_standardise(x: Floats, wells: Wells, fit: str) -> Made:
    """`standardise`, plate by plate."""
    return standardise(x, wells, fit, PLATE, "plate_standardise")


def mad_robustize(x: Floats, wells: Wells, fit: str, per: str, epsilon: float) -> Made:
    """(x - median) / (1.4826 MAD + epsilon), per feature: pycytominer's RobustMAD.

    A feature whose MAD is 0 (more than half of its values are one) is only centred: pycytominer divides it by epsilon,
    1e-18, and then nothing else counts.
    """

    def of(values: Floats) -> tuple[Floats, Floats, Bools]:
        median = np.median(values, axis=0)
        deviation = MAD_TO_SD * np.median(np.abs(values - median), axis=0)
        constant = deviation <= 4 * np.finfo(np.float64).eps * np.abs(median)
        return median, np.where(constant, 1.0, deviation + epsilon), constant

    made, record = _located(x, wells, fit, per, "mad_robustize", of)
    return made, {**record, "epsilon": epsilon}


def _located(
    x: Floats, wells: Wells, fit: str, per: str, name: str, of: Callable[[Floats], tuple[Floats, Floats, Bools]]
) -> Made:
    out = np.empty_like(x)
    constant = np.zeros(x.shape[1], dtype=bool)
    parts = 0
    for on, chosen in wells.parts(name, fit, per):
        centre, scale, still = of(x[chosen])
        out[on] = (x[on] - centre) / scale
        constant |= still
        parts += 1
    record: dict[str, Any] = {"constant": int(constant.sum())}
    return out, {**record, "plates": parts} if per == PLATE else record


def pca_whiten(x: Floats, wells: Wells, fit: str, components: int) -> Made:
    """Project on the first k principal axes of the fit, each divided by its sample sd: PCA(k, whiten=True).

    k = min(components, wells in the fit - 1, D, rank of the fit); see whitening.pca_whitening.
    """
    whitening, record = pca_whitening(principal_axes(x[wells.in_fit(fit)], where=wells.where()), components)
    return whitening(x), record


def sphere(x: Floats, wells: Wells, fit: str, per: str, method: str, epsilon: float | str) -> Made:
    """Divide by sqrt(variance + epsilon) along the principal axes of the fit; see whitening.sphering.

    per plate: each plate by its own fit (ZCA and ZCA-cor alone: only those come back to features that plates share);
    features constant over the fit of any plate are dropped, epsilon, shrinkage, rank and explained_variance are lists.
    """
    correlation = method.endswith("-cor")
    if per == GROUP:
        axes = principal_axes(x[wells.in_fit(fit)], correlation, wells.where())
        whitening, record = sphering(axes, method, epsilon)
        return whitening(x), record
    parts = list(wells.parts("sphere", fit, per))
    keep = ~np.any([centre_and_scale(x[chosen])[2] for _, chosen in parts], axis=0)
    out = np.empty((len(x), int(keep.sum())))
    records = []
    for on, chosen in parts:
        where = f"plate {wells.plate[on][0]}"
        whitening, record = sphering(principal_axes(x[chosen][:, keep], correlation, where), method, epsilon)
        out[on] = whitening(x[on][:, keep])
        records.append(record)
    lists: dict[str, Any] = {
        key: [record[key] for record in records]
        for key in ("epsilon", "shrinkage", "rank", "explained_variance")
        if key in records[0]
    }
    return out, {**records[0], **lists, "dropped": int((~keep).sum()), "plates": len(parts)}


def variance_threshold(x: Floats, wells: Wells, fit: str, threshold: float) -> Made:
    """Keep the features whose population variance over the fit is above `threshold`: VarianceThreshold."""
    chosen = wells.in_fit(fit)
    keep = x[chosen].var(axis=0) > threshold
    if not keep.any():
        raise DataError(
            f"{wells.where()}: no feature varies by more than {threshold:g} over the {int(chosen.sum())} wells of the fit"
        )
    return x[:, keep], {"threshold": threshold, "dropped": int((~keep).sum())}


def tvn(x: Floats, wells: Wells, fit: str, components: int, regularisation: float) -> Made:
    """Typical variation normalisation (Ando, McLean & Berndl 2017): standardise, PCA whitening, then CORAL per batch.

    The first two are fitted on all batches together, so that along each axis a typical control varies by 1; see
    alignment.coral for the third. A batch is a plate unless the caller gave batches.
    """
    standard, _ = standardise(x, wells, fit, GROUP, "tvn")
    whitened, record = pca_whiten(standard, wells, fit, components)
    aligned, more = coral(whitened, wells.in_fit(fit), wells.batch, regularisation)
    return aligned, {**record, **more}


def harmonise(x: Floats, wells: Wells, clusters: int | str, theta: float, iterations: int, seed: int) -> Made:
    """Harmony over batches (Korsunsky et al. 2019) by the package harmonypy; see alignment.harmony.

    It has no fit that could be applied to other wells: all wells given take part, negatives included.
    """
    return harmony(x, wells.batch, clusters, theta, iterations, seed)


_FIT = Parameter("controls", words=("controls", "all"))
_PER = Parameter(GROUP, words=(GROUP, PLATE))
_COMPONENTS = Parameter(PUBLISHED_COMPONENTS, least=1, whole=True)

STEPS: dict[str, tuple[Callable[..., Made], dict[str, Parameter]]] = {
    "standardise": (standardise, {"fit": _FIT, "per": _PER}),
    "mad_robustize": (mad_robustize, {"epsilon": Parameter(1e-18, least=0), "fit": _FIT, "per": _PER}),
    "pca_whiten": (pca_whiten, {"components": _COMPONENTS, "fit": _FIT}),
    "sphere": (
        sphere,
        {
            "method": Parameter("ZCA-cor", words=METHODS),
            "epsilon": Parameter("auto", words=("auto",), least=0),
            "fit": _FIT,
            "per": _PER,
        },
    ),
    "variance_threshold": (
        variance_threshold,
        {"threshold": Parameter(PUBLISHED_VARIANCE, least=0), "fit": _FIT},
    ),
    "plate_standardise": (plate_standardise, {"fit": _FIT}),
    "tvn": (tvn, {"components": _COMPONENTS, "regularisation": Parameter(1.0, least=0), "fit": _FIT}),
    HARMONISE: (
        harmonise,
        {
            "clusters": Parameter("auto", words=("auto",), least=1, whole=True),
            "theta": Parameter(2.0, least=0),
            "iterations": Parameter(10, least=1, whole=True),
            "seed": Parameter(0, least=0, whole=True),
        },
    ),
}
