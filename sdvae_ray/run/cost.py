"""What the parts of the work of a run cost: core-seconds and GPU-seconds, kept in run.json beside the stages of every session.

A part is a verb and a name: `encode`, `decode` and `code` (the file of the latent) of an autoencoder, `compress` of a codec (both
ways), `extract` of an extractor, `metric` of a metric. A call is one field of view; of an extractor or a metric, one side of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

COSTS = "costs"  # key of the stages of a session in run.json
_OF_A_SIDE = ("encode", "decode", "code", "compress")


@dataclass(frozen=True)
class Cost:
    """The cost of some calls. gpu_seconds: None if there was no GPU. The first calls, which are slow, count too."""

    calls: int
    core_seconds: float
    gpu_seconds: float | None = None

    def __add__(self, other: Self) -> Self:
        gpus = [cost.gpu_seconds for cost in (self, other) if cost.gpu_seconds is not None]
        core = self.core_seconds + other.core_seconds
        return type(self)(self.calls + other.calls, core, sum(gpus) if gpus else None)

    @property
    def of_a_call(self) -> Self:
        """Return the mean cost of a call; there was one."""
        gpu = None if self.gpu_seconds is None else self.gpu_seconds / self.calls
        return type(self)(1, self.core_seconds / self.calls, gpu)


Costs = dict[str, Cost]  # part -> its cost


def added(several: Iterable[Mapping[str, Cost]]) -> Costs:
    """Return the sum of costs, part by part."""
    total: Costs = {}
    for costs in several:
        for part, cost in costs.items():
            total[part] = total[part] + cost if part in total else cost
    return total


def told(costs: Mapping[str, Cost]) -> dict[str, dict[str, Any]]:
    """Return costs as run.json has them."""
    return {
        part: {
            "calls": cost.calls,
            "core_seconds": round(cost.core_seconds, 4),
            "gpu_seconds": None if cost.gpu_seconds is None else round(cost.gpu_seconds, 4),
        }
        for part, cost in sorted(costs.items())
    }


def recorded(record: Mapping[str, Any] | None) -> Costs:
    """Return the costs of all sessions in a record of a run; empty for a run that measured none."""
    streams = [stages for session in (record or {}).get("sessions", []) for stages in session.get("stages", [])]
    return added({part: Cost(**cost) for part, cost in stages.get(COSTS, {}).items()} for stages in streams)


def of_side(costs: Mapping[str, Cost], side: str) -> Cost | None:
    """Return what one field of view costs a side, from the original to the reconstruction and the bytes; None: not measured."""
    parts = [costs[part].of_a_call for part in (f"{verb} {side}" for verb in _OF_A_SIDE) if part in costs]
    return reduce(Cost.__add__, parts) if parts else None


def of_metric(costs: Mapping[str, Cost], metric: str) -> Cost | None:
    """Return what one side of a field of view costs a metric; None: not measured."""
    cost = costs.get(f"metric {metric}")
    return None if cost is None else cost.of_a_call
