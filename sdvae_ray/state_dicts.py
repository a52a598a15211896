"""State dicts of one-file networks, for every shelf: safetensors, else torch's own format read with weights_only."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from torch import Tensor

DAMAGE = (  # what a file that is not what it should be makes the readers raise
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    UnpicklingError,
    SafetensorError,
)


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Raises one of DAMAGE."""
    from safetensors.torch import load_file

    if file.suffix == ".safetensors":
        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)
