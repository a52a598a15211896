"""State dicts of one-file networks: safetensors, else torch's own format read with weights_only."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sdvae_ray.errors import WeightsError

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
_PATTERNS = ("*.safetensors", "*.pth", "*.pt", "*.bin")


def fill(model: nn.Module, weights: Path, name: str, network: str, wanted: str = "") -> None:
    """Loads the state dict at `weights`, a file or a folder with one, into `model`: every tensor, and no other.

    Raises WeightsError: `name` is the extractor's, `network` what the file should be, `wanted` which file to place there.
    """
    try:
        model.load_state_dict(_read(_file(weights, name, wanted)))
    except DAMAGE as error:
        raise WeightsError(f"{name}: {weights} is not {network}: {one_line(error)}") from error


def one_line(error: BaseException, length: int = 200) -> str:
    return " ".join(str(error).split())[:length]


def _file(weights: Path, name: str, wanted: str) -> Path:
    if not weights.is_dir():
        return weights
    found = [file for pattern in _PATTERNS for file in sorted(weights.glob(pattern))]
    if not found:
        hint = f" (wanted: {wanted})" if wanted else ""
        raise WeightsError(f"{name}: no .safetensors, .pth, .pt or .bin file in {weights}{hint}")
    return found[0]


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if file.suffix == ".safetensors":
        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)
