"""Sections of the report on what a side takes: rate, distortion and phenotype beside each other, sizes, the latent space."""

import polars as pl

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.report.facts import findings
from sdvae_ray.report.facts.findings import NONE, label, number
from sdvae_ray.report.facts.rates import Rate, distortion_heads, rate_text, rates, shown_extractors
from sdvae_ray.report.page import charts
from sdvae_ray.report.page.charts import Chart
from sdvae_ray.report.page.curves import RatePoint, rate_points
from sdvae_ray.report.page.markup import NUMBER, WHY, cell, head, note, paragraph, row, row_head, section, table
from sdvae_ray.report.page.sections import named
from sdvae_ray.report.page.views import chart_grid
from sdvae_ray.run.scores import Scores
from sdvae_ray.storage import Storage


def rates_section(config: RunConfig, scores: Scores) -> str:
    found, heads, extractors = rates(config, scores), distortion_heads(config), shown_extractors(config, scores)
    if len(found) < 2:
        return ""
    columns = [
        head("side"),
        head("bits", NUMBER, "per pixel and stain, stored"),
        head("bits", NUMBER, "entropy, quantised"),
        *(head(f"{each.name} {each.arrow}", NUMBER, each.unit) for each in heads),
    ]
    for name in extractors:
        columns += [head(f"{what}", NUMBER, label(config, name)) for what in ("FR ↑", "mAP ↑", "FID ↓")]
    body = [_rate_row(config, each, [h.name for h in heads], extractors) for each in found]
    what = (
        "Every side by its rate. A latent as stored takes 16 bits a value; its entropy is what an ideal coder would need for it, "
        "quantised to 8 bits, or to latent_bits, where the reconstruction is of the quantised latent. A codec takes the bytes "
        "that it made. FR and mAP are means over groups, FID over groups and parts."
    )
    drawn = _rate_charts(config, found, extractors)
    title = "Rate, distortion and phenotype"
    return section("rates", title, table("", columns, body), note(what), chart_grid(drawn) if drawn else "")


def _rate_row(config: RunConfig, rate: Rate, metrics: list[str], extractors: list[str]) -> str:
    cells = [rate_text(rate.bits), rate_text(rate.entropy), *(number(rate.distortion.get(name)) for name in metrics)]
    for name in extractors:
        seen = rate.phenotype[name]
        cells += [number(seen.fraction, 3), number(seen.mean_map, 3), number(seen.fid)]
    shown = named(config, rate.side) if rate.side != IMAGE_SIDE else f"{named(config, rate.side)} (raw)"
    return row([row_head(shown), *(cell(text, NUMBER) for text in cells)])


def _rate_charts(config: RunConfig, found: list[Rate], extractors: list[str]) -> list[Chart]:
    """FR over the rate, per extractor; a latent at its entropy where that is known."""
    drawn = []
    for name in extractors:
        points = [
            RatePoint(label(config, r.side), charts.series(config, r.side), r.entropy or r.bits or 0, p.fraction)
            for r in found[1:]
            if (p := r.phenotype[name]).fraction is not None
        ]
        if points:
            title = f"Fraction retrieved by {label(config, name)}"
            svg = rate_points(title, "FR (higher is better)", points, found[0].phenotype[name].fraction)
            drawn.append(Chart(title, "latents at their entropy; dashed: the originals", svg))
    return drawn


def latents_section(config: RunConfig, scores: Scores) -> str:
    if scores.latents.height == 0:
        return ""
    columns = [head("side"), head("group"), *(head(text, NUMBER) for text in ("latents", "channels", "effective rank"))]
    columns += [head("active units", NUMBER, "of all"), head("sd of channels", NUMBER, "least to largest")]
    body = []
    for found in scores.latents.rows(named=True):
        here = scores.latent_channels.filter((pl.col("side") == found["side"]) & (pl.col("group") == found["group"]))[
            "sd"
        ].to_list()
        active = NONE if found["units"] is None else f"{found['active_units']:,} of {found['units']:,}"
        cells = [f"{found['passes']:,}", str(found["channels"]), number(found["effective_rank"], 2), active]
        spread = f"{number(min(here))} to {number(max(here))}" if here else NONE
        texts = [cell(found["group"]), *(cell(text, NUMBER) for text in (*cells, spread))]
        body.append(row([row_head(named(config, found["side"])), *texts]))
    what = (
        "Of the stored latents, one per RGB pass. Effective rank: exp of the entropy of the eigenvalues of the channels' "
        "covariance (Roy & Vetterli 2007), at most the number of channels. Active units: channel and position whose variance over "
        "latents is above 0.01 once all are scaled to unit variance (Burda et al. 2016). Moments of every channel: "
        "scores/latent_channels.parquet."
    )
    return section("latents", "The latent space", table("", columns, body), note(what))


def sizes_section(config: RunConfig, usable: pl.DataFrame, storage: Storage) -> str:
    if usable.height == 0:
        return ""
    rows = []
    for size in findings.latent_sizes(config, usable, storage):
        cells = [cell(f"{size.raw_bits:,}", NUMBER)]
        if size.shape is None:
            cells.append(f'<td class="{WHY}" colspan="4">no latent is stored</td>')
        else:
            shape, fewer = " × ".join(str(n) for n in size.shape[2:]), f"{size.fewer_numbers:.3g} ×"
            texts = [shape, fewer, f"{size.latent_bits:,}", f"{size.raw_bits / size.latent_bits:.3g} ×"]
            cells += [cell(text, NUMBER) for text in texts]
        rows.append(row([row_head(named(config, size.side)), *cells]))
    image = config.image
    columns = [
        head("side"),
        head(
            "pixels, bits", NUMBER, f"{image.crop} × {image.crop}, {len(image.stains)} stains, {image.scaling.bits} bit"
        ),
        head("latent per pass", NUMBER, "channels × height × width"),
        head("fewer numbers", NUMBER, "per RGB pass"),
        head("latents, bits", NUMBER, "float16, uncompressed"),
        head("fewer bits", NUMBER, "per field of view"),
    ]
    what = f"Per field of view: {image.patches} patches of {len(image.triples)} RGB passes each."
    return section("sizes", "Size of the latents", paragraph(what), table("", columns, rows))
