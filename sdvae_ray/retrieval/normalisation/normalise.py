"""Normalise the well profiles of one group (one cell line and time) by a list of named steps, in any order.

Arrays in, arrays out: every step is fitted on the wells that the caller marks as controls (or on all, where asked) and
applied to all wells. What a step decided (components kept, features dropped) is returned beside the profiles. The steps
are those of retrieval/normalisation/steps.py; nothing here scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.errors import ConfigError, DataError, did_you_mean
from sdvae_ray.retrieval.normalisation.alignment import require_harmony
from sdvae_ray.retrieval.normalisation.source import Apply, Held, Source, Wells
from sdvae_ray.retrieval.normalisation.steps import (
    HARMONISE,
    PUBLISHED_COMPONENTS,
    PUBLISHED_VARIANCE,
    STEPS,
    Parameter,
)

Step = str | Mapping[str, Any]

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

    features: (W, D') float64, or float32 where they were too many to hold before; rows in the order given. record: one
    JSON-ready mapping per step, in order, with at least `step`, `fit_wells` and `features` (D' after it); then what it was
    asked for and what it decided. chain: what each step does, fitted, to profiles of whole plates: applied in order to the
    profiles that came in, it gives these features, and other wells of the same plates their place among them.
    """

    features: NDArray[np.floating]
    record: list[dict[str, Any]]
    chain: tuple[Apply, ...] = ()


def normalise(
    features: ArrayLike,
    is_control: ArrayLike,
    plate: ArrayLike,
    steps: str | Sequence[Step] = "published",
    *,
    batch: ArrayLike | None = None,
    fittable: ArrayLike | None = None,
) -> Normalised:
    """Apply `steps` in order to the profiles of one group.

    features: (W, D) finite numbers, cast to float64. is_control: (W,) bool, the wells that steps are fitted on (pass
    half of the controls to fit on half). plate: (W,) text. steps: the name of a preset in NORMALISATIONS, or a list
    whose items are a step's name or a one-key mapping of a step's name to its parameters. batch: (W,) text, what tvn and
    harmony align; plates if None. fittable: (W,) bool, the wells that a step with `fit: all` is fitted on; every one if
    None: the negatives too, which then have had a part in the space that they are compared in.

    Raises ConfigError for an unknown preset, step or parameter; DataError for features that are not finite, for a
    group with fewer than two wells to fit on, and, in a step fitted per plate or batch, for one with fewer than two.
    """
    resolved = resolve_steps(steps)
    x = np.array(features, dtype=np.float64, ndmin=2)
    control = np.asarray(is_control, dtype=bool)
    plates = np.asarray(plate).astype(str)
    if control.shape != (len(x),) or plates.shape != (len(x),):
        raise DataError(f"{len(x)} profiles came with {control.size} control flags and {plates.size} plates")
    batches = plates if batch is None else np.asarray(batch).astype(str)
    among = np.ones(len(x), dtype=bool) if fittable is None else np.asarray(fittable, dtype=bool)
    if batches.shape != (len(x),) or among.shape != (len(x),):
        raise DataError(f"{len(x)} profiles came with {batches.size} batches and {among.size} flags of fittable wells")
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise DataError(
            f"plate {plates[bad][0]}: {int((bad & (plates == plates[bad][0])).sum())} wells have features that are "
            "not finite; every feature must be a finite number"
        )
    made, record, chain = fitted(Held(x, Wells(control, among, plates, batches, np.arange(len(x)))), resolved)
    return Normalised(made.x, record, chain)


S = TypeVar("S", bound=Source)


def fitted(source: S, steps: Sequence[tuple[str, dict[str, Any]]]) -> tuple[S, list[dict[str, Any]], tuple[Apply, ...]]:
    """Return the source of the normalised profiles, the record and the chain; `steps` as resolve_steps gives them.

    Raises DataError as `normalise` does; a feature that is not finite is the reader's to refuse.
    """
    wells = source.wells
    for _, parameters in steps:
        scope = parameters.get("fit")
        if scope is not None and wells.in_fit(scope).sum() < 2:
            what = "control wells" if scope == "controls" else "wells to fit on"
            raise DataError(
                f"{wells.where()}: {int(wells.in_fit(scope).sum())} {what} in this group; normalisation needs at least 2"
            )
    record: list[dict[str, Any]] = []
    chain: list[Apply] = []
    for name, parameters in steps:
        step = STEPS[name][0](source, **parameters)
        source = source.through(step.apply, step.width)
        chain.append(step.apply)
        scope = parameters.get("fit")
        count = len(wells.row) if scope is None else int(wells.in_fit(scope).sum())
        given: dict[str, Any] = {key: parameters[key] for key in ("fit", "per") if key in parameters}
        record.append({"step": name, **given, "fit_wells": count, "features": step.width, **step.record})
    return source, record, tuple(chain)


def resolve_steps(steps: str | Sequence[Step]) -> list[tuple[str, dict[str, Any]]]:
    """Return `steps` as (name, all parameters) pairs without touching data, so that a run can be checked early.

    Raises ConfigError, naming the nearest match, for an unknown preset, step or parameter, or a value out of range; and
    for a step whose package is not installed.
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
        if name not in STEPS:
            raise ConfigError(f"unknown normalisation step {name!r}{did_you_mean(str(name), STEPS)}")
        if not isinstance(given, Mapping):
            raise ConfigError(f"normalisation step {name}: parameters must be a mapping, not {given!r}")
        known = STEPS[name][1]
        parameters = {key: parameter.default for key, parameter in known.items()}
        for key, value in given.items():
            if key not in known:
                raise ConfigError(f"unknown parameter {key!r} of {name}{did_you_mean(str(key), known)}")
            parameters[key] = _checked(name, key, value, known[key])
        if parameters.get("per") == "plate" and str(parameters.get("method", "")).startswith("PCA"):
            raise ConfigError(
                f"normalisation step {name}: method {parameters['method']} per plate would give every plate axes of its "
                "own; use ZCA or ZCA-cor, or per: group"
            )
        if name == HARMONISE:
            require_harmony()
        resolved.append((name, parameters))
    return resolved


def _checked(step: str, key: str, value: Any, parameter: Parameter) -> Any:
    where = f"normalisation step {step}: {key}"
    if isinstance(value, str) and value in parameter.words:
        return value
    if parameter.least is None:
        raise ConfigError(f"{where} {value!r} is not known{did_you_mean(str(value), parameter.words)}")
    or_word = "".join(f", or {word!r}" for word in parameter.words)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where} must be a number{or_word}, not {value!r}")
    if parameter.whole and (not isinstance(value, int) or value < parameter.least):
        raise ConfigError(f"{where} must be a whole number of at least {parameter.least:g}{or_word}, not {value!r}")
    if not parameter.least <= value < float("inf"):
        raise ConfigError(f"{where} must be a finite number of at least {parameter.least:g}{or_word}, not {value!r}")
    return value
