"""The sections of the report that show what was found: tables, pictures, charts."""

from collections.abc import Sequence

import polars as pl

from sdvae_ray.config import RunConfig
from sdvae_ray.report import charts, figures, findings
from sdvae_ray.report.examples import GAIN, HIGH, LOW, Example, Examples, Pictures
from sdvae_ray.report.findings import NONE, OK, Retrieval, TruthRow, label, number
from sdvae_ray.report.markup import (
    NUMBER,
    WHY,
    bullets,
    cell,
    esc,
    head,
    paragraph,
    picture,
    row,
    row_head,
    section,
    swatch,
    table,
)
from sdvae_ray.scores import Scores
from sdvae_ray.storage import Storage

FAILURES = 200  # rows of the table of failed FOVs


def named(config: RunConfig, side: str) -> str:
    """A side with its colour."""
    return swatch(charts.series(config, side)) + esc(label(config, side))


def metrics_section(config: RunConfig, scores: Scores) -> str:
    cells = findings.metric_cells(config, scores.metrics)
    if not cells:
        return section("metrics", "Reconstruction quality", paragraph("No metrics: no side has a usable field of view."))
    heads = findings.metric_heads(config, scores.metrics)
    rows = [
        row([row_head(named(config, side)), *(cell(found.get(each.name, NONE), NUMBER) for each in heads)])
        for side, found in cells.items()
    ]
    columns = [head("side"), *(head(f"{each.name} {each.arrow}", NUMBER, each.unit) for each in heads)]
    what = "Mean over all patches, then over stains (kld: over RGB passes). ↑ higher is better, ↓ lower is better, – does not apply."
    return section("metrics", "Reconstruction quality", table("", columns, rows), paragraph(what, "muted"))


def retrieval_section(config: RunConfig, scores: Scores, rows: Sequence[Retrieval]) -> str:
    if not rows:
        return section("retrieval", "Retrieval", paragraph("Nothing was scored."))
    recalls = findings.recall_columns(config)
    columns = [
        *(head(name) for name in ("side", "group")),
        *(head(name, NUMBER) for name in ("treated wells", "control wells", "compounds", "mAP ↑", "FR ↑")),
        *(head(f"{name} ↑", NUMBER) for name in recalls.values()),
        head("own well ↑", NUMBER),
        head("FID ↓", NUMBER),
    ]
    tables = []
    for extractor in findings.extractors(config, (each.extractor for each in rows)):
        here = [each for each in rows if each.extractor == extractor]
        body, before = [], here[0].group
        for each in here:
            lead = [row_head(named(config, each.side)), cell(each.group)]
            if each.status == OK:
                cells = [cell(text, NUMBER) for text in each.numbers.values()]
            else:
                cells = [cell(each.numbers["wells"], NUMBER), f'<td class="{WHY}" colspan="{len(columns) - 3}">{esc(each.status)}</td>']
            body.append(row([*lead, *cells], "gap" if each.group != before else ""))
            before = each.group
        tables.append(table(f"Extractor: {label(config, extractor)}", columns, body))
    return section("retrieval", "Retrieval", *tables, _fid_note(scores))


def _fid_note(scores: Scores) -> str:
    if scores.fid.height == 0:
        return ""
    least, most, size = (int(scores.fid[name].min() or 0) for name in ("n_image", "n_image", "dimensions"))  # type: ignore[call-overload]
    del most
    return paragraph(f"FID is the mean over stains or passes, each from at least {least:,} patches per side ({size:,} features or more).", "muted")


def truth_section(config: RunConfig, rows: Sequence[TruthRow]) -> str:
    if not rows:
        return ""
    tables = []
    for extractor in findings.extractors(config, (each.extractor for each in rows)):
        here = [each for each in rows if each.extractor == extractor]
        names = findings.sides(config, (side for each in here for side in each.cells))
        sides = "".join(f'<th scope="col" class="n" colspan="2">{named(config, side)}</th>' for side in names)
        columns = [head("phenotype"), head("strength", NUMBER), head("group"), sides]
        body, before = [], ""
        for each in here:
            cells = [cell(each.strength or NONE, NUMBER), cell(each.group)]
            for side in names:
                found = each.cells.get(side)
                verdict = found.verdict if found else NONE
                cells.append(cell(number(found.normalised_map if found else None, 2), NUMBER))
                cells.append(cell(verdict, "yes" if found and found.retrieved else "no"))
            body.append(row([row_head(esc(each.phenotype)), *cells], "gap" if before not in ("", each.phenotype) else ""))
            before = each.phenotype
        tables.append(table(f"Extractor: {label(config, extractor)}", columns, body))
    kind = "Synthetic truth" if config.synthetic else "Known truth"
    what = (
        "What was put into the wells, beside what was found: normalised mAP (1 is perfect, 0 is what chance gives) and whether the "
        "compound was retrieved; of several compounds, how many. Strong phenotypes should be found, compounds without one should not."
    )
    return section("truth", kind, paragraph(what), *tables)


def examples_section(config: RunConfig, examples: Examples) -> str:
    parts = []
    if examples.shown:
        part = "all" if examples.crop == config.image.patch else f"the central {examples.crop} × {examples.crop} pixels"
        parts.append(
            paragraph(
                f"One patch of each field, chosen by hash; {part} of its {config.image.patch} × {config.image.patch} pixels. Every stain is "
                f"stretched from the {LOW:g} to the {HIGH:g} percentile of the original's patch, and every reconstruction by those same "
                f"constants. |difference| is {GAIN} × brighter. SSIM and PSNR are of the whole patch, as stored in the run."
            )
        )
    parts += [_example(config, example, examples.crop) for example in examples.shown]
    return section("examples", "Originals beside reconstructions", *parts, bullets(examples.notes))


def _example(config: RunConfig, example: Example, crop: int) -> str:
    stains = config.image.stains
    where = f"{example.choice.fov_id}, patch {example.patch + 1} of {config.image.patches}"
    heads = "".join(f'<th scope="col">{esc(name)}</th>' for name in ("composite", *stains))
    rows = [row([row_head(swatch(0) + "original"), *_images(config, example.original, crop, f"original of {where}")])]
    for side, found in example.sides.items():
        if isinstance(found, str):
            rows.append(row([row_head(named(config, side)), f'<td class="{WHY}" colspan="{len(stains) + 1}">{esc(found)}</td>'], "side"))
            continue
        name = row_head(f"{named(config, side)}<small>{esc(found.how)}</small>")
        rows.append(row([name, *_images(config, found, crop, f"{label(config, side)} of {where}")], "side"))
        differences = "".join(
            f"<td>{picture(png, crop, f'absolute difference in {stain} of {label(config, side)} of {where}')}</td>"
            for stain, png in zip(stains, found.differences, strict=True)
        )
        rows.append(row([row_head("<small>|difference|</small>"), "<td></td>", differences]))
    columns = '<colgroup><col class="names"></colgroup>'
    return (
        f'<figure class="example"><figcaption>{esc(example.choice.what or "field")} <span>{esc(where)}: {esc(example.choice.why)}</span></figcaption>'
        f'<div class="scroll"><table class="pictures">{columns}<thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></figure>'
    )


def _images(config: RunConfig, found: Pictures, crop: int, what: str) -> list[str]:
    cells = [f"<td>{picture(found.composite, crop, f'colour composite, {what}')}</td>"]
    for at, (stain, png) in enumerate(zip(config.image.stains, found.stains, strict=True)):
        known = found.captions[at] if found.captions else {}
        said = [f"SSIM {number(known['ssim'], 3)}"] if "ssim" in known else []
        said += [f"{number(known['psnr'], 1)} dB"] if "psnr" in known else []
        cells.append(f"<td>{picture(png, crop, f'{stain}, {what}')}{esc(' · '.join(said))}</td>")
    return cells


def distributions_section(config: RunConfig, usable: pl.DataFrame, drawn: Sequence[str], sides: Sequence[str]) -> str:
    if not drawn:
        return ""
    shown = charts.sampled(config, usable).height
    of = f" of {usable.height:,}" if shown < usable.height else ""
    what = f"Over every patch of {shown:,}{of} usable fields: the dot is the median, the thick bar the middle half, the thin line 5 to 95 %."
    legend = f'<ul class="legend">{"".join(f"<li>{named(config, side)}</li>" for side in sides)}</ul>'
    body = "".join(f"<figure><figcaption>{esc(name)}</figcaption>{chart}</figure>" for name, chart in zip(config.metrics, drawn, strict=True))
    return section("distributions", "Metrics per stain", paragraph(what), legend, f'<div class="charts">{body}</div>')


def comparison_section(config: RunConfig, scores: Scores, rows: list[Retrieval]) -> str:
    fractions = charts.fraction_chart(config, rows)
    if not fractions:
        return section("fr", "Originals against reconstructions", paragraph("No compound was scored, so there is nothing to compare."))
    legend = f'<ul class="legend"><li>{swatch(0)}originals</li>' + "".join(
        f"<li>{named(config, side)}</li>" for side in config.autoencoders
    )
    parts = [
        f'{legend}</ul><figure><div class="scroll">{fractions}</div></figure>',
        paragraph("At the right: compounds retrieved of compounds scored, from the originals → from the reconstruction.", "muted"),
    ]
    if found := charts.map_charts(config, scores):
        kinds = "".join(f"<li>{figures.key(kind)}{esc(words)}</li>" for kind, words in figures.KINDS.items())
        body = "".join(f"<figure><figcaption>{esc(caption)}</figcaption>{chart}</figure>" for caption, chart in found)
        parts += [
            "<h3>Compound by compound</h3>",
            paragraph("Each mark is a compound; on the dashed line its mAP is the same on both sides, below it the reconstruction loses."),
            f'<ul class="legend">{kinds}</ul><div class="charts small">{body}</div>',
        ]
    return section("fr", "Originals against reconstructions", *parts)


def sizes_section(config: RunConfig, usable: pl.DataFrame, storage: Storage) -> str:
    if usable.height == 0:
        return ""
    rows = []
    for size in findings.latent_sizes(config, usable, storage):
        raw = cell(f"{size.raw_bits:,}", NUMBER)
        if size.shape is None:
            rest = [f'<td class="{WHY}" colspan="4">no latent is stored</td>']
        else:
            shape = " × ".join(str(n) for n in size.shape[2:])
            fewer = f"{size.fewer_numbers:.3g} ×"
            bits = f"{size.raw_bits / size.latent_bits:.3g} ×"
            rest = [cell(shape, NUMBER), cell(fewer, NUMBER), cell(f"{size.latent_bits:,}", NUMBER), cell(bits, NUMBER)]
        rows.append(row([row_head(named(config, size.side)), raw, *rest]))
    image = config.image
    columns = [
        head("side"),
        head("pixels, bits", NUMBER, f"{image.crop} × {image.crop}, {len(image.stains)} stains, {image.scaling.bits} bit"),
        head("latent per pass", NUMBER, "channels × height × width"),
        head("fewer numbers", NUMBER, "per RGB pass"),
        head("latents, bits", NUMBER, "all passes, float16, uncompressed"),
        head("fewer bits", NUMBER, "per field of view"),
    ]
    what = f"Per field of view: {image.patches} patches, {len(image.packing)} RGB passes each."
    return section("sizes", "Size of the latents", paragraph(what), table("", columns, rows))


def failures_section(failed: Sequence[tuple[str, str]], tried: int) -> str:
    if not failed:
        return section("failures", "Failed fields of view", paragraph(f"None of {tried:,}.")) if tried else ""
    rows = [row([cell(fov, "wrap"), cell(why, "wrap")]) for fov, why in failed[:FAILURES]]
    more = f" The first {FAILURES}; the others are in the column `error` of fovs/." if len(failed) > FAILURES else ""
    what = f"{len(failed):,} of {tried:,} could not be used and are in no number above.{more}"
    return section("failures", "Failed fields of view", paragraph(what), table("", [head("field of view"), head("reason")], rows))
