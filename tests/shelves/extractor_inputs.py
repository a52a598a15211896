"""What the tests of extractors share: noise to embed, and an error that is one line."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sdvae_ray.errors import UserError


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Uniform in [0, 1), of a seed."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def refusal(kind: type[UserError], action: Callable[[], Any]) -> str:
    """The message of the error that the action raises: one line of fewer than 600 characters."""
    with pytest.raises(kind) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message
