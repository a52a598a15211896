"""The section `plan` of a run file: what `sdvae-ray plan` assumes where nothing is measured. Each number is told as assumed."""

from typing import Annotated, Literal

from pydantic import Field

from sdvae_ray.settings.values import Count, Section

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Stage = Literal["load", "compress", "encode", "write"]


class SourceCounts(Section):
    """The size of one source of a screen."""

    fovs: Count
    """Fields of view."""
    plates: Count
    """Plates."""
    wells: Count | None = None
    """Wells."""
    bytes_in: Amount | None = None
    """Bytes of the image files of a field of view."""
    function_bytes: Amount = 0.0
    """Bytes of one illumination function; there is one per plate and stain."""


class PlanConfig(Section):
    """Section `plan`."""

    sources: dict[str, SourceCounts] = Field({})
    """Source -> its counts, for a plan without a manifest."""
    seconds: dict[Stage, Seconds] = Field({})
    """Stage -> seconds of one actor per field of view."""
    first_fov_seconds: Amount = 120.0
    """From the start to the first encoded fields: nodes, actors, models."""
    bytes_out: Amount | None = None
    """Bytes of all tables per field of view."""
    gpus_per_node: Count = 1
    """GPU workers that are lost together."""
    cpus_per_worker: Annotated[float, Field(gt=0)] | None = None
    """CPUs beside a GPU worker; null: as many as it wants."""
    loaders: Count | None = None
    """Actors of the load pool beside a worker; null: as many as it wants."""
    gigabits_per_node: Annotated[float, Field(gt=0)] | None = None
    """Network of a node; null: no limit."""
    reads_per_second: Annotated[float, Field(gt=0)] | None = None
    """GET requests that storage answers; null: no limit."""
    driver_seconds_per_1000_fovs: Seconds = 0.65
    """CPU of the driver; benchmarks/scale.py measures it."""
    spot_losses_per_hour: Amount = 0.05
    """Losses of one node."""
    replacement_minutes: Amount = 5.0
    """Until a lost node is there again and its models are loaded."""
    latency_ms: Annotated[float, Field(gt=0)] = 30.0
    """Median of one request; the simulation draws lognormally."""
    latency_spread: Amount = 0.7
    """Standard deviation of the logarithm of the latency."""
