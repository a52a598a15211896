"""run.json, the record of a run. With it the numbers can be computed again, and a resume that would mix two runs is refused."""

import datetime
import importlib.metadata
import json
import platform
import sys
from typing import Any

from sdvae_ray.config import SHELVES, RunConfig
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.storage import Storage, join
from sdvae_ray.version import VERSION

FILE = "run.json"
CHANGES = "manifest_changes"  # key: descriptions of the manifests that the run had before the present one
_LIBRARIES = (
    "ray", "torch", "torchvision", "diffusers", "transformers", "numpy", "pyarrow", "polars", "faiss-cpu", "tifffile",
)  # fmt: skip

Record = dict[str, Any]


_NEEDED = {"config", "manifest", "weights", "sessions"}  # keys of every record
_CODEC_UNIT = "stain of a field"  # what a codec writes as one file; rows of another unit have other bits


def new_record(
    config: RunConfig,
    manifest: dict[str, Any],
    weights: dict[str, Record],
    micro_batch: int,
    precision: str,
    latent_scaling: dict[str, dict[str, float]] | None = None,
    engines: dict[str, str] | None = None,
) -> Record:
    """Return the record of a new run, without sessions.

    manifest: from `describe_manifest` of the sources. weights: `<shelf>.<name>` -> record of its weights. micro_batch: RGB passes
    per forward pass. latent_scaling: autoencoder -> scaling_factor and shift_factor. engines: autoencoder -> the engine that
    computes it.
    """
    return {
        "sdvae_ray": VERSION,
        **_described(config),
        "manifest": manifest,
        "weights": weights,
        "latent_scaling": latent_scaling or {},
        "engines": engines or {},
        "codec_unit": _CODEC_UNIT,
        "micro_batch": micro_batch,
        "precision": precision,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name))},
        "sessions": [],
    }


def _described(config: RunConfig) -> Record:
    whole = config.model_dump(mode="json")
    return {"digest": config.digest(), "config": whole, "random_weights": config.random_weights}


def read_record(output: str, storage: Storage) -> Record | None:
    """Return the content of run.json; None if the output has no run.json."""
    uri = join(output, FILE)
    try:
        stored = json.loads(storage.read_bytes(uri))
    except FileNotFoundError:
        return None
    except ValueError:
        stored = None
    if not isinstance(stored, dict) or not stored.keys() >= _NEEDED:
        raise DataError(f"{uri} is damaged: it is no record of a run; put a copy of it back, or choose another output")
    return stored


def write_record(output: str, record: Record, storage: Storage) -> None:
    """Write run.json; it replaces the earlier one."""
    storage.write_bytes(join(output, FILE), json.dumps(record, indent=1, sort_keys=False).encode() + b"\n")


def check_same_run(record: Record, config: RunConfig, manifest: dict[str, Any], extend: bool = False) -> list[str]:
    """Return the entries that this run adds to the recorded run, such as `codecs.jxl`; empty unless `extend`.

    Raises ConfigError, which names the first key that differs, if `record` belongs to another run.
    """
    if record["manifest"]["sha256"] != manifest["sha256"]:
        raise ConfigError(
            f"{config.output} holds a run of another manifest ({record['manifest']['uri']}, {record['manifest']['fovs']} FOVs); "
            f"choose another output"
        )
    if record["config"].get("codecs") and (unit := record.get("codec_unit", "patch")) != _CODEC_UNIT:
        raise ConfigError(
            f"{config.output} holds codecs that wrote one file per {unit}, and they write one per {_CODEC_UNIT} now; "
            "choose another output"
        )
    before = RunConfig.model_validate(record["config"]).identity()
    now = config.identity()
    added = [f"{shelf}.{name}" for shelf in SHELVES for name in now[shelf] if name not in before[shelf]]
    gone = [f"{shelf}.{name}" for shelf in SHELVES for name in before[shelf] if name not in now[shelf]]
    new = tuple(f"{name}." for name in added)
    flat_before, flat_now, old = flat(before), flat(now), tuple(f"{name}." for name in gone)
    for key in dict.fromkeys([*flat_now, *flat_before]):
        was, value = flat_before.get(key), flat_now.get(key)
        if was != value and not key.startswith((*new, *old)):
            raise ConfigError(
                f"{config.output} holds a run with {key} = {was!r}, this one has {value!r}; choose another output"
            )
    if gone:
        raise ConfigError(f"{config.output} holds a run that also has {', '.join(gone)}; choose another output")
    if added and not extend:
        raise ConfigError(
            f"{config.output} holds a run without {', '.join(added)}; `encode --extend` adds that to it, or choose another output"
        )
    return added


def extended(
    record: Record,
    config: RunConfig,
    weights: dict[str, Record],
    added: list[str],
    latent_scaling: dict[str, dict[str, float]],
    engines: dict[str, str],
) -> Record:
    """Return the record with new configuration and weights; `extensions` gets the added names and the time."""
    extensions = [*record.get("extensions", []), {"added": added, "started": now()}]
    return {
        **record,
        **_described(config),
        "weights": {**weights, **record["weights"]},
        "latent_scaling": latent_scaling,
        "engines": engines,
        "extensions": extensions,
    }


def with_score_settings(record: Record, config: RunConfig) -> Record:
    """Return the record with the score section of `config`.

    A `score.conclude` that another one replaces, with scores at hand, is added to `margins_before`.
    """
    settings = config.model_dump(mode="json")["score"]
    before = record["config"].get("score", {}).get("conclude")
    changed = {**record, "config": {**record["config"], "score": settings}}
    if "scored" in record and before != settings["conclude"]:
        changed["margins_before"] = [*record.get("margins_before", []), before]
    return changed


def now() -> str:
    """Return the time in UTC, in ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings as `key.key` -> value."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: leaf for name, child in value.items() for key, leaf in flat(child, f"{prefix}.{name}".lstrip(".")).items()
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
