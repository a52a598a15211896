"""The precision of a model is that of the autocast around the call. A model with weights of its own in that type casts nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_precision(device: torch.device) -> Iterator[torch.dtype]:
    """Switch autocast off within the block; yield the type of the autocast around it, float32 without one."""
    kind = device.type
    if kind == "meta":  # no data, no precision: for counting operations
        yield torch.float32
        return
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    with torch.autocast(kind, enabled=False):
        yield dtype
