"""Sections of the report that are pictures: originals beside reconstructions, comparisons, distributions."""

from collections.abc import Sequence

import polars as pl

from sdvae_ray.config import RunConfig
from sdvae_ray.report.facts.findings import label, number
from sdvae_ray.report.facts.outcome import Retrieval
from sdvae_ray.report.page import charts, figures
from sdvae_ray.report.page.charts import Chart
from sdvae_ray.report.page.markup import WHY, bullets, esc, note, paragraph, picture, row, row_head, section, swatch
from sdvae_ray.report.page.sections import named
from sdvae_ray.report.pictures.draw import GAIN, HIGH, LOW, Pictures
from sdvae_ray.report.pictures.examples import Example, Examples
from sdvae_ray.run.scores import Scores


def examples_section(config: RunConfig, examples: Examples) -> str:
    parts = []
    if examples.shown:
        patch, crop = config.image.patch, examples.crop
        part = (
            f"all {patch} × {patch} pixels"
            if crop == patch
            else f"the central {crop} × {crop} of its {patch} × {patch} pixels"
        )
        parts.append(
            paragraph(
                f"One patch of each field, chosen by hash and not by looks; {part}. Every stain is stretched from the {LOW:g} to "
                f"the {HIGH:g} percentile of the original's patch, and every reconstruction by those same constants; |difference| "
                f"is {GAIN} times brighter. SSIM and PSNR are of the whole patch, as stored in the run."
            )
        )
    parts += [_example(config, example, examples.crop) for example in examples.shown]
    return section("examples", "Originals beside reconstructions", *parts, bullets(examples.notes))


def _example(config: RunConfig, example: Example, crop: int) -> str:
    stains = config.image.stains
    where = f"{example.choice.fov_id}, patch {example.patch + 1} of {config.image.patches}"
    heads = "".join(f'<th scope="col">{esc(name)}</th>' for name in ("composite", *stains))
    original = _images(config, example.original, crop, f"original of {where}")
    rows = [row([row_head(f"{swatch(0)}original"), *original])]
    for side, found in example.sides.items():
        rows += _side_rows(config, side, found, crop, where)
    return (
        f'<figure class="example"><figcaption>{esc(example.choice.what or "field")} '
        f"<span>{esc(where)}: {esc(example.choice.why)}</span></figcaption>"
        '<div class="scroll"><table class="pictures"><colgroup><col class="names"></colgroup>'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></figure>"
    )


def _side_rows(config: RunConfig, side: str, found: Pictures | str, crop: int, where: str) -> list[str]:
    """Reconstruction and difference; one row of words where there is nothing, or nothing different, to see."""
    stains = config.image.stains
    if isinstance(found, str) or found.exact:
        words = found if isinstance(found, str) else "the same as the original in every pixel"
        reason = f'<td class="{WHY}" colspan="{len(stains) + 1}">{esc(words)}</td>'
        return [row([row_head(named(config, side)), reason], "side")]
    name = row_head(f"{named(config, side)}<small>{esc(found.how)}</small>")
    images = _images(config, found, crop, f"{label(config, side)} of {where}")
    alts = (f"absolute difference in {stain}, {label(config, side)} of {where}" for stain in stains)
    shown = zip(alts, found.differences, strict=True)
    differences = "".join(f"<td>{picture(png, crop, alt)}</td>" for alt, png in shown)
    return [row([name, *images], "side"), row([row_head("<small>|difference|</small>"), "<td></td>", differences])]


def _images(config: RunConfig, found: Pictures, crop: int, what: str) -> list[str]:
    cells = [f"<td>{picture(found.composite, crop, f'colour composite, {what}')}</td>"]
    for at, (stain, png) in enumerate(zip(config.image.stains, found.stains, strict=True)):
        known = found.captions[at] if found.captions else {}
        said = [f"SSIM {number(known['ssim'], 3)}"] if "ssim" in known else []
        said += [f"{number(known['psnr'], 1)} dB"] if "psnr" in known else []
        cells.append(f"<td>{picture(png, crop, f'{stain}, {what}')}{esc(' · '.join(said))}</td>")
    return cells


def comparison_section(config: RunConfig, scores: Scores, rows: Sequence[Retrieval]) -> str:
    title = "Originals against reconstructions"
    fractions = charts.fraction_chart(config, rows)
    if not fractions:
        return section("fr", title, paragraph("No compound was scored, so there is nothing to compare."))
    names = "".join(f"<li>{named(config, side)}</li>" for side in config.sides)
    parts = [
        f'<ul class="legend"><li>{swatch(0)}originals</li>{names}</ul>',
        f'<figure><div class="scroll">{fractions}</div></figure>',
        note("At the right: compounds retrieved of compounds scored, from the originals → from the reconstruction."),
    ]
    if found := charts.map_charts(config, scores):
        kinds = "".join(f"<li>{figures.key(kind)}{esc(words)}</li>" for kind, words in figures.KINDS.items())
        what = "Each mark is a compound. On the dashed line its mAP is the same on both sides; below it the reconstruction loses."
        parts += [
            "<h3>Compound by compound</h3>",
            paragraph(what),
            f'<ul class="legend">{kinds}</ul>',
            chart_grid(found, "small"),
        ]
    return section("fr", title, *parts)


def distributions_section(config: RunConfig, usable: pl.DataFrame, drawn: Sequence[Chart], sides: Sequence[str]) -> str:
    if not drawn:
        return ""
    shown = charts.sampled(config, usable).height
    of = f" of {usable.height:,}" if shown < usable.height else ""
    what = f"Every patch of {shown:,}{of} usable fields: dot, the median; thick bar, the middle half; thin line, 5 to 95\u00a0%."
    legend = f'<ul class="legend">{"".join(f"<li>{named(config, side)}</li>" for side in sides)}</ul>'
    return section("distributions", "Metrics per stain", paragraph(what), legend, chart_grid(drawn))


def chart_grid(drawn: Sequence[Chart], kind: str = "") -> str:
    body = "".join(
        f"<figure><figcaption>{esc(each.title)} <span>{esc(each.more)}</span></figcaption>{each.svg}</figure>"
        for each in drawn
    )
    return f'<div class="charts {kind}">{body}</div>'
