"""What a run, a check or a bench has measured, read from their JSON files: seconds, bytes and starts per field of view."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdvae_ray.errors import DataError
from sdvae_ray.run.cost import recorded
from sdvae_ray.run.record import FILE
from sdvae_ray.run.run import Run
from sdvae_ray.run.traffic import recorded_traffic
from sdvae_ray.storage import Storage, join

MEASURED = "check.json"  # in the output of a run: what `check` has measured
STAGES = ("load", "compress", "encode")


@dataclass(frozen=True)
class Measured:
    """What one file tells.

    origin     where it was measured
    seconds    stage -> seconds of work of one actor per FOV, as far as they were measured
    on_gpu     whether a GPU encoded; None: the file does not tell
    first_fov  seconds from the start to the first encoded FOVs; None: not measured
    bytes_in   of the files of a FOV; None: not measured
    bytes_out  of all tables per FOV; None: not measured
    """

    origin: str
    seconds: dict[str, float]
    on_gpu: bool | None = None
    first_fov: float | None = None
    bytes_in: float | None = None
    bytes_out: float | None = None


def measured(run: Run) -> list[Measured]:
    """Return what was measured of this configuration, the best first: by the run itself, then by `check`; empty for a new run."""
    results = []
    if (record := run.find_record()) is not None and (of_run := of_record(record, f"{FILE} of the run")):
        results.append(of_run)
    if checked := checked_run(run):
        results.append(of_check(checked, f"{MEASURED} of the run"))
    return results


def measured_file(place: str, storage: Storage) -> Measured:
    """Return what a file tells: a check.json, a run.json or the folder of one, or the JSON of `bench`. Raises DataError for
    other files.
    """
    uri = place if place.endswith(".json") else join(place, FILE)
    try:
        content = json.loads(storage.read_bytes(uri))
    except FileNotFoundError as error:
        raise DataError(f"no measurement at {uri}") from error
    except ValueError as error:
        raise DataError(
            f"{uri} is no JSON; a check.json, a run.json or the JSON of `sdvae-ray bench` is wanted"
        ) from error
    name = uri.rpartition("/")[2]
    content = content if isinstance(content, dict) else {}
    if "sessions" in content and (result := of_record(content, name)):
        return result
    if "seconds" in content:
        return of_check(content, name)
    if content.get("steps"):
        return _of_bench(content, name)
    raise DataError(
        f"{uri} tells no seconds per FOV; a check.json, a run.json or the JSON of `sdvae-ray bench` is wanted"
    )


def of_record(record: Mapping[str, Any], origin: str) -> Measured | None:
    """Return what the newest session of run.json tells that encoded a FOV; None without one."""
    for session in reversed(record.get("sessions", [])):
        streams = session.get("stages", [])
        if seconds := session_seconds(streams):
            traffic = recorded_traffic({"sessions": [session]})
            rows = sum(stages["load"]["rows"] for stages in streams if "load" in stages)
            costs = recorded({"sessions": [session]})
            on_gpu = any(cost.gpu_seconds is not None for cost in costs.values()) if costs else None
            first = next((stages["first_fov"] for stages in streams if stages.get("first_fov")), None)
            bytes_in, bytes_out = (traffic.read_bytes / rows, traffic.written_bytes / rows) if traffic else (None, None)
            return Measured(origin, seconds, on_gpu, first, bytes_in, bytes_out)
    return None


def of_check(checked: Mapping[str, Any], origin: str) -> Measured:
    """Return what check.json tells. Its bytes are of tables of one row, which are larger per FOV than those of a run."""
    device = checked.get("device")
    on_gpu = None if device is None else device != "cpu"
    return Measured(origin, dict(checked["seconds"]), on_gpu, bytes_out=sum(checked.get("stored", {}).values()) or None)


def _of_bench(content: Mapping[str, Any], origin: str) -> Measured:
    """Return what the largest step of a bench tells: the rate of an encode actor within the stream."""
    step = content["steps"][-1]
    return Measured(origin, {"encode": 1 / step["per_actor"]}, bool(step["gpus"]), step["cold_start"])


def measured_seconds(run: Run) -> dict[str, float] | None:
    """Return stage -> seconds of work of one actor per FOV: of the newest session of the run, else of `check`; None without
    either.

    Numbers of another configuration are not taken.
    """
    return next((measurement.seconds for measurement in measured(run)), None)


def measured_bytes(run: Run) -> int:
    """Return the bytes of all tables per FOV that `check` has measured; 0 without a check of this configuration."""
    return sum(checked_run(run).get("stored", {}).values())


def checked_run(run: Run) -> dict[str, Any]:
    """Return the content of check.json; empty if it is missing, damaged, or of another configuration."""
    try:
        kept = json.loads(run.storage.read_bytes(run.uri(MEASURED)))
    except (FileNotFoundError, ValueError):
        return {}
    return kept if isinstance(kept, dict) and kept.get("digest") == run.config.digest() else {}


def session_seconds(streams: list[dict[str, Any]]) -> dict[str, float] | None:
    """Return stage -> seconds of work per FOV over the streams of one session of run.json; None if no FOV was encoded."""
    seconds = {}
    for name in STAGES:
        counts = [stages[name] for stages in streams if name in stages]
        rows = sum(count["rows"] for count in counts)
        if rows:
            seconds[name] = math.fsum(count["seconds"] for count in counts) / rows
    return seconds if seconds.get("encode") and seconds.get("load") else None
