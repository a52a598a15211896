"""What run.json keeps of a manifest."""

import hashlib
from typing import Any

from sdvae_ray.sources.manifest.reader import find_index
from sdvae_ray.storage import Storage


def describe_manifest(uri: str, fovs: int, storage: Storage) -> dict[str, Any]:
    """Return the URI of a manifest, its number of FOVs, and the sha256 of its bytes in hex digits; of many files that of the index.

    Raises FileNotFoundError if there is no manifest.
    """
    digest = hashlib.sha256()
    with storage.open(find_index(uri, storage) or uri) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"uri": uri, "fovs": fovs, "sha256": digest.hexdigest()}
