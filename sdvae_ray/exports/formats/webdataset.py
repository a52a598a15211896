"""A folder of WebDataset tars of latents: per patch mean.npy, logvar.npy where it is stored, txt and json; read as a stream."""

import io
import json
import re
import tarfile

import numpy as np

from sdvae_ray.exports.contract import LATENTS, Exported, Request
from sdvae_ray.exports.latents import PATCH, TEXT, Batch
from sdvae_ray.exports.training_set import write_shards
from sdvae_ray.schema import FOV_ID

SUFFIXES: tuple[str, ...] = ()
NEEDS: tuple[str, ...] = ()
TAKES = LATENTS


def export(request: Request) -> Exported:
    """Write a tar per file of the run. The same run gives the same bytes."""
    return write_shards(request, ".tar", _encoded)


def _encoded(batch: Batch) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, row in enumerate(batch.rows.iter_rows(named=True)):
            key = _key(row[FOV_ID], row[PATCH])
            for name, values in batch.tensors.items():
                _add(tar, f"{key}.{name}.npy", _npy(values[number]))
            _add(tar, f"{key}.txt", row[TEXT].encode())
            _add(tar, f"{key}.json", json.dumps(row).encode())
    return buffer.getvalue()


def _key(fov_id: str, patch: int) -> str:
    """Return the name of a sample: no dot, at which WebDataset would cut it, and no slash. The whole fov_id is in its json."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', fov_id)[-80:]}_{patch:04d}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
