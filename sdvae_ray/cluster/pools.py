"""The pools of the encode stream, fitted to the CPUs and GPUs of the cluster."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import ray

from sdvae_ray.config import RunConfig
from sdvae_ray.errors import ConfigError, ResourceError
from sdvae_ray.settings.values import Actors

# CPUs that the pools must leave: with none, reads and writes never start and the job hangs without a message
SPARE_CPUS = 0.1
_WRITE_CPUS = 0.5  # CPUs of a write task at most: it compresses Parquet, and waits for storage
_SMALL_CODEC = 0.1  # CPUs of the one codec actor of a small machine


@dataclass(frozen=True)
class Pool:
    """The actors of one stage.

    least, most  number of actors
    cpus, gpus   of one actor
    """

    least: int
    most: int
    cpus: float
    gpus: float = 0.0

    def __str__(self) -> str:
        size = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"{size} x {self.cpus:g} CPU" + (f" + {self.gpus:g} GPU" if self.gpus else "")


@dataclass(frozen=True)
class Pools:
    """The pools of the encode stream, in the order of the stages. compress: None in a run without codecs.

    write_cpus: CPUs that a write task asks for. Each write task is a process that imports Ray Data, so only a few should run at
    once on the CPUs that the pools leave.
    """

    load: Pool
    compress: Pool | None
    encode: Pool
    write_cpus: float = SPARE_CPUS

    @property
    def stages(self) -> dict[str, Pool]:
        """Return section of the run file -> the pool of its stage."""
        stages = {"load": self.load, "compress": self.compress, "encode": self.encode}
        return {name: pool for name, pool in stages.items() if pool is not None}

    @property
    def least_cpus(self) -> float:
        """Return the CPUs of all pools at their least size."""
        return sum(pool.least * pool.cpus for pool in self.stages.values())

    @property
    def most_cpus(self) -> float:
        """Return the CPUs of all pools at their largest size."""
        return sum(pool.most * pool.cpus for pool in self.stages.values())

    @property
    def most_gpus(self) -> float:
        """Return the GPUs of all pools at their largest size."""
        return sum(pool.most * pool.gpus for pool in self.stages.values())

    def __str__(self) -> str:
        return ", ".join(f"{name} {pool}" for name, pool in self.stages.items())


def plan_pools(config: RunConfig, seconds: Mapping[str, float] | None = None) -> Pools:
    """Return the sizes of the pools for the nodes that are running; `auto` fills them.

    seconds: stage -> measured seconds of one actor per FOV, by which load and compress share the CPUs; None: not measured. Raises
    ResourceError, which names the setting to change, if fixed pools do not fit; ConfigError for `auto` with cluster.autoscaling.
    """
    if config.cluster.autoscaling:
        _check_explicit(config)
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    encode = _encode_pool(config, cpus, gpus)
    left = cpus - encode.least * encode.cpus
    pools = Pools(*_feeding_pools(config, left, seconds), encode)
    pools = replace(pools, write_cpus=min(_WRITE_CPUS, max(SPARE_CPUS, round((cpus - pools.least_cpus) / 2, 2))))
    if not config.cluster.autoscaling:
        _check_fits(pools, cpus, gpus)
    return pools


def _check_explicit(config: RunConfig) -> None:
    """Raise ConfigError for `auto` on an autoscaling cluster: it may be empty now, and `auto` then has no node to measure."""
    keys = {"load.actors": config.load.actors, "encode.actors": config.encode.actors, "encode.gpus": config.encode.gpus}
    if config.codecs:
        keys["compress.actors"] = config.compress.actors
    for key, value in keys.items():
        if value == "auto":
            raise ConfigError(
                f"{key}: auto measures nodes, and a cluster with cluster.autoscaling starts without any; write a number"
            )


def _encode_pool(config: RunConfig, cpus: float, gpus: float) -> Pool:
    wanted = config.encode
    actor_gpus = (1.0 if gpus >= 1 else 0.0) if wanted.gpus == "auto" else wanted.gpus
    actor_cpus = (1.0 if actor_gpus else 0.75) if wanted.cpus == "auto" else wanted.cpus
    if wanted.actors == "auto":
        count = math.floor(gpus / actor_gpus) if actor_gpus else math.floor(cpus)
        least = most = max(1, count)
    else:
        least, most = _range(wanted.actors)
    return Pool(least, most, actor_cpus, actor_gpus)


def _feeding_pools(
    config: RunConfig, cpus_left: float, seconds: Mapping[str, float] | None
) -> tuple[Pool, Pool | None]:
    """Return the pools of load and, in a run with codecs, of compress, on the CPUs that encode leaves.

    A codec costs many times the CPU of loading: unless it was measured, `auto` gives compress three quarters of the CPUs.
    """
    load, compress, codecs = config.load, config.compress, bool(config.codecs)
    if cpus_left < 2:
        usable = cpus_left - SPARE_CPUS - (_SMALL_CODEC if codecs else 0)
        pool = _pool(load.actors, load.cpus, 0.15 if codecs else 0.25, usable)
        return pool, _pool(compress.actors, compress.cpus, _SMALL_CODEC, _SMALL_CODEC) if codecs else None
    usable = cpus_left - 1  # the rest is for reads and writes
    if not codecs:
        return _pool(load.actors, load.cpus, 1.0, usable), None
    if usable < 2:
        return _pool(load.actors, load.cpus, 0.9, 0.9), _pool(compress.actors, compress.cpus, 0.9, 0.9)
    share = 0.25
    if seconds and "compress" in seconds:
        share = seconds["load"] / (seconds["load"] + seconds["compress"])
    loaders = min(max(1, round(share * usable)), math.floor(usable) - 1)
    return (
        _pool(load.actors, load.cpus, 1.0, loaders),
        _pool(compress.actors, compress.cpus, 1.0, math.floor(usable) - loaders),
    )


def _pool(actors: Actors, cpus: float | Literal["auto"], auto_cpus: float, usable: float) -> Pool:
    """Return the pool of a stage. usable: the CPUs that its `auto` fills with actors."""
    actor_cpus = auto_cpus if cpus == "auto" else cpus
    if actors == "auto":
        least = most = max(1, math.floor(usable / actor_cpus)) if actor_cpus else 1
    else:
        least, most = _range(actors)
    return Pool(least, most, actor_cpus)


def _range(actors: int | tuple[int, int]) -> tuple[int, int]:
    return actors if isinstance(actors, tuple) else (actors, actors)


def _check_fits(pools: Pools, cpus: float, gpus: float) -> None:
    asked = pools.least_cpus
    if asked > cpus - SPARE_CPUS:
        names = list(pools.stages)
        told = " and ".join(
            [", ".join(f"{name} ({pools.stages[name]})" for name in names[:-1]), f"encode ({pools.encode})"]
        )
        keys = " or ".join([", ".join(f"{name}.actors" for name in names[:-1]), "encode.actors"])
        raise ResourceError(
            f"too few CPUs: {told} hold {asked:g} of {cpus:g} and must leave {SPARE_CPUS:g} for reading and writing; "
            f"lower {keys}, or their cpus"
        )
    encode = pools.encode
    if encode.least * encode.gpus > gpus:
        raise ResourceError(
            f"too few GPUs: encode ({encode}) asks for {encode.least * encode.gpus:g} of {gpus:g}; lower encode.actors"
        )
