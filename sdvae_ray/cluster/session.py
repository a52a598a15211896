"""Ray itself: connecting to a cluster or starting one on this machine, and fitting the pools to what it has.

The driver calls this; actors and tasks never do.
"""

import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from sdvae_ray.config import RunConfig
from sdvae_ray.errors import ConfigError, ResourceError, one_line
from sdvae_ray.storage import is_remote

IO_CPUS = 0.05  # asked for by each read, filter and write task: they wait for storage
SPARE_CPUS = 0.1  # that pools must leave: with none, reads and writes never start and the job hangs without a word


@dataclass(frozen=True)
class Pool:
    """Actors of one stage: least and most of them, and what each holds."""

    least: int
    most: int
    cpus: float
    gpus: float = 0.0

    def __str__(self) -> str:
        size = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"{size} x {self.cpus:g} CPU" + (f" + {self.gpus:g} GPU" if self.gpus else "")


@dataclass(frozen=True)
class Pools:
    load: Pool
    encode: Pool


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connects to `address`, else to the cluster that this process is a job of, else starts Ray here and ends it after."""
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options = {"include_dashboard": False} if address == "local" else {}
    os.environ.setdefault(
        "RAY_BACKEND_LOG_LEVEL", "fatal"
    )  # Ray's own C++ remarks go to its log files, not to the terminal
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a busy machine takes longer than Ray's 30
    try:
        with _stderr_of_libraries_closed():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except ConnectionError as error:
        raise ConfigError(f"cannot connect to Ray at {address}: {one_line(error, None)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def quiet_ray_data() -> None:
    """Ray Data without its own bars: the driver reports what is committed, which is what a user wants to know."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []  # their advice on memory= repeats every 30 s
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")  # of a run of few FOVs


def plan_pools(config: RunConfig) -> Pools:
    """Sizes the pools for the nodes that are there; `auto` fills the machine.

    Raises ResourceError, saying which number to change, where fixed pools do not fit.
    """
    if config.cluster.autoscaling:
        _check_explicit(config)
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    encode = _encode_pool(config, cpus, gpus)
    load = _load_pool(config, cpus - encode.least * encode.cpus)
    if not config.cluster.autoscaling:
        _check_fits(load, encode, cpus, gpus)
    return Pools(load, encode)


def check_output_is_shared(config: RunConfig) -> None:
    """ConfigError for an output that the nodes of this cluster would not all see as one folder."""
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    several = f"the cluster has {nodes} nodes" if nodes > 1 else "cluster.autoscaling brings more nodes"
    if (
        (nodes > 1 or config.cluster.autoscaling)
        and not is_remote(config.output)
        and not config.cluster.shared_filesystem
    ):
        raise ConfigError(
            f"output: {config.output} is a local folder, and {several}; s3://... is wanted, "
            f"or cluster.shared_filesystem: true where it is the same folder on all of them"
        )


@contextmanager
def _stderr_of_libraries_closed() -> Iterator[None]:
    """Ray's C++ core greets on file descriptor 2 whatever the log level; errors come as exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _check_explicit(config: RunConfig) -> None:
    """An autoscaling cluster may be empty now, so there is nothing for `auto` to measure."""
    asked = {
        "load.actors": config.load.actors,
        "encode.actors": config.encode.actors,
        "encode.gpus": config.encode.gpus,
    }
    for key, value in asked.items():
        if value == "auto":
            raise ConfigError(f"{key}: auto looks at nodes, and cluster.autoscaling starts without; a number is wanted")


def _encode_pool(config: RunConfig, cpus: float, gpus: float) -> Pool:
    wanted = config.encode
    each_gpu = (1.0 if gpus >= 1 else 0.0) if wanted.gpus == "auto" else wanted.gpus
    each_cpu = (1.0 if each_gpu else 0.75) if wanted.cpus == "auto" else wanted.cpus
    if wanted.actors == "auto":
        count = math.floor(gpus / each_gpu) if each_gpu else math.floor(cpus)
        least = most = max(1, count)
    else:
        least, most = _range(wanted.actors)
    return Pool(least, most, each_cpu, each_gpu)


def _load_pool(config: RunConfig, cpus_left: float) -> Pool:
    wanted = config.load
    small = cpus_left < 2
    each = (0.25 if small else 1.0) if wanted.cpus == "auto" else wanted.cpus
    if wanted.actors == "auto":
        least = most = max(1, math.floor((cpus_left - (SPARE_CPUS if small else 1)) / each)) if each else 1
    else:
        least, most = _range(wanted.actors)
    return Pool(least, most, each)


def _range(actors: int | tuple[int, int]) -> tuple[int, int]:
    return actors if isinstance(actors, tuple) else (actors, actors)


def _check_fits(load: Pool, encode: Pool, cpus: float, gpus: float) -> None:
    asked = load.least * load.cpus + encode.least * encode.cpus
    if asked > cpus - SPARE_CPUS:
        raise ResourceError(
            f"too few CPUs: load ({load}) and encode ({encode}) hold {asked:g} of {cpus:g} and must leave {SPARE_CPUS:g} "
            f"for reading and writing; lower load.actors or encode.actors, or their cpus"
        )
    if encode.least * encode.gpus > gpus:
        raise ResourceError(
            f"too few GPUs: encode ({encode}) asks for {encode.least * encode.gpus:g} of {gpus:g}; lower encode.actors"
        )
