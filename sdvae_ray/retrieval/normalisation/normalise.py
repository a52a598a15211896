"""Normalise the well profiles of one group (one cell line and time) by a list of named steps, in any order.

Arrays in, arrays out: every step is fitted on the wells that the caller marks as controls (or on all, if asked) and
applied to all wells. The decisions of a step (components kept, features dropped) are returned with the profiles. The
steps are the files of retrieval/normalisation/steps; nothing here scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.errors import ConfigError, DataError, did_you_mean
from sdvae_ray.retrieval.normalisation.contract import Chain
from sdvae_ray.retrieval.normalisation.shelf import ResolvedStep, checked_options, find_step
from sdvae_ray.retrieval.normalisation.source import HeldProfiles, ProfileSource, gathered
from sdvae_ray.retrieval.normalisation.wells import Wells, require_finite

Step = str | Mapping[str, Any]

_WHITEN: list[Step] = [  # Cropsal & Mercado 2025, arXiv 2510.19887, released code
    {"pca_whiten": {"components": 256}},
    {"variance_threshold": {"threshold": 1e-6}},
    "plate_standardise",
]
NORMALISATIONS: dict[str, list[Step]] = {
    "published": ["standardise", *_WHITEN],
    "published_float16": [
        {"standardise": {"precision": "float16"}},
        *_WHITEN,
    ],  # to the letter: their scaler gets float16
    "plate_standardise": ["plate_standardise"],
    "none": [],
}


@dataclass(frozen=True)
class Normalised:
    """Normalised profiles and the decisions of every step.

    features  (W, D') float64, or float32 if there were too many profiles to hold; rows in the order given
    record    one JSON-ready mapping per step, in order: `step`, `fit_wells`, `features` (D' after the step), its options
              and its decisions
    chain     the fitted maps, to be applied in order. Applied to the given profiles they give `features`; they also
              normalise another well of a plate of the fit
    """

    features: NDArray[np.floating]
    record: list[dict[str, Any]]
    chain: Chain = ()


def normalise(
    features: ArrayLike,
    is_control: ArrayLike,
    plate: ArrayLike,
    steps: str | Sequence[Step] = "published",
    *,
    batch: ArrayLike | None = None,
    fittable: ArrayLike | None = None,
    position: ArrayLike | None = None,
) -> Normalised:
    """Return the profiles of one group normalised by `steps` in order.

    features: (W, D) finite numbers, cast to float64. is_control: (W,) bool, the wells that steps are fitted on (pass half of
    the controls to fit on half). plate: (W,) text. steps: the name of a preset in NORMALISATIONS, or a list; an item is a
    step's name, or a mapping of one step's name to its parameters. batch: (W,) text, the batches that tvn and harmony align;
    None: the plates. fittable: (W,) bool, the wells that a step with `fit: all` is fitted on; None: all wells. All wells
    include the negatives, which then have had a part in the space that they are compared in. position: (W,) text, the names of the
    wells on their plates, such as A01; None: not known.

    Raises ConfigError for an unknown preset, step or parameter; DataError for features that are not finite, for arrays of other
    lengths, for a group with fewer than two wells to fit on, and for a plate or batch with fewer than two in a step that is
    fitted per plate or batch.
    """
    resolved = resolve_steps(steps)
    x = np.array(features, dtype=np.float64, ndmin=2)
    control = np.asarray(is_control, dtype=bool)
    plates = np.asarray(plate).astype(str)
    batches = plates if batch is None else np.asarray(batch).astype(str)
    among = np.ones(len(x), dtype=bool) if fittable is None else np.asarray(fittable, dtype=bool)
    at = np.full(len(x), "") if position is None else np.asarray(position).astype(str)
    columns = {"control flags": control, "plates": plates, "batches": batches, "flags of fittable wells": among}
    columns["positions"] = at
    for content, column in columns.items():
        if column.shape != (len(x),):
            raise DataError(f"{len(x)} profiles came with {column.size} {content}")
    require_finite(x, plates)
    return fit_steps(HeldProfiles(x, Wells(control, among, plates, batches, np.arange(len(x)), at)), resolved)


def fit_steps(source: ProfileSource, steps: Sequence[ResolvedStep]) -> Normalised:
    """Return the normalised profiles of a source. steps: as resolve_steps returns them. Raises DataError for too few wells to fit
    on, as `normalise` does. Features that are not finite are not noticed here: the reader of the source refuses them."""
    wells = source.wells
    for name, options in steps:
        if "fit" in options:
            wells.require_two(name, options["fit"], options.get("per", getattr(find_step(name), "PER", "group")))
    record: list[dict[str, Any]] = []
    chain: Chain = ()
    for name, options in steps:
        fitted = find_step(name).fit_to(source, **options)
        source = source.through(fitted.chain)
        chain += fitted.chain
        count = int(wells.in_fit(options["fit"]).sum()) if "fit" in options else len(wells.row)
        scope: dict[str, Any] = {key: options[key] for key in ("fit", "per") if key in options}
        record.append({"step": name, **scope, "fit_wells": count, "features": source.width, **fitted.record})
    features = source.x if isinstance(source, HeldProfiles) else gathered(source, np.float32)
    return Normalised(features, record, chain)


def resolve_steps(steps: str | Sequence[Step]) -> list[ResolvedStep]:
    """Return (name, all parameters) of every step. No data is read, so a run can be checked early.

    Raises ConfigError, with the nearest match, for an unknown preset, step or parameter and for a value out of range; and for a
    step whose package is not installed.
    """
    if isinstance(steps, str):
        if steps not in NORMALISATIONS:
            raise ConfigError(f"unknown normalisation {steps!r}{did_you_mean(steps, NORMALISATIONS)}")
        steps = NORMALISATIONS[steps]
    resolved: list[ResolvedStep] = []
    for step in steps:
        named = {step: {}} if isinstance(step, str) else step
        if not isinstance(named, Mapping) or len(named) != 1:
            raise ConfigError(f"normalisation step {step!r}: write a step's name, or one name with its parameters")
        resolved += [(name, checked_options(name, given)) for name, given in named.items()]
    return resolved
