"""Run files as mappings, for tests that change a key or two, and the small run of most tests."""

import copy
import shutil
from pathlib import Path
from typing import Any

from sdvae_ray.config import RunConfig
from sdvae_ray.runfile import parse_run

ONE_EACH = {  # keys of a run file: one actor of each pool; every actor is a process that imports its libraries
    "load": {"actors": 1, "cpus": 0.1},
    "encode": {"actors": 1, "cpus": 0.5},
}
PCA = {
    "tiny": None,
    "pca": {"name": "patch_pca"},
}  # autoencoders, for Ray: no actor imports diffusers, which takes seconds


def merged(raw: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`raw` with `changes` laid over it, section by section; None drops a key."""
    out = copy.deepcopy(raw)
    for key, value in changes.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(out[key], value)
        else:
            out[key] = value
    return out


def small_run(folder: Path, **changes: Any) -> RunConfig:
    """A run under `folder` of 128-pixel crops in 64-pixel patches (P 4, C 5, T 2), of small models.

    `changes` are keys of the run file, laid over the defaults section by section; None drops a key, such as a model.
    Autoencoders: `tiny` (random weights) and `identity`; extractors: `latent` and `intensity`. One actor of each pool.
    """
    raw: dict[str, Any] = {
        "manifest": str(folder / "manifest.parquet"),
        "output": str(folder / "run"),
        "image": {"crop": 128, "patch": 64},
        "autoencoders": {
            "tiny": {"name": "diffusers_kl", "random": True, "architecture": "tiny"},
            "identity": {"name": "identity"},
        },
        "extractors": {"latent": {"name": "latent"}, "intensity": {"name": "intensity", "keep_patches": 2}},
        **ONE_EACH,
    }
    return parse_run(merged(raw, changes))


def copied(encoded: tuple[RunConfig, Any], folder: Path) -> tuple[RunConfig, Any]:
    """A copy of a finished run under `folder`, with what is beside its configuration; manifest and pixels are the first run's."""
    config, more = encoded
    output = str(folder / "run")
    shutil.copytree(config.output, output)
    return config.model_copy(update={"output": output}), more
