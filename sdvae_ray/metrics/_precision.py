"""Convolutions at full float32 on every device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_convolutions() -> Iterator[None]:
    """Switch TF32 off within the block, so that cuDNN computes convolutions in full float32. By default cuDNN rounds the inputs of
    a convolution to TF32, 10 bits: too few for a variance or a small error."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
