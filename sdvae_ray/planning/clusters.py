"""A run on clusters of several sizes: the rate, what limits it, hours, memory and disk, on demand and on spot nodes.

A worker is one encode actor with the CPUs beside it. Closed forms: the rate is that of the slowest stage, and spot nodes work for
the share of the time that they are there. The simulation in `simulation` does without both simplifications.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sdvae_ray.config import RunConfig
from sdvae_ray.planning.rates import Rates
from sdvae_ray.planning.work import Figures

# bytes of a process with Ray and pyarrow, and with torch too (benchmarks/RESULTS.md, scale)
_PYTHON, _TORCH = 0.5e9, 0.9e9
_WRITE_COPIES = 4  # of the rows of its file that a write task holds
_FUNCTIONS_KEPT = 64  # illumination functions in the folder of a node, float64


@dataclass(frozen=True)
class Worker:
    """One encode actor and what feeds it.

    gpus, cpus  of the worker, its own CPUs and those of the stages beside it
    feeding     CPUs beside it, for load, compress and write
    loaders     load actors beside it
    """

    gpus: float
    cpus: float
    feeding: float
    loaders: int


@dataclass(frozen=True)
class Size:
    """A cluster of `workers` workers on `nodes` nodes.

    rates         limit -> FOVs per second that it allows
    limit         the lowest of these, which decides
    seconds       of the whole run on demand, start included; spot_seconds: on spot nodes
    gpu_hours, cpu_hours            that the nodes are held, on demand
    spot_gpu_hours, spot_cpu_hours  the same of spot nodes, for the time that they are there
    """

    workers: int
    nodes: int
    rates: dict[str, float]
    limit: str
    seconds: float
    spot_seconds: float
    gpu_hours: float
    cpu_hours: float
    spot_gpu_hours: float
    spot_cpu_hours: float


def worker_of(config: RunConfig, rates: Rates) -> Worker:
    """Return the worker of a plan: as plan.cpus_per_worker and plan.loaders say, else with the CPUs that its encode actor wants."""
    encode = rates.seconds["encode"]
    own = (1.0 if rates.on_gpu else 0.75) if config.encode.cpus == "auto" else config.encode.cpus
    gpus = float(rates.on_gpu) if config.encode.gpus == "auto" else config.encode.gpus
    wanted = rates.cpu_seconds / encode
    feeding = wanted if config.plan.cpus_per_worker is None else max(0.01, config.plan.cpus_per_worker - own)
    share = rates.seconds["load"] / rates.cpu_seconds
    loaders = config.plan.loaders or max(1, math.ceil(share * feeding))
    return Worker(gpus, own + feeding, feeding, loaders)


def availability(config: RunConfig) -> float:
    """Return the share of the time that a spot node works: 1 / (1 + losses per hour x hours until it is replaced)."""
    return 1 / (1 + config.plan.spot_losses_per_hour * config.plan.replacement_minutes / 60)


def size_of(config: RunConfig, rates: Rates, work: Figures, worker: Worker, workers: int) -> Size:
    """Return the plan for one size of cluster. work: the figures of the run on this size."""
    plan, fovs = config.plan, float(work["fovs"] or 0)
    nodes = math.ceil(workers / plan.gpus_per_node)
    own = _limits_of_workers(rates, worker, workers)
    common = {"driver": 1000 / plan.driver_seconds_per_1000_fovs, **_limits_of_storage(config, work, nodes)}
    limits = {**own, **common}
    limit = min(limits, key=lambda name: limits[name])
    there = availability(config)
    spot_rate = min([rate * there for rate in own.values()] + list(common.values()))
    seconds, spot_seconds = (rates.first_fov + fovs / rate for rate in (limits[limit], spot_rate))
    hours, spot_hours = workers * seconds / 3600, workers * there * spot_seconds / 3600
    return Size(
        workers=workers,
        nodes=nodes,
        rates=limits,
        limit=limit,
        seconds=seconds,
        spot_seconds=spot_seconds,
        gpu_hours=hours * worker.gpus,
        cpu_hours=hours * worker.cpus,
        spot_gpu_hours=spot_hours * worker.gpus,
        spot_cpu_hours=spot_hours * worker.cpus,
    )


def _limits_of_workers(rates: Rates, worker: Worker, workers: int) -> dict[str, float]:
    """Return the limits that grow with the workers: their GPUs, and the CPUs beside them, named after what fills these most."""
    encode = {"GPU" if worker.gpus else "encode CPUs": workers / rates.seconds["encode"]}
    names = {"load": "load CPUs", "compress": "codecs", "write": "write CPUs"}
    fullest = max((stage for stage in rates.seconds if stage != "encode"), key=lambda stage: rates.seconds[stage])
    # CPUs that were fitted to the encode actor are no limit of their own
    fitted = math.isclose(worker.feeding, rates.cpu_seconds / rates.seconds["encode"])
    return encode if fitted else {**encode, names[fullest]: workers * worker.feeding / rates.cpu_seconds}


def _limits_of_storage(config: RunConfig, work: Figures, nodes: int) -> dict[str, float]:
    plan, limits = config.plan, {}
    fovs = work["fovs"] or 0
    if plan.gigabits_per_node and work["read_bytes"] is not None:
        moved = (work["read_bytes"] + (work["written_bytes"] or 0)) / fovs
        limits["network"] = nodes * plan.gigabits_per_node * 1e9 / 8 / moved
    if plan.reads_per_second and work["reads"]:
        limits["storage"] = plan.reads_per_second / ((work["reads"] + (work["looks"] or 0)) / fovs)
    return limits


def scales_to(config: RunConfig, rates: Rates, work: Figures, worker: Worker) -> tuple[float, str]:
    """Return (the workers beyond which more workers bring nothing, what then limits): what no node brings with it."""
    own = min(_limits_of_workers(rates, worker, 1).values())
    shared = {"driver": 1000 / config.plan.driver_seconds_per_1000_fovs, **_limits_of_storage(config, work, 1)}
    shared.pop("network", None)
    limit = min(shared, key=lambda name: shared[name])
    return shared[limit] / own, limit


def memory_and_disk(
    config: RunConfig, rates: Rates, worker: Worker, parameters: int | None, census_bytes: float | None
) -> Mapping[str, float | None]:
    """Return the bytes that a node of gpus_per_node workers needs, estimated: memory, and disk for weights, functions and spill.

    parameters: of all networks; None: not counted, and memory is None. census_bytes: of the files of a FOV; None: as large as the
    decoded crop. The object store of Ray is a third of the memory of its node, and may spill as much again.
    """
    image = config.image
    pixels = image.patches * len(image.stains) * image.patch**2 * image.scaling.bits / 8
    files = census_bytes if census_bytes is not None else len(image.stains) * image.crop**2 * 2.0
    rows = 256 if config.write.rows_per_file == "auto" else config.write.rows_per_file
    load = worker.loaders * (_PYTHON + config.load.batch_fovs * (2 * files + pixels))
    write = _PYTHON + _WRITE_COPIES * rows * (rates.bytes_out or 0)
    weights = None if parameters is None else 4.0 * parameters
    encode = None if weights is None else _TORCH + weights + 2 * config.encode.batch_fovs * pixels
    workers = config.plan.gpus_per_node
    memory = None if encode is None else 1.5 * workers * (load + write + encode)
    store = None if memory is None else memory / 3
    functions = _FUNCTIONS_KEPT * image.crop**2 * 8.0
    disk = None if store is None or weights is None else weights + functions + store
    return {"memory": memory, "object_store": store, "weights": weights, "functions": functions, "disk": disk}
