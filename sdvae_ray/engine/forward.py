"""Forward passes of one fixed shape, at one precision, with a clock. Every model of the engine runs through them."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from sdvae_ray.run.cost import Cost

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Lap:
    """One run of a part of the work. events: the start and the end in the queue of a GPU; None without a GPU. calls: 0 for a piece
    of a call."""

    part: str
    core_seconds: float
    events: tuple[torch.cuda.Event, torch.cuda.Event] | None
    calls: int = 1

    def cost(self) -> Cost:
        """Return the cost; the device must have reached the end."""
        gpu = None if self.events is None else self.events[0].elapsed_time(self.events[1]) / 1000
        return Cost(self.calls, self.core_seconds, gpu)


class Forward:
    """Runs models on one device at one precision (a key of DTYPES).

    laps: what every part of the work costs; nobody waits for it. part: the part that runs now. seconds: part -> seconds, with the
    device synchronised, filled only if `profile`, because the waiting prevents overlap.
    """

    def __init__(self, device: torch.device, precision: str, profile: bool = False) -> None:
        self.device, self.dtype, self.profile = device, DTYPES[precision], profile
        if device.type == "cuda" and self.dtype == torch.float32:
            torch.backends.cudnn.allow_tf32 = False  # torch's default for convolutions has ten bits of float32's 23
        self.seconds: dict[str, float] = defaultdict(float)
        self.laps: list[Lap] = []
        self.part = ""

    def batched(
        self, function: Callable[[Tensor], tuple[Tensor, Tensor | None]], inputs: Tensor, size: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return the joined outputs of `function` over slices of exactly `size` inputs; padding of the last slice is trimmed.

        function: (size, ...) -> two tensors (size, ...), or a tensor and None.
        """
        firsts, seconds = [], []
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            real = len(part)
            if real < size:
                part = torch.cat([part, part.new_zeros(size - real, *part.shape[1:])])
            if part.ndim == 4 and self.device.type == "cuda":
                part = part.contiguous(memory_format=torch.channels_last)
            first, second = function(part)
            firsts.append(first[:real])
            if second is not None:
                seconds.append(second[:real])
        return torch.cat(firsts), torch.cat(seconds) if seconds else None

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which torch computes at the precision of this object."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        """Add a lap for the block, and its seconds to `seconds[part]` if `profile`."""
        self.part = part
        start = time.perf_counter()
        with self.lap(part):
            yield
        if self.profile:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds[part] += time.perf_counter() - start

    @contextmanager
    def lap(self, part: str) -> Iterator[None]:
        """Add a lap for the block alone; laps may lie within one another."""
        start, begun = time.process_time(), self._event()
        yield
        ended = self._event()
        events = None if begun is None or ended is None else (begun, ended)
        self.laps.append(Lap(part, time.process_time() - start, events))

    def taken_laps(self) -> list[Lap]:
        """Return the laps since the last call."""
        laps, self.laps = self.laps, []
        return laps

    def _event(self) -> torch.cuda.Event | None:
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event
