"""Sections `load`, `compress`, `encode`, `write` and `cluster` of a run file: the pools of actors, the files, the cluster."""

from typing import Literal

from pydantic import Field

from sdvae_ray.settings.values import Actors, Count, Section, Share


class LoadConfig(Section):
    """Section `load`: the pool of actors that read and decode images."""

    actors: Actors = "auto"
    """A number, or [least, most]."""
    cpus: Share | Literal["auto"] = "auto"
    """CPUs of one actor."""
    batch_fovs: int = Field(4, ge=1, le=10)
    """Fields of view that one call reads; a block of more than 10 raw ones would be cut in two."""


class CompressConfig(Section):
    """Section `compress`: the pool of actors that run the codecs. A run without codecs has none."""

    actors: Actors = "auto"
    """A number, or [least, most]."""
    cpus: Share | Literal["auto"] = "auto"
    """CPUs of one actor."""


class EncodeConfig(Section):
    """Section `encode`: the pool of actors that hold the models."""

    actors: Actors = "auto"
    """A number, or [least, most]."""
    gpus: Share | Literal["auto"] = "auto"
    """GPUs of one actor; a share lets several actors share a GPU."""
    cpus: Share | Literal["auto"] = "auto"
    """CPUs of one actor."""
    batch_fovs: int = Field(8, ge=1)
    """Fields of view that one call takes."""
    micro_batch: Count | Literal["auto"] = "auto"
    """RGB passes in one forward pass; part of the run's identity."""


class WriteConfig(Section):
    """Section `write`: the files of the tables."""

    rows_per_file: Count | Literal["auto"] = "auto"
    """Fields of view per file; auto: a sixteenth of the run, 1 to 256."""


class ClusterConfig(Section):
    """Section `cluster`: facts of the cluster that Ray does not know."""

    shared_filesystem: bool = False
    """True: a local output folder is the same folder on every node."""
    autoscaling: bool = False
    """True: pools may be larger than the nodes present at the start."""
    dollars_per_gpu_hour: float | None = Field(None, ge=0)
    """Price of a GPU with the CPUs and memory beside it; `check`, `bench` and `plan` then tell dollars."""
    dollars_per_cpu_hour: float | None = Field(None, ge=0)
    """Price of a CPU of a node without a GPU."""
    spot_dollars_per_gpu_hour: float | None = Field(None, ge=0)
    """Price of a GPU of a node that may be taken away; for `plan`."""
    spot_dollars_per_cpu_hour: float | None = Field(None, ge=0)
    """Price of a CPU of a node that may be taken away; for `plan`."""
