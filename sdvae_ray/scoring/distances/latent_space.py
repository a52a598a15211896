"""Statistics of an autoencoder's stored latents: moments of channels, active units, effective rank, plate by plate through Ray."""

from typing import Any

import numpy as np
import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import TASK_CPUS, in_order
from sdvae_ray.controls import GROUP
from sdvae_ray.distributions.latent import LatentMoments, active_units, describe, effective_rank, latent_moments, merge
from sdvae_ray.engine.columns import stores_latents
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.field_values import of_patches
from sdvae_ray.run.stored.plates import PlateRows
from sdvae_ray.schema import FOV_ID, LATENT, latents_table
from sdvae_ray.scoring.inputs.fovs import Fovs

_KEY = {"side": pl.String, "group": pl.String, "passes": pl.Int64}
_UNITS = {"channels": pl.Int64, "units": pl.Int64, "active_units": pl.Int64, "effective_rank": pl.Float64}
_CHANNEL = {"channel": pl.Int64, **dict.fromkeys(("mean", "sd", "skewness", "kurtosis", "min", "max"), pl.Float64)}


def latent_space(run: Run, fovs: Fovs) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the tables `latents` and `latent_channels` of `Scores`: one row per side and group (and channel)."""
    units, channels = list[dict[str, Any]](), list[dict[str, Any]]()
    sides = [name for name in run.config.autoencoders if stores_latents(run.config, name)]
    plates = fovs.by_first_row() if sides else []
    for side in sides:
        merged: dict[str, LatentMoments] = {}
        tasks = in_order(_plate_moments, [(run, side, plate) for plate in plates])
        for plate in tasks:
            for group, moments in plate.items():
                merged[group] = merge(merged[group], moments) if group in merged else moments
        for group, moments in sorted(merged.items()):
            key = {"side": side, "group": group, "passes": moments.n}
            units.append({**key, **_units(moments)})
            described = describe(moments)
            for channel in range(len(moments.mean)):
                numbers = {name: float(described[name][channel]) for name in _CHANNEL if name != "channel"}
                channels.append({**key, "channel": channel, **numbers})
    return pl.DataFrame(units, schema={**_KEY, **_UNITS}), pl.DataFrame(channels, schema={**_KEY, **_CHANNEL})


def _units(moments: LatentMoments) -> dict[str, float | int | None]:
    """Return the columns `_UNITS`; null for a single latent, whose units cannot vary."""
    channels: dict[str, float | int | None] = {"channels": len(moments.mean)}
    if moments.n < 2:
        return channels
    units = active_units(moments)
    return {**channels, "units": units.units, "active_units": units.active, "effective_rank": effective_rank(moments)}


@ray.remote(num_cpus=TASK_CPUS)
def _plate_moments(run: Run, side: str, packed: PlateRows) -> dict[str, LatentMoments]:
    """Return group -> moments of the plate's latents, over the RGB passes of its patches."""
    plate = packed.table()
    fov_ids, latents = run.read(latents_table(side), LATENT, plate)
    if not fov_ids:
        return {}
    groups = pl.DataFrame({FOV_ID: fov_ids}).join(plate, on=FOV_ID, how="left", maintain_order="left")[GROUP].to_numpy()
    patches = {group: of_patches(latents[groups == group]) for group in np.unique(groups.astype(str))}
    return {
        str(group): latent_moments(of_group.reshape(-1, *of_group.shape[2:])) for group, of_group in patches.items()
    }
