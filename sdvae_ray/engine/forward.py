"""Forward passes of one fixed shape, at one precision, with a clock. Every model of the engine runs through them."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Forward:
    """Runs models on one device at one precision (a key of DTYPES).

    seconds: part of the work -> seconds, with the device synchronised. It is filled only if `profile`, because the waiting
    prevents overlap.
    """

    def __init__(self, device: torch.device, precision: str, profile: bool = False) -> None:
        self.device, self.dtype, self.profile = device, DTYPES[precision], profile
        if device.type == "cuda" and self.dtype == torch.float32:
            torch.backends.cudnn.allow_tf32 = False  # torch's default for convolutions has ten bits of float32's 23
        self.seconds: dict[str, float] = defaultdict(float)

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
        """Add the seconds of the block to `seconds[part]`, if `profile`."""
        if not self.profile:
            yield
            return
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[part] += time.perf_counter() - start
