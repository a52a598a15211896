"""The end of the stream: a write task commits its rows of every table under one file name, and counts them in the ledger."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from ray.data import Datasink
from ray.data.block import BlockAccessor

from sdvae_ray.encoding.supervision.ledger import answer
from sdvae_ray.encoding.supervision.outage import patience_of
from sdvae_ray.engine.files.patience import PatientStorage
from sdvae_ray.errors import RunError
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.tables import Written, write_rows
from sdvae_ray.schema import ERROR


class RunSink(Datasink[Written]):
    """The Ray Data sink that writes the tables of a run.

    Files are named by write and task, so that a retried task overwrites its own file. A write waits while storage is away.
    """

    def __init__(self, run: Run, session: str, rows_per_file: int, ledger: Any) -> None:
        self.run, self.session = run, session
        self.rows_per_file, self.ledger = rows_per_file, ledger

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> Written:
        """Commit the rows of the blocks. Raises RunError if too many FOVs have failed, or the lease of the run is lost."""
        columns = _columns(blocks)
        if not columns:
            return Written(0, 0)
        if refusal := answer(self.ledger.refusal.remote()):
            raise RunError(refusal)
        name = f"{self.session}-{ctx.task_idx:06d}"
        storage = PatientStorage(self.run.config.storage, patience_of(self.run, self.ledger, "write"))
        written = write_rows(self.run.output, name, columns, storage, self.run.config.random_weights)
        self.ledger.add_traffic.remote(storage.meter.taken())
        example = next((str(error) for error in columns[ERROR] if error), None)
        if refusal := answer(self.ledger.add_written.remote(name, written.rows, written.errors, example)):
            raise RunError(refusal)
        return written

    @property
    def min_rows_per_write(self) -> int:
        """Return how many rows Ray Data gathers before it calls `write`: the rows of one file."""
        return self.rows_per_file

    def get_name(self) -> str:
        """Return the name of the sink in Ray's own messages."""
        return "write"


def _columns(blocks: Iterable[pa.Table]) -> dict[str, Any]:
    """Return all blocks of one write as columns of numpy arrays; empty without rows."""
    parts = [BlockAccessor.for_block(block).to_numpy() for block in blocks if BlockAccessor.for_block(block).num_rows()]
    if not parts:
        return {}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
