"""The stream measured on the cluster at hand: FOV/s per GPU after warm-up, at 1, 2, 4, ... encode actors, and what it costs.

Every step is a real run of some FOVs of the manifest, in a folder of its own under the output, which is removed at the end.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from sdvae_ray.cluster.pools import Pools, plan_pools
from sdvae_ray.cluster.session import ray_session
from sdvae_ray.console import print_line
from sdvae_ray.encoding.encode import encode
from sdvae_ray.encoding.forecast import dollars
from sdvae_ray.encoding.start import checked_manifest
from sdvae_ray.errors import ConfigError, RunError
from sdvae_ray.planning.measured import STAGES
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.table_files import write_table
from sdvae_ray.schema import CROP
from sdvae_ray.sources.manifest.reader import read_rows

_FOLDER = "_bench"  # under the output; removed at the end
_NEIGHBOURS = 16  # FOVs that follow each other in the manifest: a shard is then read as in a whole run


@dataclass(frozen=True)
class Step:
    """The stream with a number of encode actors.

    fovs          FOVs of the step
    rate          FOV/s after the start of the newest encode actor; per_actor: divided by the actors
    scaling       per_actor over that of the first step, 1 for a stream that scales
    cold_start    seconds from the start of the stream to the first encoded FOVs: actors start and load models
    busy          stage -> share of the time that its actors worked, start included
    dollars_per_1000_fovs  price of the pools' CPUs and GPUs, by the prices of the run file; None without prices
    devices       names of the processors or GPUs that encoded
    """

    actors: int
    gpus: float
    fovs: int
    rate: float
    per_actor: float
    scaling: float
    cold_start: float
    busy: dict[str, float]
    dollars_per_1000_fovs: float | None
    devices: list[str]


def bench(
    run: Run, console: Console, fovs_per_actor: int, actors: Sequence[int] | None = None, address: str | None = None
) -> dict[str, Any]:
    """Measure the stream of a run and print a line per step. Return `{"precision", "micro_batch", "steps": [Step as a dict]}`.

    fovs_per_actor: FOVs of a step for every encode actor, as far as the manifest goes. actors: the steps; None: 1, 2, 4, ... as
    many as fit. Raises ConfigError for too few FOVs, ResourceError for actors that do not fit, RunError if FOVs fail.
    """
    keys = checked_manifest(run)
    if CROP in keys.columns:  # a step is one stream, and a stream has one crop
        crop = keys[CROP].value_counts().sort("count", CROP, descending=True)[CROP][0]
        keys = keys.filter(pl.col(CROP) == crop)
        print_line(console, f"bench: of the {keys.height} FOVs with a crop of {crop} pixels")
    steps: list[Step] = []
    with ray_session(address, console):
        for number in actors or _doubling(plan_pools(run.config).encode.most):
            folder = run.uri(_FOLDER, str(number))
            chosen = _spread(len(keys), fovs_per_actor * number)
            try:
                part = _part(run, keys[chosen], folder, number)
                pools = plan_pools(part.config)
                print_line(console, f"bench: {number} encode actors, {len(chosen)} FOVs")
                encode(part, console)
                steps.append(_step(part, pools, number, steps[0].per_actor if steps else None))
                record = part.record
            finally:
                run.storage.delete_folder(folder)
            print_line(console, _line(steps[-1]))
    return {**{key: record[key] for key in ("precision", "micro_batch")}, "steps": [asdict(step) for step in steps]}


def _doubling(most: int) -> list[int]:
    return sorted({*(2**power for power in range(most.bit_length()) if 2**power <= most), most})


def _spread(fovs: int, wanted: int) -> list[int]:
    """Return `wanted` of the row numbers below `fovs`, or all: runs of neighbours, spread evenly as far as there is room."""
    stretches = -(-wanted // _NEIGHBOURS)
    if stretches * _NEIGHBOURS > fovs:
        return list(range(min(fovs, wanted)))
    starts = np.linspace(0, fovs - _NEIGHBOURS, stretches).astype(int)
    return [int(start) + i for start in starts for i in range(_NEIGHBOURS)][:wanted]


def _part(run: Run, keys: pl.DataFrame, folder: str, actors: int) -> Run:
    """Return the run of some FOVs, with a manifest and an output of its own. keys: row_group and row of the FOVs."""
    manifest = f"{folder}/manifest.parquet"
    write_table(manifest, read_rows(run.config.manifest, keys, run.storage), run.storage)
    pool = run.config.encode.model_copy(update={"actors": actors})
    return Run(run.config.model_copy(update={"manifest": manifest, "output": f"{folder}/run", "encode": pool}))


def _step(part: Run, pools: Pools, actors: int, first_per_actor: float | None) -> Step:
    stages = part.record["sessions"][-1]["stages"][0]
    rate = stages["encode"]["rate"]
    if rate is None:
        raise ConfigError(
            "bench: too few FOVs: every actor had one batch at most; raise --fovs, or lower encode.batch_fovs"
        )
    fovs = part.fovs(["device", "error"])
    if failed := fovs["error"].drop_nulls().to_list():
        raise RunError(f"bench: {len(failed)} FOVs failed, which would flatter the rate; the first: {failed[0]}")
    hours = 1000 / rate / 3600
    cost = dollars(hours * pools.most_gpus, hours * pools.most_cpus, part.config.cluster)
    return Step(
        actors=actors,
        gpus=pools.most_gpus,
        fovs=fovs.height,
        rate=rate,
        per_actor=rate / actors,
        scaling=1.0 if first_per_actor is None else rate / actors / first_per_actor,
        cold_start=stages["first_fov"],
        busy={name: stage["busy"] for name, stage in stages.items() if name in STAGES},
        dollars_per_1000_fovs=cost,
        devices=sorted(set(fovs["device"].drop_nulls())),
    )


def _line(step: Step) -> str:
    """Return a step as one line of text."""
    unit = "GPU" if step.gpus else "actor"
    count = step.gpus or step.actors
    busy = ", ".join(f"{name} {100 * share:.0f} %" for name, share in step.busy.items())
    price = "" if step.dollars_per_1000_fovs is None else f", {step.dollars_per_1000_fovs:.3g} dollars per 1,000 FOVs"
    return (
        f"bench: {count:g} {unit}: {step.rate:.3g} FOV/s, {step.rate / count:.3g} per {unit}, scaling {step.scaling:.2f}, "
        f"first FOV after {step.cold_start:.0f} s; busy, start included: {busy}{price}; {', '.join(step.devices)}"
    )
