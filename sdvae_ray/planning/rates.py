"""The seconds, bytes and starts that a plan counts with: measured if something has measured them, else assumed in the run file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sdvae_ray.config import RunConfig
from sdvae_ray.errors import ConfigError
from sdvae_ray.planning.measured import Measured
from sdvae_ray.settings.plan import Stage

_ASSUMED = "assumed in the run file"


@dataclass(frozen=True)
class Rates:
    """What a plan counts with.

    seconds    stage -> seconds of one actor per FOV; write: CPU-seconds of a write task; a stage without work is absent
    on_gpu     whether an encode actor has a GPU
    first_fov  seconds from the start to the first encoded FOVs
    bytes_in   of the images of a FOV; None: not known
    bytes_out  of all tables per FOV; None: not known
    origins    quantity -> where its number is from
    """

    seconds: dict[str, float]
    on_gpu: bool
    first_fov: float
    bytes_in: float | None
    bytes_out: float | None
    origins: dict[str, str]

    @property
    def cpu_seconds(self) -> float:
        """Return the CPU-seconds of a FOV outside the encode actors."""
        return sum(seconds for stage, seconds in self.seconds.items() if stage != "encode")


def rates_of(config: RunConfig, measurements: Sequence[Measured]) -> Rates:
    """Return the rates of a run. measurements: the best first; a number that the first does not tell is taken from the next.

    Raises ConfigError if a stage of the run has neither a measurement nor an assumption.
    """
    origins: dict[str, str] = {}

    def first_known(quantity: str, values: Sequence[tuple[Any, str]]) -> Any:
        for value, origin in values:
            if value is not None:
                origins[quantity] = origin
                return value
        return None

    plan, seconds = config.plan, {}
    for stage in get_args(Stage):
        told = [(measured.seconds.get(stage), measured.origin) for measured in measurements]
        value = first_known(f"seconds {stage}", [*told, (plan.seconds.get(stage), _ASSUMED)])
        if value is not None:
            seconds[stage] = float(value)
    wanted = ["load", "encode", *(["compress"] if config.codecs else [])]
    if absent := [stage for stage in wanted if stage not in seconds]:
        raise ConfigError(
            f"no seconds per FOV of {' and '.join(absent)}: `sdvae-ray check` measures them, --rates FILE names a measurement, "
            "and plan.seconds assumes them"
        )
    starts = [(measured.first_fov, measured.origin) for measured in measurements]
    of_in = [(measured.bytes_in, measured.origin) for measured in measurements]
    of_out = [(measured.bytes_out, measured.origin) for measured in measurements]
    return Rates(
        seconds=seconds,
        on_gpu=_on_gpu(config, measurements),
        first_fov=first_known("first FOV", [*starts, (plan.first_fov_seconds, _ASSUMED)]),
        bytes_in=first_known("bytes in", of_in),
        bytes_out=first_known("bytes out", [*of_out, (plan.bytes_out, _ASSUMED)]),
        origins=origins,
    )


def _on_gpu(config: RunConfig, measurements: Sequence[Measured]) -> bool:
    """Return whether an encode actor has a GPU: as configured, else as measured, else it has."""
    if config.encode.gpus != "auto":
        return config.encode.gpus > 0
    return next((measured.on_gpu for measured in measurements if measured.on_gpu is not None), True)
