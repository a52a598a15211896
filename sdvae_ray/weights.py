"""Where model weights come from: a source -> a local path, with the hash of every file.

hub id           `CompVis/stable-diffusion-v1-4`, with a pinned `revision`; through huggingface_hub and its cache
local            a folder or a file
s3:// prefix     copied to a cache folder once
asset:<name>     what the package ships
torchvision:<W>  torchvision's published file of a weights enum, through torch.hub and its cache
"""

import hashlib
import os
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from sdvae_ray.config import ShelfConfig
from sdvae_ray.errors import WeightsError
from sdvae_ray.storage import Storage, is_remote, join

ASSET = "asset:"
TORCHVISION = "torchvision:"
SUFFIXES = (".json", ".safetensors", ".bin", ".pth", ".pt", ".txt")


@dataclass(frozen=True)
class Weights:
    """Resolved weights of one model.

    path      the local folder or file; None where the architecture is built with random weights
    revision  the hub's commit, where it came from a hub
    files     relative name -> sha256 of its bytes
    """

    source: str | None
    path: str | None
    revision: str | None
    files: dict[str, str]
    random: bool = False

    def record(self) -> dict[str, Any]:
        """For run.json: all but the local path."""
        return {key: value for key, value in asdict(self).items() if key != "path"}


def resolve(model: ShelfConfig, default_source: str | None, storage: Storage) -> Weights:
    """Finds a model's weights and brings them to this machine.

    Raises WeightsError, saying which file was wanted and how to place it.
    """
    source = model.source or default_source
    if model.random:
        return Weights(source=None, path=None, revision=None, files={}, random=True)
    if source is None:
        return Weights(source=None, path=None, revision=None, files={})
    if source.startswith(ASSET):
        root = _asset(source.removeprefix(ASSET))
    elif source.startswith(TORCHVISION):
        root = _from_torchvision(model, source.removeprefix(TORCHVISION))
    elif is_remote(source):
        root = _copied(source, storage)
    elif Path(source).expanduser().exists():
        root = Path(source).expanduser().absolute()
    elif source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise WeightsError(f"{model.name}: no such weights: {source} (allowed: a folder, a file, s3://..., a hub id)")
    else:
        return _from_hub(model, source)
    path = root / model.subfolder if model.subfolder else root
    if not path.exists():
        raise WeightsError(f"{model.name}: {source} has no subfolder {model.subfolder}")
    return Weights(source, str(path), model.revision, _hashes(path))


def _asset(name: str) -> Path:
    path = Path(str(files("sdvae_ray") / "assets" / name))
    if not path.exists():
        shipped = sorted(p.name for p in path.parent.iterdir() if p.is_dir())
        raise WeightsError(f"no asset {name!r} in the package (allowed: {', '.join(shipped)})")
    return path


def _copied(source: str, storage: Storage) -> Path:
    """A copy of an s3:// prefix in the cache, made once per content and machine."""
    versions = {name: mark for name, mark in storage.versions(source).items() if name.endswith(SUFFIXES)}
    if not versions:
        raise WeightsError(
            f"no weights at {source}: there is no object of weights ({', '.join(SUFFIXES)}) under that prefix"
        )
    cache = Path(os.environ.get("SDVAE_RAY_CACHE", Path.home() / ".cache" / "sdvae_ray"))
    folder = cache / hashlib.sha256(f"{storage.config.endpoint_url}|{source}|{versions}".encode()).hexdigest()[:16]
    for name in versions:
        if not (folder / name).exists():
            Storage().write_bytes(str(folder / name), storage.read_bytes(join(source, name)))
    return folder


def _from_torchvision(model: ShelfConfig, enum: str) -> Path:
    from torch.hub import get_dir, load_state_dict_from_url
    from torchvision.models import get_weight

    try:
        url = get_weight(enum).url
    except (ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{model.name}: torchvision has no weights {enum!r}") from error
    file = url.rpartition("/")[2]
    try:
        load_state_dict_from_url(url, map_location="cpu", weights_only=True, check_hash=True, progress=False)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"{model.name}: cannot fetch {file} (torchvision's {enum}); place that file on this machine and set source to it"
        ) from error
    return Path(get_dir()) / "checkpoints" / file


def _from_hub(model: ShelfConfig, source: str) -> Weights:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    prefix = f"{model.subfolder}/" if model.subfolder else ""
    wanted = [f"{prefix}*{suffix}" for suffix in SUFFIXES]
    try:
        root = Path(snapshot_download(source, revision=model.revision, allow_patterns=wanted))
    except HFValidationError as error:
        raise WeightsError(
            f"{model.name}: no such weights: {source} (allowed: a folder, a file, s3://..., a hub id)"
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(f"{model.name}: the hub has no model {source!r}, or it is gated") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(
            f"{model.name}: cannot reach the hub for {source} (wanted {prefix}config.json and its weights); "
            f"place them in a folder and set source to it, or copy them to an s3:// prefix"
        ) from error
    path = root / model.subfolder if model.subfolder else root
    return Weights(source, str(path), root.name, _hashes(path))


def _hashes(path: Path) -> dict[str, str]:
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in SUFFIXES)
    return {str(p.relative_to(path)) if p != path else p.name: _sha256(p) for p in found}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
