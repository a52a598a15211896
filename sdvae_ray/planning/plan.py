"""The plan of a run: what it will take on clusters of several sizes, and what it has taken so far. It starts nothing."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from sdvae_ray.engine.flop import flop_of_a_call, models_without_data, parameters_of
from sdvae_ray.errors import ConfigError, StorageError, WeightsError, one_line
from sdvae_ray.planning.census import Census, assumed_census, census
from sdvae_ray.planning.clusters import Worker, availability, memory_and_disk, scales_to, size_of, worker_of
from sdvae_ray.planning.measured import measured, measured_file
from sdvae_ray.planning.prices import bill, month
from sdvae_ray.planning.rates import Rates, rates_of
from sdvae_ray.planning.simulation import simulate, stream_of
from sdvae_ray.planning.sizes import with_sizes
from sdvae_ray.planning.work import Figures, planned, spent
from sdvae_ray.run.run import Run
from sdvae_ray.sources.manifest.reader import manifest_exists
from sdvae_ray.sources.shards import ShardError

Waiting = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class Asked:
    """What a plan is asked for.

    workers   sizes of clusters, in GPU workers (encode actors)
    sample    fields per source whose files are looked for on storage; 0: none
    rates     a file of measured rates, see `measured_file`; None: the run's own
    simulate  whether every size is also simulated, with losses and latencies
    """

    workers: Sequence[int] = (1, 8, 64, 512)
    sample: int = 2
    rates: str | None = None
    simulate: bool = False


def plan(
    run: Run, asked: Asked, say: Callable[[str], None] = lambda _: None, waiting: Waiting = lambda _: nullcontext()
) -> dict[str, Any]:
    """Return the plan as plain values, JSON-ready: None is "not known" or "not priced".

    sources, planned, spent (None before the first session), flop, rates with their origins, worker, node (bytes), sizes (each with
    its bills), scales_to, dollars_a_month (of keeping the tables), assumed, notes. say: takes notes as they arise. Raises
    ConfigError without rates, and DataError without a manifest, if the run file has no plan.sources either.
    """
    config, notes = run.config, list[str]()

    def note(text: str) -> None:
        notes.append(text)
        say(f"note: {text}")

    if config.image.fewest_patches < config.image.patches:
        patches = config.image.patches
        note(f"operations are counted as if every field had {patches} patches, the most that a policy gives")
    first = [measured_file(asked.rates, run.storage)] if asked.rates else []
    rates = rates_of(config, [*first, *measured(run)])
    counted = _counted(run, asked, note, waiting)
    with waiting("plan: counting the operations of the networks"):
        flop, parameters = _networks(run, note)
    worker = worker_of(config, rates)
    sizes = []
    for workers in asked.workers:
        nodes = -(-workers // config.plan.gpus_per_node)
        work = planned(config, counted, rates, flop, workers * worker.loaders, nodes)
        size = size_of(config, rates, work, worker, workers)
        bills = {
            market: bill(config, work, size, worker, spot) for market, spot in (("on_demand", False), ("spot", True))
        }
        entry = {**asdict(size), "read_bytes": work["read_bytes"], "reads": work["reads"], "looks": work["looks"]}
        entry |= {market: {**asdict(told), "total": told.total} for market, told in bills.items()}
        if asked.simulate:
            with waiting(f"plan: simulating a cluster of {workers}"):
                entry["simulated"] = _simulated(run, rates, work, worker, workers)
        sizes.append(entry)
    work = planned(config, counted, rates, flop)
    most, limit = scales_to(config, rates, work, worker)
    image_bytes = None if (whole := counted.total("bytes_in")) is None else whole / (work["fovs"] or 1)
    return {
        "output": run.output,
        "sources": [asdict(source) for source in counted.sources],
        "planned": work,
        "spent": spent(run.find_record(), flop),
        "flop": flop,
        "rates": _told(rates),
        "worker": {**asdict(worker), "spot_availability": availability(config)},
        "node": memory_and_disk(config, rates, worker, parameters, image_bytes),
        "sizes": sizes,
        "scales_to": {"workers": most, "limit": limit},
        "dollars_a_month": month(config, work),
        "assumed": config.plan.model_dump(mode="json", exclude={"sources", "seconds"}),
        "notes": notes,
    }


def _counted(run: Run, asked: Asked, note: Callable[[str], None], waiting: Waiting) -> Census:
    """Return the census of the manifest; of plan.sources, if the run file has them and there is no manifest."""
    config = run.config
    if not manifest_exists(config.manifest, run.storage) and config.plan.sources:
        note(f"no manifest at {config.manifest}: the counts of the sources are those of plan.sources")
        return assumed_census(config.plan.sources, len(config.image.stains))
    with waiting("plan: counting the manifest"):
        counted = census(config.manifest, config.image.stains, run.storage, asked.sample)
    if not asked.sample:
        return counted
    with waiting("plan: asking storage for the sizes of some files"):
        try:
            return with_sizes(counted, config.manifest, config.image, run.storage)
        except (FileNotFoundError, PermissionError, StorageError, ShardError) as error:
            note(f"the sizes of the files are not known: {one_line(error, None)}")
            return counted


def _networks(run: Run, note: Callable[[str], None]) -> tuple[dict[str, int] | None, int | None]:
    """Return part -> operations of a call, and the number of parameters; None for both if weights are not at hand."""
    try:
        models = models_without_data(run.config, run.storage)
    except (WeightsError, StorageError, ConfigError) as error:
        note(f"operations and weights are not counted: {one_line(error, None)}")
        return None, None
    return flop_of_a_call(run.config, models), parameters_of(models)


def _simulated(run: Run, rates: Rates, work: Figures, worker: Worker, workers: int) -> dict[str, Any]:
    return asdict(simulate(stream_of(run.config, rates, work, worker, workers), seed=run.config.seed))


def _told(rates: Rates) -> dict[str, Any]:
    told = asdict(rates)
    return {**told, "cpu_seconds": rates.cpu_seconds}
