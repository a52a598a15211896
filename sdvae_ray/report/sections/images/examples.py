"""Originals and their reconstructions: pictures of a few fields of view, or the reason why they are missing."""

from dataclasses import dataclass

from sdvae_ray.errors import SdvaeRayError
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Section, Side
from sdvae_ray.report.pictures.choice import choose
from sdvae_ray.report.pictures.draw import GAIN, HIGH, LOW, Pictures
from sdvae_ray.report.pictures.examples import Example, Examples, load_examples


@dataclass(frozen=True)
class Gallery:
    """One field of view: its treatment, its place and why it was chosen. sides: pictures of a side, or the reason for none."""

    title: str
    where: str
    why: str
    sides: list[tuple[Side, Pictures | str]]


def section(scored: ScoredRun) -> Section:
    """Return the section. content: a gallery per field of view, the stains, and the size of a picture in pixels."""
    examples, image = _load(scored), scored.config.image
    patch, crop, lead = image.patch, examples.crop, ""
    if examples.shown:
        whole, centre = f"all {patch} × {patch} pixels", f"the central {crop} × {crop} of its {patch} × {patch} pixels"
        lead = (
            f"One patch of each field, chosen by hash and not by looks; {whole if crop == patch else centre}. Every stain is "
            f"stretched from the {LOW:g} to the {HIGH:g} percentile of the original's patch, and every reconstruction by those "
            f"same constants; |difference| is {GAIN} times brighter. SSIM and PSNR are of the whole patch, as stored in the run."
        )
    return Section(
        "examples",
        "Originals beside reconstructions",
        "Pictures",
        lead=lead,
        reasons=examples.notes,
        template="examples.html",
        content=([_gallery(scored, example) for example in examples.shown], image.stains, crop),
    )


def _load(scored: ScoredRun) -> Examples:
    if scored.usable.height == 0:
        return Examples([], 0, ["No pictures: there is no usable field of view."])
    try:
        return load_examples(scored, choose(scored))
    except (SdvaeRayError, OSError) as error:
        return Examples([], 0, [f"No pictures: {error}"])


def _gallery(scored: ScoredRun, example: Example) -> Gallery:
    choice = example.choice
    where = f"{choice.fov_id}, patch {example.patch + 1} of {scored.config.image.patches}"
    sides = [(scored.side(side), pictures) for side, pictures in example.sides.items()]
    return Gallery(choice.what or "field", where, choice.why, [(Side("original", 0), example.original), *sides])
