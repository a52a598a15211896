"""Which columns of which tables a run writes for every field of view: known from the run file, before anything is computed."""

from collections.abc import Iterable
from types import ModuleType

import numpy as np

from sdvae_ray import shelves
from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.randomness import generator
from sdvae_ray.schema import (
    BITS,
    EMBEDDING,
    ENTROPY,
    LATENT,
    PATCHES,
    SEPARATOR,
    column,
    embeddings_table,
    latents_table,
    metrics_table,
)


def run_columns(config: RunConfig) -> frozenset[str]:
    """`<table>:<column>` of everything that the run writes beside fovs."""
    found = {name for side in config.sides for name in side_columns(config, side)}
    return frozenset(found | embedding_columns(config, IMAGE_SIDE))


def side_columns(config: RunConfig, side: str) -> frozenset[str]:
    """Those of one autoencoder or codec."""
    found = {column(metrics_table(side), name) for name in (*config.metrics, BITS, ENTROPY)}
    if side in config.autoencoders and stores_latents(config, side):
        found.add(column(latents_table(side), LATENT))
    return frozenset(found | embedding_columns(config, side))


def embedding_columns(config: RunConfig, side: str) -> frozenset[str]:
    """Those of every extractor on one side. The latent extractor has something to say of autoencoders only."""
    found: set[str] = set()
    for name, model in config.extractors.items():
        if takes_posterior(config, name) and side not in config.autoencoders:
            continue
        table = embeddings_table(name, side)
        found.add(column(table, EMBEDDING))
        if model.keep_patches:
            found.add(column(table, PATCHES))
    return frozenset(found)


def stores_latents(config: RunConfig, side: str) -> bool:
    """As the run file says, else as the model does."""
    asked = config.autoencoders[side].store_latents
    return compresses(config, side) if asked is None else asked


def compresses(config: RunConfig, side: str) -> bool:
    """False for the identity control, whose latent is the image."""
    return getattr(_autoencoder(config, side), "STORES_LATENTS", True)


def takes_posterior(config: RunConfig, extractor: str) -> bool:
    return getattr(shelves.find("extractors", config.extractors[extractor].name), "TAKES_POSTERIOR", False)


def needs_posterior(config: RunConfig, side: str, wanted: Iterable[str]) -> bool:
    """Whether `wanted` holds something of this side that a stored latent does not give."""
    posterior = {column(latents_table(side), LATENT)}
    for name, metric in config.metrics.items():
        if getattr(shelves.find("metrics", metric.name), "NEEDS_POSTERIOR", False):
            posterior.add(column(metrics_table(side), name))
    tables = {embeddings_table(name, side) for name in config.extractors if takes_posterior(config, name)}
    return any(name in posterior or name.rpartition(SEPARATOR)[0] in tables for name in wanted)


def _autoencoder(config: RunConfig, side: str) -> ModuleType:
    return shelves.find("autoencoders", config.autoencoders[side].name)


def kept_patches(config: RunConfig, extractor: str, fov_id: str) -> np.ndarray:
    """(k,) int64 ascending: which of a FOV's patches, counted row by row, `encode` keeps the embeddings of."""
    order = generator(config.seed, "patches", fov_id).permutation(config.image.patches)
    return np.sort(order[: config.extractors[extractor].keep_patches])
