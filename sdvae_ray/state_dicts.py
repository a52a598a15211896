"""State dicts of one-file networks, for every shelf: safetensors, else torch's own format read with weights_only."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from torch import Tensor

from sdvae_ray.errors import one_line

# errors that the readers raise on a file of another kind, or a damaged one
_PYTHON = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, EOFError)
DAMAGE = (*_PYTHON, UnpicklingError, SafetensorError)


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, on the CPU. Raises one of DAMAGE for a file that is not a state dict."""
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGE:
        raise
    except Exception as error:
        raise ValueError(f"damaged: {one_line(error)}") from error
