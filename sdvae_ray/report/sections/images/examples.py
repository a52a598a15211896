"""Originals and their reconstructions: pictures of a few fields of view, or the reason why they are missing."""

from dataclasses import dataclass

from sdvae_ray.errors import SdvaeRayError
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Section, Side
from sdvae_ray.report.pictures.choice import Choice, choose
from sdvae_ray.report.pictures.draw import GAIN, HIGH, LOW, Pictures, scale_bar
from sdvae_ray.report.pictures.examples import Example, Examples, load_examples


@dataclass(frozen=True)
class Gallery:
    """One field of view.

    where    its name and the number of the patch
    choice   its treatment, and why it was chosen
    sides    pictures of a side, or the reason for none; the originals come first
    leading  the number, in `sides`, of the side to look at first: one that loses the compound, or else the one that changes the
             patch most; None if no side changes it
    stain    the number of the stain that this side changes most
    """

    where: str
    choice: Choice
    sides: list[tuple[Side, Pictures | str]]
    leading: int | None
    stain: int


@dataclass(frozen=True)
class GalleryPage:
    """All galleries, the names of the stains, pixels of a picture's side, and words and length of the scale bar (a share)."""

    galleries: list[Gallery]
    stains: tuple[str, ...]
    crop: int
    bar: tuple[str, float]


def section(scored: ScoredRun) -> Section:
    """Return the section. content: a GalleryPage."""
    examples, image = _load(scored), scored.config.image
    patch, crop, lead = image.patch, examples.crop, ""
    if examples.shown:
        part = "all" if crop == patch else f"the central {crop} × {crop} of its"
        lead = (
            f"One patch of each field, chosen by hash among those that are not nearly empty; {part} {patch} × {patch} pixels. "
            f"Every stain is stretched from the {LOW:g} to the {HIGH:g} percentile of the original's patch, and every "
            "reconstruction by those same constants. The difference is signed: blue where the reconstruction is darker, red where "
            f"it is brighter, full colour at 1/{GAIN} of that range. SSIM and PSNR are of the whole patch, as stored in the run."
        )
    return Section(
        "examples",
        "What does it look like?",
        "Pictures",
        lead=lead,
        reasons=examples.notes,
        template="examples.html",
        content=GalleryPage(
            [_gallery(scored, example) for example in examples.shown],
            image.stains,
            crop,
            scale_bar(max(1, crop), scored.pixel_micrometres),
        ),
    )


def _load(scored: ScoredRun) -> Examples:
    if scored.usable.height == 0:
        return Examples([], 0, ["No pictures: there is no usable field of view."])
    try:
        return load_examples(scored, choose(scored))
    except (SdvaeRayError, OSError) as error:
        return Examples([], 0, [f"No pictures: {error}"])


def _gallery(scored: ScoredRun, example: Example) -> Gallery:
    where = f"{example.choice.fov_id}, patch {example.patch + 1} of {example.patches}"
    sides = [(scored.side(side), pictures) for side, pictures in example.sides.items()]
    damage = {
        name: pictures.damage
        for name, pictures in example.sides.items()
        if not isinstance(pictures, str) and not pictures.exact
    }
    leading, stain = None, 0
    if damage:
        most = max(damage, key=lambda name: sum(damage[name]))
        name = example.choice.side if example.choice.side in damage else most
        leading, stain = 1 + list(example.sides).index(name), damage[name].index(max(damage[name]))
    return Gallery(where, example.choice, [(Side("original", 0), example.original), *sides], leading, stain)
