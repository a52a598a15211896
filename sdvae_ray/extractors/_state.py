"""How the one-file networks of this shelf take their tensors: the file found, every tensor filled, one line where it is another."""

from pathlib import Path

from torch import nn

from sdvae_ray.errors import WeightsError, one_line
from sdvae_ray.state_dicts import DAMAGE, read_state_dict

_PATTERNS = ("*.safetensors", "*.pth", "*.pt", "*.bin")


def fill(model: nn.Module, weights: Path, name: str, network: str, wanted: str = "") -> None:
    """Loads the state dict at `weights`, a file or a folder with one, into `model`: every tensor, and no other.

    Raises WeightsError: `name` is the extractor's, `network` what the file should be, `wanted` which file to place there.
    """
    try:
        model.load_state_dict(read_state_dict(_file(weights, name, wanted)))
    except DAMAGE as error:
        raise WeightsError(f"{name}: {weights} is not {network}: {one_line(error)}") from error


def _file(weights: Path, name: str, wanted: str) -> Path:
    if not weights.is_dir():
        return weights
    found = [file for pattern in _PATTERNS for file in sorted(weights.glob(pattern))]
    if not found:
        hint = f" (wanted: {wanted})" if wanted else ""
        raise WeightsError(f"{name}: no .safetensors, .pth, .pt or .bin file in {weights}{hint}")
    return found[0]
