"""Before the launch: a few FOVs pass through every stage on a node of the cluster; the costs of a FOV and of the run are told."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
import ray
from rich.console import Console

from sdvae_ray.cluster.failures import unwrapped_failures
from sdvae_ray.cluster.pools import Pool, Pools, plan_pools
from sdvae_ray.cluster.session import check_output_is_shared, ray_session
from sdvae_ray.console import print_line
from sdvae_ray.encoding.actors import EncodeActor
from sdvae_ray.encoding.check_score import check_score
from sdvae_ray.encoding.forecast import Forecast, forecast
from sdvae_ray.encoding.pending import trial
from sdvae_ray.encoding.start import checked_manifest, prepare_record, probe
from sdvae_ray.encoding.supervision.progress import duration
from sdvae_ray.encoding.survey import as_records, survey
from sdvae_ray.engine.compress import Compressor, has_wide
from sdvae_ray.engine.files.load import Batch, Loader
from sdvae_ray.engine.models import check_names, resolve_weights
from sdvae_ray.errors import RunError
from sdvae_ray.planning.measured import MEASURED, STAGES
from sdvae_ray.run.quality import batch_quality, findings, in_lines, scaling_notes
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.schema import CROP, ERROR, FOV_ID, SEPARATOR
from sdvae_ray.sources.manifest.reader import read_rows
from sdvae_ray.sources.manifest.row import as_batch
from sdvae_ray.sources.planes import check_locations
from sdvae_ray.storage import join

_FOLDER = "_check"  # under the output; removed at the end
_FOVS = 8  # that are measured after the first FOV
_PATIENCE = 20.0  # seconds: where the first FOV takes longer, its own time is the measurement


@dataclass(frozen=True)
class Checked:
    """The cost of one FOV.

    fovs      number of FOVs in the manifest
    measured  number of FOVs that the seconds are a mean of
    warm      True: the seconds are of FOVs after the first, which also waits for caches and compilers
    seconds   stage -> seconds of one actor per FOV, without the loading of the models
    stored    table -> bytes of one FOV
    columns   column of a data table -> its dtype and shape per FOV
    failed    fov_id -> reason, of the measured FOVs
    fields    what the headers of a sample of the files say, see encoding.survey
    quality   one row per measured FOV, see run.quality
    device    name of the processor or GPU of the models
    """

    fovs: int
    measured: int
    warm: bool
    seconds: dict[str, float]
    stored: dict[str, int]
    columns: dict[str, str]
    failed: dict[str, str]
    device: str
    quality: pl.DataFrame
    fields: list[dict[str, Any]] = field(default_factory=list)


def check(run: Run, console: Console, address: str | None = None, limit: int | None = None) -> Checked:
    """Validate names, manifest, storage, weights, resources and the section `score`; then run some FOVs through every stage.

    Prints the result of every step to `console`, and what the whole manifest will take; limit: of a trial, whose FOVs alone are
    measured and forecast. Leaves `check.json` in the output, from which `encode` fits its pools. Raises the error that `encode` or
    `score` would raise, and RunError if the first FOV fails.
    """
    check_names(run.config)

    def say(line: str) -> None:
        print_line(console, line)

    keys = checked_manifest(run, say)
    asked = trial(keys, limit)
    of = f" of {len(keys)}" if len(asked) < len(keys) else ""
    say(f"manifest  {len(asked)}{of} FOVs")
    check_score(run, say)
    resolved = resolve_weights(run.config, run.storage)
    seen, lines = survey(run, asked)
    for line in lines:
        say(line)
    probe(run, asked)
    with ray_session(address, console):
        check_output_is_shared(run.config)
        pools = plan_pools(run.config)
        record = prepare_record(run, keys, resolved, pools.encode, say=say)
        for name, weights in record["weights"].items():
            print_line(console, f"weights   {name}: {_origin(weights)}")
        forward = f"{record['precision']}; {record['micro_batch']} passes per forward"
        checked = replace(_measured(run, record, pools.encode, asked, console), fields=as_records(seen))
        pools = plan_pools(run.config, checked.seconds)
    print_line(console, f"device    {checked.device}; {forward}")
    for fov, error in checked.failed.items():
        print_line(console, f"note: {fov} failed: {error}")
    for note in _image_notes(run, checked.quality):
        print_line(console, f"note: {note}")
    warmth = "after the first" if checked.warm else "of the first, cold caches included"
    print_line(
        console, f"measured  {checked.measured} FOVs {warmth}, spread over the manifest; one actor of each stage"
    )
    for stage, seconds in checked.seconds.items():
        print_line(console, f"{stage:9} {seconds:.3g} s per FOV")
    for table, size in checked.stored.items():
        print_line(console, f"stored    {table}: {size / 1e3:.1f} kB per FOV")
    total = sum(checked.stored.values())
    print_line(
        console, f"stored    {total / 1e6:.2f} MB per FOV, {total * len(asked) / 1e9:.2f} GB for {len(asked)} FOVs"
    )
    _print_forecast(forecast(len(asked), checked.seconds, pools, run.config.cluster), pools, console)
    return checked


def _image_notes(run: Run, quality: pl.DataFrame) -> list[str]:
    """Return what is wrong with the images of the measured FOVs, and stains that are one plane in the whole manifest."""
    image = run.config.image
    return [
        *check_locations(run.config.manifest, image.stains, run.storage),
        *scaling_notes(quality, image),
        *in_lines(findings(quality, image.stains)),
    ]


def _print_forecast(told: Forecast, pools: Pools, console: Console) -> None:
    """Print the pools, the bottleneck among them, and the hours and dollars of the manifest."""
    print_line(console, f"pools     {pools}")
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in told.rates.items())
    print_line(console, f"rates     FOV/s of the whole pool: {rates}; {told.bottleneck} is the bottleneck")
    feeding = " and ".join(f"{count:.2g} {name}" for name, count in told.feeding.items())
    print_line(console, f"balance   one encode actor is fed by {feeding} actors")
    hours = f"{told.gpu_hours:.3g} GPU-hours, {told.cpu_hours:.3g} CPU-hours"
    price = "" if told.dollars is None else f", {told.dollars:,.2f} dollars"
    print_line(
        console, f"forecast  {told.fovs} FOVs in about {duration(told.seconds)}: {hours}{price}, without the start"
    )


def _measured(run: Run, record: Mapping[str, Any], pool: Pool, keys: pl.DataFrame, console: Console) -> Checked:
    """Return the measurement, which runs on a node of the encode pool, and print its progress. Leaves check.json in the output."""
    spread = np.unique(np.linspace(0, len(keys) - 1, _FOVS + 1).astype(int)).tolist()
    chosen = keys.select(FOV_ID, "row_group", "row", "^crop$")[spread]
    task = _some_fovs.options(num_cpus=pool.cpus, num_gpus=pool.gpus, num_returns="streaming")
    with unwrapped_failures():
        for answer in task.remote(run, record, pool, chosen, len(keys)):
            told = ray.get(answer)
            if isinstance(told, Checked):
                checked = told
            else:
                print_line(console, f"check: {told}")
    kept = {"digest": run.config.digest(), "device": checked.device, "fovs": checked.measured, "warm": checked.warm}
    run.storage.write_bytes(
        run.uri(MEASURED), json.dumps({**kept, "seconds": checked.seconds, "stored": checked.stored}, indent=1).encode()
    )
    return checked


@ray.remote
def _some_fovs(
    run: Run, record: Mapping[str, Any], pool: Pool, keys: pl.DataFrame, fovs: int
) -> Iterator[str | Checked]:
    """Yield lines for the user, then the result. The first FOV must be valid and warms up; the others are one measured batch."""
    yield "loading the models"
    actor, loader = (
        EncodeActor(run, record, pool, None),
        Loader(run.config.image, run.config.storage, wide=has_wide(run.config)),
    )
    compressor = Compressor.of(run.config) if run.config.codecs else None

    def through(part: pl.DataFrame) -> list[Batch]:
        """Return the columns of some FOVs, in a batch for every crop."""
        encoded = []
        for rows in part.partition_by(CROP, maintain_order=True) if CROP in part.columns else [part]:
            batch = loader(as_batch(read_rows(run.config.manifest, rows, run.storage)))
            encoded.append(actor.encoder(compressor(batch) if compressor else batch))
        return encoded

    yield "the first FOV"
    start = time.perf_counter()
    (first,) = through(keys.head(1))
    took = time.perf_counter() - start
    if first[ERROR][0]:
        raise RunError(f"the first FOV of the manifest fails: {first[ERROR][0]}")
    warm = took < _PATIENCE and len(keys) > 1
    if warm:
        yield f"{len(keys) - 1} more FOVs"
    encoded = through(keys.slice(1)) if warm else [first]
    measured = [first, *encoded] if warm else [first]
    errors = {name: error for batch in encoded for name, error in zip(batch[FOV_ID], batch[ERROR], strict=True)}
    failed = {str(name): str(error) for name, error in errors.items() if error}
    if len(failed) == len(errors):
        encoded, warm = [first], False
    usable = [batch[ERROR] == "" for batch in encoded]
    stored, write = _write_and_remove(run, first)
    if len(encoded) > 1:
        stored = _mean_stored(run, [batch for batch in encoded if not all(batch[ERROR])])

    def mean_seconds(column: str) -> float:
        return float(np.concatenate([batch[column][rows] for batch, rows in zip(encoded, usable, strict=True)]).mean())

    seconds = {name: mean_seconds(f"seconds_{name}") for name in STAGES if f"seconds_{name}" in first}
    yield Checked(
        fovs=fovs,
        measured=int(sum(rows.sum() for rows in usable)),
        warm=warm,
        seconds=seconds | {"write": write},
        stored=stored,
        columns={name: f"{values.dtype}{values.shape[1:]}" for name, values in first.items() if SEPARATOR in name},
        failed=failed,
        device=str(first["device"][0]),
        quality=pl.concat([batch_quality(batch, run.config.image.stains) for batch in measured]),
    )


def _write_and_remove(run: Run, columns: Batch) -> tuple[dict[str, int], float]:
    """Write one row and delete it again. Return the bytes per table, and the seconds of the writing."""
    folder, storage = run.uri(_FOLDER), run.storage
    start = time.perf_counter()
    write_rows(folder, "check", columns, storage)
    seconds = time.perf_counter() - start
    names = storage.list(folder)
    sizes = {name.removesuffix("/check.parquet"): len(storage.read_bytes(join(folder, name))) for name in names}
    storage.delete_folder(folder)
    return sizes, seconds


def _mean_stored(run: Run, batches: Sequence[Batch]) -> dict[str, int]:
    """Return the bytes per table of a FOV, the mean over FOVs of several crops, by one usable row of every batch."""
    sizes, counts = [], [len(batch[ERROR]) for batch in batches]
    for batch in batches:
        row = int(np.flatnonzero(batch[ERROR] == "")[0])
        sizes.append(_write_and_remove(run, {name: values[row : row + 1] for name, values in batch.items()})[0])
    return {table: round(np.average([size[table] for size in sizes], weights=counts)) for table in sizes[0]}


def _origin(weights: Mapping[str, Any]) -> str:
    if weights["random"]:
        return "random weights"
    if weights.get("assumed"):
        return f"{weights['source']}; {weights['assumed']}"
    if not weights["source"]:
        return "none needed"
    return f"{weights['source']} at {weights['revision']}" if weights["revision"] else str(weights["source"])
