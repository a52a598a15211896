"""Damaged files of every kind but images: what reads them gives a result or one line of our own, never another error."""

import io
import json
import resource
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from damage import damaged
from run_files import small_run
from safetensors.torch import save

from sdvae_ray.errors import SdvaeRayError
from sdvae_ray.run.record import new_record, read_record
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.table_files import read_table
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.runfile import load_run
from sdvae_ray.schema import ERROR, FOV_ID
from sdvae_ray.sources.manifest.reader import read_row_group
from sdvae_ray.sources.photograph_readers import find_photographs, read_photographs
from sdvae_ray.state_dicts import DAMAGE, read_state_dict
from sdvae_ray.storage import Storage

STORAGE = Storage()
MOST = 2 << 30  # bytes that a reader may come to hold
Read = Callable[[Path], object]
FOOTER = 8  # bytes at the end of a Parquet file: the length of its footer, and a magic word


def state_dict() -> dict[str, torch.Tensor]:
    return {f"block.{n}.weight": torch.arange(12.0).reshape(3, 4) + n for n in range(4)}


def a_pth(_: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(state_dict(), buffer)
    return buffer.getvalue()


def a_tar(_: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(6):
            for suffix, data in (("jpg", bytes(range(200))), ("json", b'{"label": 3}')):
                member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def a_run_file(folder: Path) -> bytes:
    return json.dumps(small_run(folder).model_dump(mode="json"), indent=1).encode()


def a_record(folder: Path) -> bytes:
    record = new_record(small_run(folder), {"uri": "m.parquet", "fovs": 2, "sha256": "0"}, {}, 1, "float32")
    return json.dumps(record).encode()


def a_manifest(_: Path) -> bytes:
    buffer = io.BytesIO()
    rows = {"fov_id": [f"s/b/p/A{n:02d}/1" for n in range(40)], "Metadata_Plate": ["p"] * 40, "channel_DNA": range(40)}
    pl.DataFrame(rows).write_parquet(buffer, row_group_size=10)
    return buffer.getvalue()


def a_table(folder: Path) -> bytes:
    values = np.arange(240, dtype=np.float16).reshape(10, 2, 3, 4)
    ids = np.array([f"s/b/p/A{n:02d}/1" for n in range(10)], object)
    empty = np.array([""] * 10, object)
    columns = {FOV_ID: ids, ERROR: empty, "row_json": np.array(["{}"] * 10, object), "latents/pca:latent": values}
    write_rows(str(folder / "tables"), "aaaaaaaa-000000", columns, STORAGE)
    return (folder / "tables/latents/pca/aaaaaaaa-000000.parquet").read_bytes()


def read_recorded(path: Path) -> object:
    """run.json alone, and the run that it describes."""
    path.rename(path.parent / "run.json")
    read_record(str(path.parent), STORAGE)
    return Run.open(path.parent)


def read_tar(path: Path) -> object:
    losses: dict[str, list[str]] = {}
    return list(read_photographs(find_photographs([str(path)], STORAGE, losses), STORAGE, losses))


KINDS: dict[str, tuple[Callable[[Path], bytes], Read, tuple[type[Exception], ...]]] = {
    "safetensors": (lambda _: save(state_dict()), read_state_dict, DAMAGE),
    "pth": (a_pth, read_state_dict, DAMAGE),
    "yaml": (a_run_file, load_run, (SdvaeRayError,)),
    "json": (a_record, read_recorded, (SdvaeRayError,)),
    "tar": (a_tar, read_tar, (SdvaeRayError,)),
    "manifest.parquet": (a_manifest, lambda path: read_row_group(str(path), 2, STORAGE), (SdvaeRayError,)),
    "table.parquet": (a_table, lambda path: read_table(str(path), STORAGE), (SdvaeRayError,)),
}


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_damaged_file_is_read_or_refused_by_an_error_of_ours(tmp_path, kind, count):
    make, read, errors = KINDS[kind]
    whole, random, refused = make(tmp_path), np.random.default_rng(3), list[Exception]()
    # Arrow can end the process over a damaged footer (docs/security.md): the pages alone are damaged here
    footer = int.from_bytes(whole[-FOOTER:-4], "little") + FOOTER if kind.endswith("parquet") else 0
    body, tail = whole[: len(whole) - footer], whole[len(whole) - footer :]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            folder = tmp_path / str(number)
            folder.mkdir()
            path = folder / f"x.{kind}"
            changed = damaged(body, random)
            if footer:
                changed = changed[: len(body)].ljust(len(body), b"\0")
            path.write_bytes(changed + tail)
            try:
                read(path)
            except errors as error:
                refused.append(error)
    assert refused
    assert not [error for error in refused if isinstance(error, SdvaeRayError) and "\n" in str(error)]
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST
