"""Packs a manifest: Ray tasks write shards, and the driver writes the manifest of shards last.

The driver reads the manifest and hands the rows of a shard to a task, which fetches the files and puts the shard whole. A record
(JSON) beside every finished shard has its size, its checksum and what its FOVs lacked. The same command line again skips a shard
whose record is there and whose size is right, unless storage did not answer for one of its FOVs.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from rich.console import Console

from sdvae_ray.cluster.failures import unwrapped_failures
from sdvae_ray.cluster.ordered_tasks import TASK_CPUS, in_order, weighing
from sdvae_ray.cluster.session import check_folder_is_shared, ray_session
from sdvae_ray.console import print_line
from sdvae_ray.encoding.shards.plan import SHARDS, PackOptions, Plan, plan_shards
from sdvae_ray.engine.files.pack import PackedFov
from sdvae_ray.engine.files.shard_files import parquet_shard, tar_shard
from sdvae_ray.errors import RunError
from sdvae_ray.run.driver.lease import Lease
from sdvae_ray.schema import (
    PACK_ERROR,
    PIXELS,
    SHARD,
    SHARD_BYTES,
    SHARD_CROP,
    SHARD_FOOTER,
    SHARD_ROW,
    SHARD_ROW_GROUP,
    SHARD_SHA256,
    checksum_column,
    height_column,
    width_column,
)
from sdvae_ray.sources.manifest.manifest import ROWS_PER_GROUP
from sdvae_ray.sources.manifest.reader import find_index, iterate_row_groups
from sdvae_ray.sources.manifest.writer import writing
from sdvae_ray.sources.shards import checksum, footer_size
from sdvae_ray.storage import Storage, join

MANIFEST, MANIFEST_FOLDER = "manifest.parquet", "manifest"
_READERS = 8  # threads of a task that fetch FOVs
_LINE_EVERY = 15.0  # seconds


@dataclass(frozen=True)
class Packed:
    """The result of `pack`.

    fovs, shards  how many were packed
    place         the manifest of shards, or the folder of the tars
    skipped       shards that were finished before
    errors        FOVs whose files could not be packed
    first_error   the reason of the first of these FOVs
    transient     how many of these FOVs failed because of the storage: the same command tries them again
    source_bytes  bytes of the files as they were read
    stored_bytes  bytes of the files as they are stored
    """

    fovs: int
    shards: int
    place: str
    skipped: int
    errors: int
    first_error: str | None
    transient: int
    source_bytes: int
    stored_bytes: int


def pack(
    manifest: str,
    output: str,
    storage: Storage,
    console: Console,
    options: PackOptions,
    address: str | None = None,
) -> Packed:
    """Write the FOVs of a manifest as shards into the folder `output`, and the manifest of shards after them.

    address: a Ray cluster; None: the cluster of this job, else this machine. Raises what `plan_shards` raises, and RunError if not
    one FOV can be packed.
    """
    with Lease(output, storage) as lease:
        plan = plan_shards(manifest, output, storage, options, lambda line: print_line(console, f"pack: {line}"))
        with ray_session(address, console):
            check_folder_is_shared("--output", output)
            records = _write_shards(plan, output, storage, console)
        lease.check()
        errors = [error for record in records for error in record["errors"] if error is not None]
        if len(errors) == plan.manifest["fovs"]:
            raise RunError(f"not one of {len(errors)} FOVs can be packed, the first: {errors[0]}")
        place = _write_manifest(plan, records, output, storage) if plan.format == "parquet" else join(output, SHARDS)
    return Packed(
        fovs=plan.manifest["fovs"],
        shards=len(records),
        place=place,
        skipped=sum(record["skipped"] for record in records),
        errors=len(errors),
        first_error=errors[0] if errors else None,
        transient=sum(record["transient"] for record in records),
        source_bytes=sum(record["source_bytes"] for record in records),
        stored_bytes=sum(record["stored_bytes"] for record in records),
    )


def _write_shards(plan: Plan, output: str, storage: Storage, console: Console) -> list[dict[str, Any]]:
    """Return the records of all shards, in order; print a line of progress now and then."""
    needed = 3 * plan.fovs_per_shard * plan.fov_bytes  # the shard, the files of a row group, and the upload
    task = ray.remote(_pack_shard).options(num_cpus=TASK_CPUS, **weighing(needed))
    shared = ray.put((plan, output, storage))
    arguments = ((shared, number, rows) for number, rows in enumerate(_shard_rows(plan, storage)))
    records: list[dict[str, Any]] = []
    fovs, last = 0, time.monotonic()
    with unwrapped_failures():
        for record in in_order(task, arguments):
            records.append(record)
            fovs += len(record["errors"])
            if time.monotonic() - last > _LINE_EVERY:
                last = time.monotonic()
                print_line(console, f"pack: {fovs} of {plan.manifest['fovs']} FOVs in {len(records)} shards")
    return records


def _shard_rows(plan: Plan, storage: Storage) -> Iterator[pa.Table]:
    """Yield the rows of the manifest, shard by shard."""
    waiting: list[pa.Table] = []
    for table in iterate_row_groups(plan.manifest["uri"], storage):
        waiting.append(table)
        rows = pa.concat_tables(waiting)
        whole = len(rows) - len(rows) % plan.fovs_per_shard
        for start in range(0, whole, plan.fovs_per_shard):
            yield rows.slice(start, plan.fovs_per_shard).combine_chunks()
        waiting = [rows.slice(whole)]
    if waiting and len(waiting[0]):
        yield waiting[0].combine_chunks()


def _pack_shard(shared: tuple[Plan, str, Storage], number: int, rows: pa.Table) -> dict[str, Any]:
    """Write one shard and its record, unless they exist. Return the record, with `skipped`."""
    plan, output, storage = shared
    if (record := _finished(plan, output, storage, number)) is not None:
        return {**record, "skipped": True}
    packed: list[PackedFov] = []
    packer = plan.packer(storage)

    def groups() -> Iterator[tuple[pa.Table, list[PackedFov]]]:
        for start in range(0, len(rows), plan.fovs_per_group):
            group = rows.slice(start, plan.fovs_per_group)
            fovs = list(readers.map(packer.pack, group.to_pylist()))
            packed.extend(fov.without_files() for fov in fovs)
            yield _without_pixels(group), fovs

    with ThreadPoolExecutor(_READERS) as readers:
        if plan.format == "parquet":
            data = parquet_shard(groups(), plan.stains)
        else:
            data = tar_shard(groups(), plan.stains, number * plan.fovs_per_shard)
    storage.write_bytes(join(output, plan.shard(number)), data)
    record = {
        "shard": plan.shard(number),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "footer": checksum(data[-footer_size(data[-8:]) :]) if plan.format == "parquet" else None,
        "errors": [fov.error for fov in packed],
        "transient": sum(fov.is_transient for fov in packed),
        "source_bytes": sum(fov.source_bytes for fov in packed),
        "stored_bytes": sum(fov.stored_bytes for fov in packed),
        "checksums": {stain: [fov.checksums.get(stain) for fov in packed] for stain in plan.stains},
        "sizes": {stain: [fov.sizes.get(stain) for fov in packed] for stain in plan.stains} if plan.crop else {},
    }
    storage.write_bytes(join(output, plan.record(number)), json.dumps(record).encode())
    return {**record, "skipped": False}


def _finished(plan: Plan, output: str, storage: Storage, number: int) -> dict[str, Any] | None:
    """Return the record of a shard that needs no more work, else None."""
    try:
        record: dict[str, Any] = json.loads(storage.read_bytes(join(output, plan.record(number))))
        size = storage.size(join(output, plan.shard(number)))
    except (FileNotFoundError, ValueError):
        return None
    return record if size == record["bytes"] and not record["transient"] else None


def _write_manifest(plan: Plan, records: Sequence[dict[str, Any]], output: str, storage: Storage) -> str:
    """Write the manifest's rows, with the columns that locate their files in the shards, and return its place.

    It is many files if the manifest that was packed is.
    """
    place = join(output, MANIFEST if find_index(plan.manifest["uri"], storage) is None else MANIFEST_FOLDER)
    shards = zip(_shard_rows(plan, storage), records, strict=True)
    # a group has whole shards, because a load actor gets rows of one group
    per_group = max(1, ROWS_PER_GROUP // plan.fovs_per_shard)
    with writing(place, storage) as writer:
        for number, part in enumerate(iter(lambda: list(itertools.islice(shards, per_group)), [])):
            table = pa.concat_tables(_with_places(plan, rows, record) for rows, record in part)
            writer.write(table, f"{number:06d}")
    return place


def _without_pixels(rows: pa.Table) -> pa.Table:
    return rows.drop_columns([PIXELS]) if PIXELS in rows.column_names else rows


def _with_places(plan: Plan, rows: pa.Table, record: dict[str, Any]) -> pa.Table:
    """Return the rows of one shard with the columns that locate their files in it."""
    errors = record["errors"]
    fovs = range(len(errors))
    columns = {
        SHARD: pa.array([record["shard"] for _ in fovs], pa.string()),
        SHARD_ROW_GROUP: pa.array([fov // plan.fovs_per_group for fov in fovs], pa.int32()),
        SHARD_ROW: pa.array([fov % plan.fovs_per_group for fov in fovs], pa.int32()),
        SHARD_BYTES: pa.array([record["bytes"] for _ in fovs], pa.int64()),
        SHARD_SHA256: pa.array([record["sha256"] for _ in fovs], pa.string()),
        SHARD_FOOTER: pa.array([record.get("footer") for _ in fovs], pa.uint32()),
        PACK_ERROR: pa.array(errors, pa.string()),
    }
    for stain in plan.stains:
        checksums = record.get("checksums", {}).get(stain)  # records of an earlier version have none
        columns[checksum_column(stain)] = pa.array(checksums or [None for _ in fovs], pa.uint32())
    if plan.crop is not None:
        columns[SHARD_CROP] = pa.array([plan.crop for _ in fovs], pa.int32())
        for stain, sizes in record["sizes"].items():
            for axis, name in enumerate((height_column(stain), width_column(stain))):
                columns[name] = pa.array([None if size is None else size[axis] for size in sizes], pa.int32())
    table = _without_pixels(rows)
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table
