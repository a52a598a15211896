"""Results that metrics share, at a cost that is told of every metric as if it were alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sdvae_ray.contracts import Result, Shared
from sdvae_ray.engine.forward import Forward, Lap


class MeasuredShared(Shared):
    """Shared results of one field, or of one side of it. The lap of a result counts for every part of the work that asks for it,
    once, and not only for the part that came first.
    """

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.forward = forward
        self._laps: dict[Any, Lap] = {}
        self._told: set[tuple[Any, str]] = set()

    def of(self, function: Any, compute: Callable[[], Result]) -> Result:
        """Return the result of a function, computed at the first call."""
        part = self.forward.part
        if function not in self.results:
            with self.forward.lap(part):
                super().of(function, compute)
            self._laps[function] = self.forward.laps.pop()  # the lap of the part itself has it
        elif (function, part) not in self._told:
            self.forward.laps.append(replace(self._laps[function], part=part, calls=0))
        self._told.add((function, part))
        return super().of(function, compute)
