"""A run that joins finished runs with one set of settings: its tables are theirs, read where they stand.

The folder of a joined run holds fovs/joined.json, the outputs of its members, and what `score` and `report` write. A file of a
member is named `<output of the member>::<name>`; `table_files.file_uri` says where it lies.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sdvae_ray.errors import ConfigError
from sdvae_ray.run.record import Record, flat
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.table_files import MEMBERS, members
from sdvae_ray.schema import FOVS
from sdvae_ray.storage import join

JOINED = "joined"  # key of run.json: the outputs of the members
_OWN = (
    "output",
    "manifest",
    "storage",
    "load",
    "compress",
    "encode",
    "write",
    "cluster",
    "synthetic",
    "max_error_fraction",
)


def join_runs(runs: Sequence[Run], output: str) -> Run:
    """Write the folder of a run that joins finished runs, and return the run. output: its folder or URI, as `Run.open` has it.

    Raises ConfigError, which names the first thing that differs, if the runs have not one set of settings and weights, or if
    `output` holds another run; DataError if a run has no record.
    """
    places = [run.output for run in runs]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise ConfigError(f"{twice} is named twice; a joined score takes every run once")
    if output in places:
        raise ConfigError(f"{output} is one of the joined runs; --output names a folder of its own")
    if nested := next((run for run in runs if members(run.output, run.storage)), None):
        raise ConfigError(f"{nested.output} joins runs itself; name its members")
    records = [run.record for run in runs]
    first = runs[0]
    for run, record in zip(runs[1:], records[1:], strict=True):
        _check_same(first, run, "", _settings(first), _settings(run))
        _check_same(first, run, "weights.", _weights(records[0]), _weights(record))
    joined = Run(first.config.model_copy(update={"output": output}))
    there = joined.find_record()
    if there is not None and there.get(JOINED) != places:
        raise ConfigError(f"{output} holds another run; choose another output")
    if there is None:
        joined.write_record(_joined_record(joined, records, places))
    joined.storage.write_bytes(join(output, FOVS, MEMBERS), json.dumps(places, indent=1).encode() + b"\n")
    return joined


def refuse_joined(run: Run, command: str) -> None:
    """Raise ConfigError if the run joins others: their rows are theirs."""
    if outputs := members(run.output, run.storage):
        raise ConfigError(f"{run.output} joins {len(outputs)} runs; {command} one of them, such as {outputs[0]}")


def _settings(run: Run) -> dict[str, Any]:
    whole = {key: value for key, value in run.config.model_dump(mode="json").items() if key not in _OWN}
    return flat({**whole, **run.config.identity()})


def _weights(record: Record) -> dict[str, Any]:
    return flat({name: weights.get("files") for name, weights in record["weights"].items()})


def _check_same(first: Run, other: Run, prefix: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> None:
    for key in dict.fromkeys([*one, *two]):
        if one.get(key) != two.get(key):
            raise ConfigError(
                f"{other.output} has {prefix}{key} = {two.get(key)!r}, and {first.output} has {one.get(key)!r}: "
                "joined runs have one set of settings"
            )


def _joined_record(run: Run, records: Sequence[Record], places: list[str]) -> Record:
    """Return the record of the joined run: that of the first, with the fields and sessions of all."""
    manifests = [record["manifest"] for record in records]
    digest = hashlib.sha256("".join(str(manifest["sha256"]) for manifest in manifests).encode())
    described = {"uri": manifests[0]["uri"], "fovs": sum(manifest["fovs"] for manifest in manifests)}
    kept = {key: value for key, value in records[0].items() if key not in ("scored", "excluded_by_qc", "extensions")}
    sessions = [session for record in records for session in record["sessions"]]
    config = run.config.model_dump(mode="json")
    manifest = {**described, "sha256": digest.hexdigest()}
    return {**kept, "config": config, "manifest": manifest, "sessions": sessions, JOINED: places}
