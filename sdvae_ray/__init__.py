"""Does the phenotype survive Stable Diffusion's VAE? A distributed job on Ray, and its results in Python.

    import sdvae_ray

    run = sdvae_ray.open("demo-run/run")                  # a run's output, local or s3://, or its run file
    fov_ids, latents = run.latents("demo_kl")             # (n, P, T, Z, s, s) float16
    run.scores().summary                                  # polars

    found = sdvae_ray.retrieve(["plate1.csv.gz"], pos_sameby=["Metadata_broad_sample"], neg_sameby=["Metadata_Plate"])

Importing this package imports nothing heavy: each function imports what it needs when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdvae_ray.run.run import Run


def open(place: str | Path, overrides: Sequence[str] = (), storage: Mapping[str, Any] | None = None) -> Run:
    """A run on storage: its configuration, record, tables and scores.

    place: a run's output folder or URI, or its run file (.yaml). overrides: `key.key=value`, as `--set` takes them. storage:
    keys of `storage:` in a run file (anonymous, endpoint_url, region, profile), laid over the run's own.
    Raises ConfigError for what is not allowed and DataError where there is no run.
    """
    from sdvae_ray.run.run import Run

    return Run.open(place, overrides, storage)
