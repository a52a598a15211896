"""Rate, distortion and phenotype of every side, from the scores: one row a side, for the terminal and the page."""

from dataclasses import dataclass

import polars as pl

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.report.facts import findings, outcome
from sdvae_ray.report.facts.findings import MetricHead, mean_of, number
from sdvae_ray.run.scores import Scores
from sdvae_ray.schema import BITS, ENTROPY

DISTORTIONS = ("psnr", "ssim", "ms_ssim", "lpips", "mae", "foreground_ssim")  # the first of them that the run has
_MOST_DISTORTIONS = 2
_MOST_EXTRACTORS = 3


@dataclass(frozen=True)
class Phenotype:
    """What one extractor says of a side: means over groups of FR and mAP, over groups and parts of the Frechet distance."""

    fraction: float | None
    mean_map: float | None
    fid: float | None


@dataclass(frozen=True)
class Rate:
    """bits, entropy: per pixel and stain, as stored and of quantised latents; distortion: mean over parts and patches."""

    side: str
    bits: float | None
    entropy: float | None
    distortion: dict[str, float | None]
    phenotype: dict[str, Phenotype]


def distortion_heads(config: RunConfig) -> list[MetricHead]:
    chosen = [name for name in DISTORTIONS if name in config.metrics][:_MOST_DISTORTIONS]
    return [findings.metric_head(config, name) for name in chosen]


def shown_extractors(config: RunConfig, scores: Scores) -> list[str]:
    names: list[str] = scores.summary["extractor"].to_list() if scores.summary.height else []
    return findings.extractors(config, names)[:_MOST_EXTRACTORS]


def rates(config: RunConfig, scores: Scores) -> list[Rate]:
    """The originals first, then the sides from most bits to least."""
    heads, extractors = distortion_heads(config), shown_extractors(config, scores)
    fid = {(e, s): value for e, s, value in _mean_fid(scores)}
    rows = []
    for side in [IMAGE_SIDE, *config.sides]:
        phenotype = {
            name: Phenotype(
                _mean_over_groups(scores.summary, name, side, "fraction_retrieved"),
                _mean_over_groups(scores.summary, name, side, "mean_map"),
                fid.get((name, side)),
            )
            for name in extractors
        }
        if side == IMAGE_SIDE:
            rows.append(Rate(side, float(config.image.scaling.bits), None, {}, phenotype))
            continue
        found = {head.name: mean_of(scores.metrics, side, head.name) for head in heads}
        pixels = config.image.patch**2
        bits, entropy = (mean_of(scores.metrics, side, name) for name in (BITS, ENTROPY))
        per_pixel = [None if value is None else value / pixels for value in (bits, entropy)]
        rows.append(Rate(side, per_pixel[0], per_pixel[1], found, phenotype))
    return [rows[0], *sorted(rows[1:], key=lambda row: -(row.bits or 0))]


def rate_text(value: float | None) -> str:
    return number(value, 3)


def _mean_over_groups(summary: pl.DataFrame, extractor: str, side: str, column: str) -> float | None:
    if column not in summary.columns:
        return None
    values = summary.filter((pl.col("extractor") == extractor) & (pl.col("side") == side))[column].drop_nulls()
    return float(values.mean()) if len(values) else None  # type: ignore[arg-type]


def _mean_fid(scores: Scores) -> list[tuple[str, str, float]]:
    found: dict[tuple[str, str], list[float]] = {}
    for extractor, side, _, value in outcome.mean_distances(scores, "fid"):
        if value is not None:
            found.setdefault((extractor, side), []).append(value)
    return [(*key, sum(values) / len(values)) for key, values in found.items()]
