"""The columns that a run writes for every field of view. They follow from the run file, before anything is computed.

A column of a data table has the name `<table>:<column>`.
"""

from collections.abc import Iterable
from types import ModuleType

import numpy as np

from sdvae_ray import shelves
from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.randomness import generator
from sdvae_ray.schema import (
    EMBEDDING,
    LATENT,
    LOGVAR,
    PATCHES,
    RATES,
    column,
    embeddings_table,
    latents_table,
    metrics_table,
)


def run_columns(config: RunConfig) -> frozenset[str]:
    """Return the columns of all tables of the run except fovs."""
    columns = {name for side in config.sides for name in side_columns(config, side)}
    return frozenset(columns | embedding_columns(config, IMAGE_SIDE))


def wanted_codecs(config: RunConfig, wanted: Iterable[str]) -> list[str]:
    """Return the codecs of a run that have a column in `wanted`."""
    return [side for side in config.codecs if side_columns(config, side) & frozenset(wanted)]


def side_columns(config: RunConfig, side: str) -> frozenset[str]:
    """Return the columns of one side that is an autoencoder or a codec."""
    columns = {column(metrics_table(side), name) for name in (*config.metrics, *RATES)}
    if side in config.autoencoders and stores_latents(config, side):
        columns.add(column(latents_table(side), LATENT))
        if config.autoencoders[side].store_logvar:
            columns.add(column(latents_table(side), LOGVAR))
    return frozenset(columns | embedding_columns(config, side))


def embedding_columns(config: RunConfig, side: str) -> frozenset[str]:
    """Return the columns of every extractor on one side. An extractor of latents has columns for autoencoders only."""
    columns: set[str] = set()
    for name, model in config.extractors.items():
        if shelves.takes_latent(config, name) and side not in config.autoencoders:
            continue
        table = embeddings_table(name, side)
        columns.add(column(table, EMBEDDING))
        if model.keep_patches:
            columns.add(column(table, PATCHES))
    return frozenset(columns)


def stores_latents(config: RunConfig, side: str) -> bool:
    """Return whether the run stores the latents of an autoencoder: the run file decides, or else the model's module."""
    asked = config.autoencoders[side].store_latents
    return compresses(config, side) if asked is None else asked


def compresses(config: RunConfig, side: str) -> bool:
    """Return whether the latent of an autoencoder is smaller than its image. False for the identity, whose latent is the image."""
    return getattr(_autoencoder(config, side), "STORES_LATENTS", True)


def measures_posterior(config: RunConfig, metric: str) -> bool:
    """Return whether a metric measures the posterior of an autoencoder: its RGB passes are those of the side's packing. False for
    a rate, which is no metric of the run file."""
    if metric not in config.metrics:
        return False
    return getattr(shelves.find("metrics", config.metrics[metric].name), "NEEDS_POSTERIOR", False)


def needs_posterior(config: RunConfig, side: str, wanted: Iterable[str]) -> bool:
    """Return whether a column in `wanted` needs the posterior of this side, which a stored latent cannot give."""
    posterior = {column(latents_table(side), name) for name in (LATENT, LOGVAR)}
    posterior |= {column(metrics_table(side), name) for name in config.metrics if measures_posterior(config, name)}
    return not posterior.isdisjoint(wanted)


def _autoencoder(config: RunConfig, side: str) -> ModuleType:
    return shelves.find("autoencoders", config.autoencoders[side].name)


def kept_patches(config: RunConfig, extractor: str, fov_id: str, patches: int) -> np.ndarray:
    """Return the numbers of the patches whose embeddings are stored, (k,) int64, ascending, chosen by (seed, FOV).

    patches: of the field; they are numbered row by row. k is the extractor's keep_patches, or `patches` if that is smaller.
    """
    order = generator(config.seed, "patches", fov_id).permutation(patches)
    return np.sort(order[: config.extractors[extractor].keep_patches])
