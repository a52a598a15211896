"""Distances between the image side and another side, by name, from what merges: moments and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TypeVar

from sdvae_ray.distributions.fid import Moments, frechet_distance
from sdvae_ray.distributions.kernel import cmmd, kid
from sdvae_ray.distributions.prdc import prdc
from sdvae_ray.distributions.sample import Sample
from sdvae_ray.errors import ConfigError, DataError, did_you_mean

T = TypeVar("T", Moments, Sample)

# what a run file asks for -> the numbers that it gives
DISTANCES: dict[str, tuple[str, ...]] = {
    "fid": ("fid",),
    "kid": ("kid",),
    "cmmd": ("cmmd",),
    "prdc": ("precision", "recall", "density", "coverage"),
}


def check_distances(which: Sequence[str]) -> None:
    """Raises ConfigError for a name that is not in DISTANCES."""
    for name in which:
        if name not in DISTANCES:
            raise ConfigError(f"no distance {name!r} between sides{did_you_mean(name, DISTANCES)}")


def compare(
    image: Moments | None,
    side: Moments | None,
    image_sample: Sample | None,
    side_sample: Sample | None,
    which: Sequence[str],
    neighbours: int = 5,
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return the numbers of the distances in `which`, and a reason for each that is None.

    fid takes the moments, over all vectors; the others the samples: kid is the unbiased estimate over the whole sample (no
    subsets, not paired), cmmd has sigma 10 and scale 1000, precision to coverage have the image side as the real one. None:
    no moments or sample, or too few vectors, or, for cmmd, a vector of zeros. Raises ConfigError for an unknown name or
    neighbours < 1, DataError where the sides have vectors of different lengths.

    A side holds the image side's own patches again, so a faithful one has a kid just below 0; see `kid`.
    """
    check_distances(which)
    if neighbours < 1:
        raise ConfigError(f"neighbours must be at least 1, not {neighbours}")
    if image is not None and side is not None:
        _check_widths(image.shift.size, side.shift.size)
    if image_sample is not None and side_sample is not None:
        _check_widths(image_sample.values.shape[1], side_sample.values.shape[1])
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name in which:
        try:
            if name == "fid":
                values["fid"] = frechet_distance(*_both(image, side, "moments"))
            else:
                values.update(_of_samples(name, *_both(image_sample, side_sample, "sample"), neighbours))
        except DataError as error:
            values.update(dict.fromkeys(DISTANCES[name]))
            reasons.update(dict.fromkeys(DISTANCES[name], str(error)))
    return values, reasons


def _of_samples(name: str, image: Sample, side: Sample, neighbours: int) -> dict[str, float]:
    if name == "prdc":
        return asdict(prdc(image.values, side.values, neighbours))
    return {name: (kid if name == "kid" else cmmd)(image.values, side.values)}


def _both(image: T | None, side: T | None, what: str) -> tuple[T, T]:
    if image is None or side is None:
        raise DataError(f"no {what} of the {'image' if image is None else 'other'} side")
    return image, side


def _check_widths(image: int, side: int) -> None:
    if image != side:
        raise DataError(f"vectors of {image} and {side} features cannot be compared")
