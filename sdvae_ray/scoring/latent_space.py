"""What an autoencoder's stored latents are like: moments of channels, active units, effective rank, plate by plate through Ray."""

import numpy as np
import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import in_order
from sdvae_ray.distributions.latent import LatentMoments, active_units, describe, effective_rank, latent_moments, merge
from sdvae_ray.engine.columns import stores_latents
from sdvae_ray.errors import DataError
from sdvae_ray.run.run import Run
from sdvae_ray.schema import FOV_ID, LATENT, PLATE_KEY, latents_table
from sdvae_ray.scoring.distances import GROUP

_TASK_CPUS = 0.5
_CHANNELS = ("mean", "sd", "skewness", "kurtosis", "min", "max")


def latent_space(run: Run, fovs: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(units, active_units, effective_rank per side and group; moments per channel). `fovs`: usable ones, with files and group."""
    whole, channels = [], []
    plates = fovs.select(FOV_ID, "files", GROUP, *PLATE_KEY).partition_by(*PLATE_KEY, maintain_order=True)
    for side in run.config.autoencoders:
        if not stores_latents(run.config, side):
            continue
        task = _moments_of_plate.options(num_cpus=_TASK_CPUS)
        merged: dict[str, LatentMoments] = {}
        for found in in_order(task, ((run, side, plate) for plate in plates)):
            for group, moments in found.items():
                merged[group] = merge(merged[group], moments) if group in merged else moments
        for group, moments in sorted(merged.items()):
            label = {"side": side, "group": group, "passes": moments.n}
            whole.append({**label, **_whole(moments)})
            described = describe(moments)
            for channel in range(len(moments.mean)):
                numbers = {name: float(described[name][channel]) for name in _CHANNELS}
                channels.append({**label, "channel": channel, **numbers})
    text, counts = {"side": pl.String, "group": pl.String}, {"passes": pl.Int64}
    of_whole = {"channels": pl.Int64, "units": pl.Int64, "active_units": pl.Int64, "effective_rank": pl.Float64}
    of_channel = {"channel": pl.Int64, **dict.fromkeys(_CHANNELS, pl.Float64)}
    return (
        pl.DataFrame(whole, schema={**text, **counts, **of_whole}),
        pl.DataFrame(channels, schema={**text, **counts, **of_channel}),
    )


def _whole(moments: LatentMoments) -> dict[str, float | int | None]:
    try:
        units = active_units(moments)
    except DataError:  # of one latent nothing varies
        return {"channels": len(moments.mean), "units": None, "active_units": None, "effective_rank": None}
    return {
        "channels": len(moments.mean),
        "units": units.units,
        "active_units": units.active,
        "effective_rank": effective_rank(moments),
    }


@ray.remote
def _moments_of_plate(run: Run, side: str, plate: pl.DataFrame) -> dict[str, LatentMoments]:
    """group -> moments over the RGB passes of the plate's patches."""
    ids, latents = run.read(latents_table(side), LATENT, plate)
    if not ids:
        return {}
    groups = pl.DataFrame({FOV_ID: ids}).join(plate, on=FOV_ID, how="left", maintain_order="left")[GROUP].to_numpy()
    return {
        str(group): latent_moments(latents[groups == group].reshape(-1, *latents.shape[3:]))
        for group in np.unique(groups.astype(str))
    }
