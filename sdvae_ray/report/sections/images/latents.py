"""The size of the stored latents compared with that of the pixels, and how much of their space the latents use."""

import math

import polars as pl

from sdvae_ray.report.facts.scored import GROUP, ScoredRun, Values
from sdvae_ray.report.facts.table import NONE, REASON, SIDE, Column, Section, Table, number
from sdvae_ray.schema import LATENT, latents_table

_NOTE = (
    "Of the stored latents, one per RGB pass. Effective rank: exp of the entropy of the eigenvalues of the channels' "
    "covariance (Roy & Vetterli 2007), at most the number of channels. Active units: channel and position whose variance over "
    "latents is above 0.01 once all are scaled to unit variance (Burda et al. 2016). Moments of every channel: "
    "scores/latent_channels.parquet."
)
_COLUMNS = (
    Column("passes", "latents"),
    Column("channels", "channels"),
    Column("effective_rank", "effective rank", 2),
    Column("active", "active units", unit="of all"),
    Column("spread", "sd of channels", unit="least to largest"),
)


def sizes(scored: ScoredRun) -> Section | None:
    """Return the pixels and latents of one field of view in bits, one row per autoencoder; None if no field of view is usable."""
    if scored.usable.height == 0:
        return None
    image = scored.config.image
    policy = image.policy_of(scored.usable.row(0, named=True))
    stains = f"{len(image.stains)} stains, {image.scaling.bits} bit"
    columns = [
        SIDE,
        Column("raw", "pixels, bits", unit=f"{policy.crop} × {policy.crop}, {stains}"),
        Column("passes", "RGB passes", unit="per patch"),
        Column("shape", "latent per pass", unit="channels × height × width"),
        Column("fewer", "fewer numbers", unit="per RGB pass"),
        Column("bits", "latents, bits", unit="float16, uncompressed"),
        Column("ratio", "fewer bits", unit="per field of view"),
    ]
    of = f" of {scored.usable[image.policies.column][0]}" if image.policies else ""
    lead = f"Per field of view{of}: {policy.patches} patches. The time of an autoencoder grows with its RGB passes."
    rows = [_size(scored, side) for side in scored.config.autoencoders]
    return Section("sizes", "Size of the latents", lead=lead, tables=[Table("", columns, rows)])


def _size(scored: ScoredRun, side: str) -> Values:
    """Return the row of one autoencoder, from the latent (P, T, Z, s, s) of one field of view."""
    image = scored.config.image
    patches = image.policy_of(scored.usable.row(0, named=True)).patches
    raw = patches * len(image.stains) * image.patch**2 * image.scaling.bits
    row: Values = {"side": scored.side(side), "raw": raw, "passes": len(scored.config.triples(side))}
    latent = scored.run.read(latents_table(side), LATENT, scored.usable.head(1)).values
    if len(latent) == 0:
        return row | {REASON: "no latent is stored"}
    bits, shape = latent[0].nbytes * 8, latent.shape[3:]
    fewer = 3 * image.patch**2 / math.prod(shape)
    words = " × ".join(str(size) for size in shape)
    return row | {"shape": words, "fewer": f"{fewer:.3g} ×", "bits": bits, "ratio": f"{raw / bits:.3g} ×"}


def space(scored: ScoredRun) -> Section | None:
    """Return how much of the latent space each side uses; None if no latent is stored."""
    rows = []
    for row in scored.scores.latents.rows(named=True):
        channels = scored.scores.latent_channels
        here = channels.filter((pl.col("side") == row["side"]) & (pl.col("group") == row["group"]))["sd"].to_list()
        active = NONE if row["units"] is None else f"{row['active_units']:,} of {row['units']:,}"
        spread = f"{number(min(here))} to {number(max(here))}" if here else NONE
        rows.append({**row, "side": scored.side(row["side"]), "active": active, "spread": spread})
    table = Table("", [SIDE, GROUP, *_COLUMNS], rows, [_NOTE])
    return Section("latents", "The latent space", tables=[table]) if rows else None
