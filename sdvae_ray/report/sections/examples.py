"""Originals beside reconstructions: pictures of a few fields of view, or why there are none."""

from collections.abc import Mapping
from dataclasses import dataclass

from sdvae_ray.errors import SdvaeRayError
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Section, Side, number
from sdvae_ray.report.pictures.choice import choose
from sdvae_ray.report.pictures.draw import GAIN, HIGH, LOW, Pictures
from sdvae_ray.report.pictures.examples import Example, Examples, load_examples


@dataclass(frozen=True)
class Picture:
    """A PNG, its text for a screen reader, and what is said below it."""

    png: bytes
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Line:
    """One row of pictures of a side; `reason`: why there are none. `differences`: a second row below."""

    side: Side
    how: str
    pictures: list[Picture]
    differences: list[Picture]
    reason: str


@dataclass(frozen=True)
class Gallery:
    """The pictures of one field of view: what it is, where and why it was chosen, and a line per side."""

    title: str
    where: str
    columns: list[str]
    lines: list[Line]
    size: int  # pixels


def section(scored: ScoredRun) -> Section:
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
        content=[_gallery(scored, example, crop) for example in examples.shown],
    )


def _load(scored: ScoredRun) -> Examples:
    if scored.usable.height == 0:
        return Examples([], 0, ["No pictures: there is no usable field of view."])
    try:
        return load_examples(scored, choose(scored))
    except (SdvaeRayError, OSError) as error:
        return Examples([], 0, [f"No pictures: {error}"])


def _gallery(scored: ScoredRun, example: Example, crop: int) -> Gallery:
    stains, choice = scored.config.image.stains, example.choice
    where = f"{choice.fov_id}, patch {example.patch + 1} of {scored.config.image.patches}"
    original = Side("original", 0)
    lines = [_line(stains, original, example.original, where)]
    lines += [_line(stains, scored.side(side), pictures, where) for side, pictures in example.sides.items()]
    return Gallery(choice.what or "field", f"{where}: {choice.why}", ["composite", *stains], lines, crop)


def _line(stains: tuple[str, ...], side: Side, pictures: Pictures | str, where: str) -> Line:
    """A reason in place of pictures where there is nothing, or nothing different, to see."""
    if isinstance(pictures, str) or pictures.exact:
        reason = pictures if isinstance(pictures, str) else "the same as the original in every pixel"
        return Line(side, "", [], [], reason)
    alt = f"{side.text} of {where}"
    captions = pictures.captions or [{} for _ in stains]
    shown = [Picture(pictures.composite, f"colour composite, {alt}")]
    for stain, png, known in zip(stains, pictures.stains, captions, strict=True):
        shown.append(Picture(png, f"{stain}, {alt}", _caption(known)))
    differences = [
        Picture(png, f"absolute difference in {stain}, {alt}")
        for stain, png in zip(stains, pictures.differences, strict=bool(pictures.differences))
    ]
    return Line(side, pictures.how, shown, differences, "")


def _caption(known: Mapping[str, float]) -> str:
    words = [f"SSIM {number(known['ssim'], 3)}"] if "ssim" in known else []
    return " · ".join(words + ([f"{number(known['psnr'], 1)} dB"] if "psnr" in known else []))
