"""Distances between the image side and another side, by name, from statistics that merge: moments and samples."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from sdvae_ray.distributions._matrices import check_lengths
from sdvae_ray.distributions.fid import Moments, frechet_distance
from sdvae_ray.distributions.kernel import cmmd, kid
from sdvae_ray.distributions.prdc import prdc
from sdvae_ray.distributions.sample import Sample
from sdvae_ray.errors import ConfigError, DataError, did_you_mean

T = TypeVar("T", Moments, Sample)

# name in a run file -> the numbers that it gives
DISTANCES: dict[str, tuple[str, ...]] = {
    "fid": ("fid",),
    "kid": ("kid",),
    "cmmd": ("cmmd",),
    "prdc": ("precision", "recall", "density", "coverage"),
}


@dataclass(frozen=True)
class Facts:
    """What a number of DISTANCES is: its formula, its range, which direction is better, and where it is from."""

    formula: str
    range: str
    higher_is_better: bool
    reference: str


_NEAR = "share of {} in the ball of any patch of {}; a ball reaches to the k-th neighbour in its own set"
FACTS: dict[str, Facts] = {
    "fid": Facts(
        "|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)), means and covariances of the patches' vectors",
        "[0, inf)",
        False,
        "Dowson & Landau 1982; Heusel et al. 2017",
    ),
    "kid": Facts(
        "MMD^2 of the kernel (a.b / D + 1)^3, unbiased; below 0 where both sets are alike",
        "(-inf, inf)",
        False,
        "Binkowski et al. 2018",
    ),
    "kid_paired": Facts(
        "kid without the pairs of a patch with itself: 0 of a side that changes nothing",
        "(-inf, inf)",
        False,
        "Gretton et al. 2012, equation 4",
    ),
    "cmmd": Facts(
        "1000 MMD^2 of the kernel exp(-|a - b|^2 / (2 sigma^2)), sigma 10, of vectors of unit length",
        "[0, inf)",
        False,
        "Jayasumana et al. 2024",
    ),
    "precision": Facts(_NEAR.format("the side's patches", "the originals"), "[0, 1]", True, "Kynkaanniemi et al. 2019"),
    "recall": Facts(_NEAR.format("the originals' patches", "the side"), "[0, 1]", True, "Kynkaanniemi et al. 2019"),
    "density": Facts(
        "mean over the side's patches of the originals' balls that hold it, over k; near 1 of equal distributions",
        "[0, n / k]",
        True,
        "Naeem et al. 2020",
    ),
    "coverage": Facts(
        "share of the originals' balls that hold a patch of the side", "[0, 1]", True, "Naeem et al. 2020"
    ),
}


def check_distances(which: Sequence[str]) -> None:
    """Raise ConfigError for a name that is not in DISTANCES."""
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
    """Return name -> number for the distances in `which`, and name -> reason for every number that is None.

    fid takes the moments, of all vectors. kid, cmmd and prdc take the samples: kid is the unbiased estimate over the whole sample
    (no subsets, not paired), cmmd has sigma 10 and scale 1000, and precision to coverage take the image side as the real set. A
    number is None if its moments or its sample are missing, if a side has too few vectors, or, for cmmd, if a vector is zero. The
    vectors of both sides come from the same patches, so the kid of a faithful side is just below 0; see `kid`. Raises ConfigError
    for an unknown name or neighbours < 1, DataError if the sides have vectors of different lengths.
    """
    check_distances(which)
    if neighbours < 1:
        raise ConfigError(f"neighbours must be at least 1, not {neighbours}")
    if image is not None and side is not None:
        check_lengths(image.shift.size, side.shift.size)
    if image_sample is not None and side_sample is not None:
        check_lengths(image_sample.values.shape[1], side_sample.values.shape[1])
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
