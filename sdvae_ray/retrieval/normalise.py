"""Normalise the well profiles of one group (one cell line and time) by a list of named steps.

Arrays in, arrays out: every step is fitted on the wells that the caller marks as controls and applied to all wells.
What a step decided (components kept, features dropped) is returned beside the profiles. Nothing here scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.errors import ConfigError, DataError, did_you_mean

Floats = NDArray[np.float64]
Step = str | Mapping[str, Any]

# The authors' values (Cropsal & Mercado 2025, arXiv 2510.19887, released code); nowhere else in the package.
PUBLISHED_COMPONENTS = 256
PUBLISHED_VARIANCE = 1e-6

NORMALISATIONS: dict[str, list[Step]] = {
    "published": [
        "standardise",
        {"pca_whiten": {"components": PUBLISHED_COMPONENTS}},
        {"variance_threshold": {"threshold": PUBLISHED_VARIANCE}},
        "plate_standardise",
    ],
    "plate_standardise": ["plate_standardise"],
    "none": [],
}


@dataclass(frozen=True)
class Normalised:
    """Normalised profiles and what each step did.

    features: (W, D') float64, rows in the order given. record: one JSON-ready mapping per step, in order, with at
    least `step` and `fit_wells`.
    """

    features: Floats
    record: list[dict[str, Any]]


def normalise(
    features: ArrayLike, is_control: ArrayLike, plate: ArrayLike, steps: str | Sequence[Step] = "published"
) -> Normalised:
    """Apply `steps` in order to the profiles of one group.

    features: (W, D) finite numbers, cast to float64. is_control: (W,) bool, the wells every step is fitted on (pass
    half of the controls to fit on half). plate: (W,) text. steps: the name of a preset in NORMALISATIONS, or a list
    whose items are a step's name or a one-key mapping of a step's name to its parameters.

    Raises ConfigError for an unknown preset, step or parameter; DataError for features that are not finite, for a
    group with fewer than two controls, and, in plate_standardise, for a plate with fewer than two.
    """
    resolved = resolve_steps(steps)
    x = np.array(features, dtype=np.float64, ndmin=2)
    control = np.asarray(is_control, dtype=bool)
    plates = np.asarray(plate).astype(str)
    if control.shape != (len(x),) or plates.shape != (len(x),):
        raise DataError(f"{len(x)} profiles came with {control.size} control flags and {plates.size} plates")
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise DataError(
            f"plate {plates[bad][0]}: {int((bad & (plates == plates[bad][0])).sum())} wells have features that are "
            "not finite; every feature must be a finite number"
        )
    if resolved and control.sum() < 2:
        raise DataError(
            f"plates {', '.join(np.unique(plates)[:4])}: {int(control.sum())} control wells in this group; "
            "normalisation needs at least 2"
        )
    record: list[dict[str, Any]] = []
    for name, parameters in resolved:
        x, made = _STEPS[name](x, control, plates, **parameters)
        record.append({"step": name, "fit_wells": int(control.sum()), "features": x.shape[1], **made})
    return Normalised(x, record)


def resolve_steps(steps: str | Sequence[Step]) -> list[tuple[str, dict[str, Any]]]:
    """Return `steps` as (name, all parameters) pairs without touching data, so that a run can be checked early.

    Raises ConfigError, naming the nearest match, for an unknown preset, step or parameter, or a value out of range.
    """
    if isinstance(steps, str):
        if steps not in NORMALISATIONS:
            raise ConfigError(f"unknown normalisation {steps!r}{did_you_mean(steps, NORMALISATIONS)}")
        steps = NORMALISATIONS[steps]
    resolved: list[tuple[str, dict[str, Any]]] = []
    for step in steps:
        if isinstance(step, str):
            name, given = step, dict[str, Any]()
        elif isinstance(step, Mapping) and len(step) == 1:
            name, given = next(iter(step.items()))
        else:
            raise ConfigError(f"normalisation step {step!r}: write a step's name, or one name with its parameters")
        if name not in _STEPS:
            raise ConfigError(f"unknown normalisation step {name!r}{did_you_mean(str(name), _STEPS)}")
        if not isinstance(given, Mapping):
            raise ConfigError(f"normalisation step {name}: parameters must be a mapping, not {given!r}")
        parameters = dict(_DEFAULTS[name])
        for key, value in given.items():
            if key not in parameters:
                raise ConfigError(f"unknown parameter {key!r} of {name}{did_you_mean(str(key), parameters)}")
            parameters[key] = _checked(name, key, value)
        resolved.append((name, parameters))
    return resolved


def _checked(step: str, key: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"normalisation step {step}: {key} must be a number, not {value!r}")
    if key == "components" and (not isinstance(value, int) or value < 1):
        raise ConfigError(f"normalisation step {step}: components must be a whole number of at least 1, not {value!r}")
    if key == "threshold" and not 0 <= value < float("inf"):
        raise ConfigError(f"normalisation step {step}: threshold must be at least 0, not {value!r}")
    return value


def _centre_and_scale(fit: Floats) -> tuple[Floats, Floats]:
    """Return the mean and the population standard deviation of each column, 1 where the column is constant.

    scikit-learn's rule (StandardScaler, `_is_constant_feature`): a column is constant when its variance is within the
    rounding error of its mean. Dividing by 1 leaves such a column centred: 0 on the wells of the fit.
    """
    mean, variance, n = fit.mean(axis=0), fit.var(axis=0), len(fit)
    eps = np.finfo(np.float64).eps
    constant = variance <= n * eps * variance + (n * mean * eps) ** 2
    return mean, np.where(constant, 1.0, np.sqrt(variance))


def _standardise(x: Floats, control: NDArray[np.bool_], plates: NDArray[np.str_]) -> tuple[Floats, dict[str, Any]]:
    """(x - mean) / population sd of all controls, per feature: StandardScaler fitted on the controls."""
    mean, scale = _centre_and_scale(x[control])
    return (x - mean) / scale, {}


def _pca_whiten(
    x: Floats, control: NDArray[np.bool_], plates: NDArray[np.str_], components: int
) -> tuple[Floats, dict[str, Any]]:
    """Project on the controls' first k principal axes, each divided by its sample sd: PCA(k, whiten=True).

    k = min(components, controls - 1, D, rank of the controls): an axis along which the controls differ by rounding
    error alone is no axis of the data, and dividing by it would blow up every other well.
    """
    fit = x[control]
    mean = fit.mean(axis=0)
    _, singular, axes = np.linalg.svd(fit - mean, full_matrices=False)
    rank = int((singular > max(fit.shape) * np.finfo(np.float64).eps * singular.max(initial=0.0)).sum())
    k = min(components, len(fit) - 1, x.shape[1], rank)
    if k < 1:
        raise DataError(
            f"plates {', '.join(np.unique(plates)[:4])}: the {len(fit)} control wells have identical profiles; "
            "pca_whiten needs controls that differ"
        )
    axes, singular = axes[:k], singular[:k]
    largest = axes[np.arange(k), np.abs(axes).argmax(axis=1)]
    axes = axes * np.sign(largest)[:, None]  # scikit-learn's convention: the sign is no accident of LAPACK
    whitened = (x - mean) @ axes.T / (singular / np.sqrt(len(fit) - 1))
    kept = float((singular**2).sum() / ((fit - mean) ** 2).sum())
    return whitened, {"components": k, "asked": components, "rank": rank, "explained_variance": kept}


def _variance_threshold(
    x: Floats, control: NDArray[np.bool_], plates: NDArray[np.str_], threshold: float
) -> tuple[Floats, dict[str, Any]]:
    """Keep the features whose population variance over the controls is above `threshold`: VarianceThreshold."""
    keep = x[control].var(axis=0) > threshold
    if not keep.any():
        raise DataError(
            f"plates {', '.join(np.unique(plates)[:4])}: no feature varies by more than {threshold:g} over the "
            f"{int(control.sum())} control wells"
        )
    return x[:, keep], {"threshold": threshold, "dropped": int((~keep).sum())}


def _plate_standardise(
    x: Floats, control: NDArray[np.bool_], plates: NDArray[np.str_]
) -> tuple[Floats, dict[str, Any]]:
    """Per plate, (x - mean) / population sd of that plate's controls; a feature constant there is only centred."""
    out = np.empty_like(x)
    names = np.unique(plates)
    for name in names:
        on = plates == name
        fit = x[on & control]
        if len(fit) < 2:
            raise DataError(f"plate {name}: {len(fit)} control wells; plate_standardise needs at least 2 on each plate")
        mean, scale = _centre_and_scale(fit)
        out[on] = (x[on] - mean) / scale
    return out, {"plates": len(names)}


_STEPS: dict[str, Callable[..., tuple[Floats, dict[str, Any]]]] = {
    "standardise": _standardise,
    "pca_whiten": _pca_whiten,
    "variance_threshold": _variance_threshold,
    "plate_standardise": _plate_standardise,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "standardise": {},
    "pca_whiten": {"components": PUBLISHED_COMPONENTS},
    "variance_threshold": {"threshold": PUBLISHED_VARIANCE},
    "plate_standardise": {},
}
