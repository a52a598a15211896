"""The steps of a normalisation: each is fitted on some wells of a source, applied to all, and says what it decided.

STEPS is the list of them: a function and its parameters with their defaults and ranges. Nothing here reads a run file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.normalisation.alignment import coral, harmony
from sdvae_ray.retrieval.normalisation.source import (
    GROUP,
    PLATE,
    Apply,
    Bools,
    Ints,
    Source,
    Wells,
    axes_of,
    by_columns,
    mean_and_sd,
    mean_and_variance,
    per_plate,
)
from sdvae_ray.retrieval.normalisation.transforms import InTurn, Kept, Located, Replaced, SpheredByPlate, Whitened
from sdvae_ray.retrieval.normalisation.whitening import (
    METHODS,
    Floats,
    Whitening,
    centre_and_scale,
    pca_whitening,
    principal_axes,
    sphering,
)

# The authors' values (Cropsal & Mercado 2025, arXiv 2510.19887, released code); nowhere else in the package.
PUBLISHED_COMPONENTS = 256
PUBLISHED_VARIANCE = 1e-6

MAD_TO_SD = 1.4826  # of a normal distribution; pycytominer's RobustMAD has these digits
HARMONISE = "harmony"


@dataclass(frozen=True)
class Parameter:
    """default; `words`, the texts that are allowed; `whole` and `least` of a number, None where numbers are not."""

    default: Any
    words: tuple[str, ...] = ()
    least: float | None = None
    whole: bool = False


@dataclass(frozen=True)
class Fitted:
    """A step fitted: apply it to profiles of whole plates, which then have `width` features; the record says what it decided."""

    apply: Apply
    width: int
    record: dict[str, Any]


def standardise(source: Source, fit: str, per: str, name: str = "standardise") -> Fitted:
    """(x - mean) / population sd, per feature: StandardScaler. A feature constant over the fit is only centred."""
    source.wells.needs_two(fit, per, name)
    if per == PLATE:
        return _by_plate(per_plate(source, fit, _centre_and_scale), source.width)
    return _in_one(*mean_and_sd(source, fit))


def plate_standardise(source: Source, fit: str) -> Fitted:
    """`standardise`, plate by plate."""
    return standardise(source, fit, PLATE, "plate_standardise")


def mad_robustize(source: Source, fit: str, per: str, epsilon: float) -> Fitted:
    """(x - median) / (1.4826 MAD + epsilon), per feature: pycytominer's RobustMAD.

    A feature whose MAD is 0 (more than half of its values are one) is only centred: pycytominer divides it by epsilon,
    1e-18, and then nothing else counts.
    """
    source.wells.needs_two(fit, per, "mad_robustize")

    def of(values: Floats) -> tuple[Floats, Floats, Bools]:
        median = np.median(values, axis=0)
        deviation = MAD_TO_SD * np.median(np.abs(values - median), axis=0)
        constant = deviation <= 4 * np.finfo(np.float64).eps * np.abs(median)
        return median, np.where(constant, 1.0, deviation + epsilon), constant

    if per == PLATE:
        made = _by_plate(per_plate(source, fit, lambda _, values: of(values)), source.width)
    else:
        centre, scale, constant = by_columns(source, fit, of)
        made = _in_one(centre, scale, constant.astype(bool))
    return replace(made, record={**made.record, "epsilon": epsilon})


def _in_one(centre: Floats, scale: Floats, constant: Bools) -> Fitted:
    return Fitted(Located((centre, scale)), len(centre), {"constant": int(constant.sum())})


def _by_plate(found: Mapping[str, tuple[Floats, Floats, Bools]], width: int) -> Fitted:
    constant = int(np.any([still for _, _, still in found.values()], axis=0).sum())
    pairs = {name: (centre, scale) for name, (centre, scale, _) in found.items()}
    return Fitted(Located(plates=pairs), width, {"constant": constant, "plates": len(pairs)})


def pca_whiten(source: Source, fit: str, components: int) -> Fitted:
    """Project on the first k principal axes of the fit, each divided by its sample sd: PCA(k, whiten=True).

    k = min(components, wells in the fit - 1, D, rank of the fit); see whitening.pca_whitening.
    """
    whitening, record = pca_whitening(axes_of(source, fit), components)
    return Fitted(Whitened(whitening), record["components"], record)


def sphere(source: Source, fit: str, per: str, method: str, epsilon: float | str) -> Fitted:
    """Divide by sqrt(variance + epsilon) along the principal axes of the fit; see whitening.sphering.

    per plate: each plate by its own fit (ZCA and ZCA-cor alone: only those come back to features that plates share);
    features constant over the fit of any plate are dropped, epsilon, shrinkage, rank and explained_variance are lists.
    """
    correlation = method.endswith("-cor")
    if per == GROUP:
        whitening, record = sphering(axes_of(source, fit, correlation), method, epsilon)
        return Fitted(Whitened(whitening), record["components"], record)
    source.wells.needs_two(fit, per, "sphere")
    still = per_plate(source, fit, _constant)
    keep = ~np.any(list(still.values()), axis=0)

    def of(name: str, values: Floats) -> tuple[Whitening, dict[str, Any]]:
        return sphering(principal_axes(values[:, keep], correlation, f"plate {name}"), method, epsilon)

    made = per_plate(source, fit, of)
    records = [record for _, record in made.values()]
    lists: dict[str, Any] = {
        key: [record[key] for record in records]
        for key in ("epsilon", "shrinkage", "rank", "explained_variance")
        if key in records[0]
    }
    record = {**records[0], **lists, "dropped": int((~keep).sum()), "plates": len(records)}
    by_plate = {name: whitening for name, (whitening, _) in made.items()}
    return Fitted(SpheredByPlate(keep, by_plate), int(keep.sum()), record)


def variance_threshold(source: Source, fit: str, threshold: float) -> Fitted:
    """Keep the features whose population variance over the fit is above `threshold`: VarianceThreshold."""
    _, variance, n = mean_and_variance(source, fit)
    keep = variance > threshold
    if not keep.any():
        raise DataError(
            f"{source.wells.where()}: no feature varies by more than {threshold:g} over the {n} wells of the fit"
        )
    kept = int(keep.sum())
    return Fitted(Kept(keep), kept, {"threshold": threshold, "dropped": len(keep) - kept})


def tvn(source: Source, fit: str, components: int, regularisation: float) -> Fitted:
    """Typical variation normalisation (Ando, McLean & Berndl 2017): standardise, PCA whitening, then CORAL per batch.

    The first two are fitted on all batches together, so that along each axis a typical control varies by 1; see
    alignment.coral for the third. A batch is a plate unless the caller gave batches.
    """
    standard = standardise(source, fit, GROUP, "tvn")
    source = source.through(standard.apply, standard.width)
    whitened = pca_whiten(source, fit, components)
    source = source.through(whitened.apply, whitened.width)
    aligned, more = coral(source, fit, regularisation)
    return Fitted(InTurn((standard.apply, whitened.apply, aligned)), whitened.width, {**whitened.record, **more})


def harmonise(source: Source, clusters: int | str, theta: float, iterations: int, seed: int) -> Fitted:
    """Harmony over batches (Korsunsky et al. 2019) by the package harmonypy; see alignment.harmony.

    It has no fit that could be applied to other wells: all wells given take part, negatives included, and are held at once.
    """
    x = np.concatenate(list(source.map(_as_it_is)))
    rows = np.concatenate(list(source.map(_row_numbers)))
    corrected, record = harmony(x, source.wells.at(rows).batch, clusters, theta, iterations, seed)
    ordered = np.empty_like(corrected)
    ordered[rows] = corrected
    return Fitted(Replaced(ordered), corrected.shape[1], record)


def _as_it_is(x: Floats, wells: Wells) -> Floats:
    return x


def _row_numbers(x: Floats, wells: Wells) -> Ints:
    return wells.row


def _centre_and_scale(name: str, values: Floats) -> tuple[Floats, Floats, Bools]:
    return centre_and_scale(values)


def _constant(name: str, values: Floats) -> Bools:
    return centre_and_scale(values)[2]


_FIT = Parameter("controls", words=("controls", "all"))
_PER = Parameter(GROUP, words=(GROUP, PLATE))
_COMPONENTS = Parameter(PUBLISHED_COMPONENTS, least=1, whole=True)

STEPS: dict[str, tuple[Callable[..., Fitted], dict[str, Parameter]]] = {
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
