"""Between the host and the device: fields on their way in while others compute, results on their way out in one copy.

A GPU works through a queue; the host fills it and waits only for the results of a batch. A copy from memory that is not pinned, a
question about a number on the device (`if`, `item`), or an index that lies on the host would each stop the host until the queue is
empty. On a CPU all of this costs nothing and changes nothing.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


class UnusableOutputError(ValueError):
    """A model gave numbers that must not be stored: not finite, or outside the range of the stored type."""


@dataclass(frozen=True)
class Check:
    """A condition on numbers on the device; it is looked at when the results have arrived on the host.

    usable   () bool
    problem  the error message if it is False; `{}` in it stands for `value`
    value    () number, or None
    """

    usable: Tensor
    problem: str
    value: Tensor | None = None


def demand(checks: Sequence[Check]) -> None:
    """Wait for the device. Raises UnusableOutputError with the problem of the first check that fails."""
    Download({}, checks).wait()


def upload(values: np.ndarray, device: torch.device) -> Tensor:
    """Return a copy of an array on the device. The host does not wait for the copy."""
    if device.type != "cuda":
        return torch.from_numpy(np.array(values))
    return _pinned(values).to(device, non_blocking=True)


def uploads(images: Sequence[np.ndarray], device: torch.device) -> Iterator[Tensor]:
    """Yield copies of arrays on the device, in order. While one copy is in use, the next is made on a stream of its own."""
    if device.type != "cuda":
        yield from (upload(image, device) for image in images)
        return
    copies = torch.cuda.Stream(device)

    def start(image: np.ndarray) -> tuple[Tensor, torch.cuda.Event]:
        pinned = _pinned(image)
        with torch.cuda.stream(copies):
            return pinned.to(device, non_blocking=True), copies.record_event()

    following = start(images[0]) if images else None
    for number in range(len(images)):
        assert following is not None
        image, arrived = following
        following = start(images[number + 1]) if number + 1 < len(images) else None
        computing = torch.cuda.current_stream(device)
        computing.wait_event(arrived)
        image.record_stream(computing)
        yield image


def _pinned(values: np.ndarray) -> Tensor:
    pinned = torch.empty(values.shape, dtype=torch.from_numpy(np.empty(0, values.dtype)).dtype, pin_memory=True)
    pinned.numpy()[...] = values
    return pinned


class Download:
    """Named tensors of the device, and checks of them, on their way to the host as one buffer of bytes."""

    def __init__(self, tensors: Mapping[str, Tensor], checks: Sequence[Check]) -> None:
        self._problems = [check.problem for check in checks]
        device = next(
            (tensor.device for tensor in (*tensors.values(), *(check.usable for check in checks))), torch.device("cpu")
        )
        missing = torch.zeros((), device=device)
        parts = dict(tensors)
        if checks:
            parts[_USABLE] = torch.stack([check.usable for check in checks])
            parts[_VALUES] = torch.stack([missing if check.value is None else check.value.float() for check in checks])
        self._layout: list[tuple[str, torch.dtype, torch.Size]] = []
        flat: list[Tensor] = []
        for name, tensor in sorted(parts.items(), key=lambda part: -part[1].element_size()):  # every part stays aligned
            self._layout.append((name, tensor.dtype, tensor.shape))
            flat.append(tensor.to(device).contiguous().view(-1).view(torch.uint8))
        buffer = torch.cat(flat) if flat else torch.empty(0, dtype=torch.uint8)
        self._arrived: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._bytes = torch.empty(buffer.shape, dtype=torch.uint8, pin_memory=True)
            self._bytes.copy_(buffer, non_blocking=True)
            self._arrived = torch.cuda.current_stream(device).record_event()
        else:
            self._bytes = buffer

    def wait(self, strict: bool = True) -> dict[str, np.ndarray]:
        """Return name -> array. Raises UnusableOutputError for the first check that failed, if `strict`."""
        if self._arrived is not None:
            self._arrived.synchronize()
        arrays, start = {}, 0
        for name, dtype, shape in self._layout:
            end = start + shape.numel() * dtype.itemsize
            arrays[name] = self._bytes[start:end].view(dtype).view(shape).numpy().copy()
            start = end
        usable, values = arrays.pop(_USABLE, np.ones(0, bool)), arrays.pop(_VALUES, np.zeros(0, np.float32))
        if strict and not usable.all():
            first = int(np.argmin(usable))
            raise UnusableOutputError(self._problems[first].format(f"{values[first]:g}"))
        return arrays


class Clock:
    """Measures the seconds between its creation and `stopped`: of the device's work on a GPU, of the wall clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._points: list[Any] = [self._point()]

    def _point(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def stopped(self) -> "Clock":
        self._points.append(self._point())
        return self

    def seconds(self) -> float:
        """Wait until the device has reached the second point, and return the seconds between the two points."""
        start, end = self._points
        if not self._on_gpu:
            return float(end - start)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


_USABLE, _VALUES = "\0usable", "\0values"  # names that no column has
