"""State dicts of networks, for every shelf: which files hold one, how they are read, and whether it fills a network.

A folder holds a state dict in one of these forms, the first that it has:

diffusion_pytorch_model.safetensors            as diffusers writes it
*.safetensors.index.json                       an index, and the shards that it names
diffusion_pytorch_model.<variant>.safetensors  a variant, such as fp16
one .safetensors file of any name
one .bin, .pth or .pt file                     torch's own format, read with weights_only
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sdvae_ray.errors import WeightsError, one_line

# errors that the readers raise on a file of another kind, or a damaged one
_PYTHON = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, EOFError)
DAMAGE = (*_PYTHON, UnpicklingError, SafetensorError)

PICKLES = (".ckpt", ".pkl", ".pickle")
HOW_TO_CONVERT = (
    'it is a pickle, which can run code; convert it once: python -c "import torch, safetensors.torch as s; '
    "d = torch.load('x.ckpt', map_location='cpu', weights_only=True); "
    "d = d.get('state_dict', d); s.save_file({k: v.contiguous() for k, v in d.items() if torch.is_tensor(v)}, 'x.safetensors')\""
)
SAFETENSORS, TORCH_SUFFIXES = ".safetensors", (".bin", ".pth", ".pt")
_MAIN = "diffusion_pytorch_model"
LOOKED_FOR = f"{_MAIN}{SAFETENSORS}, a variant of it such as .fp16, an index with its shards, or one {SAFETENSORS} file"


def tensor_files(weights: Path) -> list[Path]:
    """Return the files that hold the state dict of a folder or file, several if it is sharded.

    Raises WeightsError, which lists what was looked for and what lies there, if there is none or one of several cannot be told.
    """
    if not weights.is_dir():
        if weights.suffix in PICKLES:
            raise WeightsError(f"{weights}: {HOW_TO_CONVERT}")
        return [weights]
    names = sorted(path.name for path in weights.iterdir() if path.is_file() and not path.name.startswith("."))
    safe = [name for name in names if name.endswith(SAFETENSORS)]
    indices = [name for name in names if f"{SAFETENSORS}.index." in name and name.endswith(".json")]
    variants = [name for name in safe if name.startswith(f"{_MAIN}.")]
    if f"{_MAIN}{SAFETENSORS}" in safe:
        return [weights / f"{_MAIN}{SAFETENSORS}"]
    for candidates in (indices, variants, safe, [name for name in names if name.endswith(TORCH_SUFFIXES)]):
        if len(candidates) > 1:
            raise WeightsError(
                f"{weights} has several files of weights: {', '.join(candidates)}; name one of them as the source"
            )
        if candidates:
            return _shards(weights / candidates[0]) if candidates is indices else [weights / candidates[0]]
    here = sorted(path.name + ("/" if path.is_dir() else "") for path in weights.iterdir())
    more = f", ... ({len(here)} in all)" if len(here) > 12 else ""
    pickle = (
        f"; {next(n for n in names if n.endswith(PICKLES))}: {HOW_TO_CONVERT}"
        if any(n.endswith(PICKLES) for n in names)
        else ""
    )
    raise WeightsError(
        f"{weights} holds no weights: looked for {LOOKED_FOR}; there is {', '.join(here[:12]) or 'nothing'}{more}{pickle}"
    )


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError("it names no files of its folder")
    except DAMAGE as error:
        raise WeightsError(f"{index} is not an index of shards: {one_line(error)}") from error
    if absent := [name for name in names if not (index.parent / name).is_file()]:
        raise WeightsError(
            f"{index.parent} lacks {len(absent)} of {len(names)} shards that {index.name} names: {absent[0]}"
        )
    return [index.parent / name for name in names]


def read_tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    """Return the tensors of the files of one state dict, such as `tensor_files` gives them. Raises as `read_state_dict`."""
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_state_dict(file)
    return state


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, on the CPU. Raises one of DAMAGE for a file that is not a state dict."""
    from safetensors.torch import load_file

    try:
        if file.suffix == SAFETENSORS:
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGE:
        raise
    except Exception as error:
        raise ValueError(f"damaged: {one_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("it holds no tensors by name")
    return state


def fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict into a model. Raises ValueError, which names tensors, unless it has exactly the tensors of the model, in
    their shapes, without a number that is not finite. The counts of batches that a batch normalisation was trained on may be
    absent: files of other frameworks have none, and no output depends on them.
    """
    own = model.state_dict()
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    for what, names in (("lacks", needed - state.keys()), ("has unexpected", state.keys() - own.keys())):
        if names:
            raise ValueError(f"it {what} {len(names)} tensors, such as {sorted(names)[0]}")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"its tensor {name} has the shape {tuple(tensor.shape)}, the network's has {tuple(own[name].shape)}"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            count = int((~torch.isfinite(tensor)).sum())
            raise ValueError(f"its tensor {name} has {count} numbers that are not finite")
    model.load_state_dict({**own, **state})
