"""A run with a pipe, to which nobody writes, in the place of an image: it waits there, and a fault comes at the right moment."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from field_files import write_fields
from run_files import small_run
from straight_line import write_manifest

from sdvae_ray.config import RunConfig


@dataclass(frozen=True)
class WaitingRun:
    """A run of one FOV a file and a batch.

    config   the run
    fov_ids  its FOVs, in the order of the manifest
    pipe     where the pipe is
    pixels   the bytes of the file that belongs there
    """

    config: RunConfig
    fov_ids: list[str]
    pipe: Path
    pixels: bytes

    @property
    def commits(self) -> list[Path]:
        """The files of fovs/ that are whole."""
        return list((Path(self.config.output) / "fovs").glob("[!.]*.parquet"))

    def release(self) -> None:
        """Writes the pixels into the pipe, so that the loader goes on; what it has read is no image."""
        with self.pipe.open("wb") as pipe:
            pipe.write(self.pixels)


def waiting_run(folder: Path, count: int, stuck: int, **changes: Any) -> WaitingRun:
    """The run of `count` FOVs; the DNA file of the row `stuck` is the pipe. changes: of the run file."""
    fields = write_fields(folder / "images", count=count)
    manifest = write_manifest(folder / "manifest.parquet", fields)
    one_by_one = {"load": {"batch_fovs": 1}, "encode": {"batch_fovs": 1}, "write": {"rows_per_file": 1}}
    config = small_run(folder, manifest=str(manifest), **one_by_one, **changes)
    pipe = Path(fields["uri_DNA"][stuck])
    pixels = pipe.read_bytes()
    pipe.unlink()
    os.mkfifo(pipe)
    return WaitingRun(config, list(fields["fov_id"]), pipe, pixels)
