"""One run on storage, as every room above shares it and as a notebook opens it: what was asked for, and what is there.

    run = sdvae_ray.open("s3://bucket/runs/name")
    fov_ids, latents = run.latents("sd14")
    run.scores().summary

A `Run` holds its configuration alone, so it travels to any process; every method reads or writes storage when it is called.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
import pyarrow as pa

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.errors import ConfigError, DataError, did_you_mean
from sdvae_ray.run import record
from sdvae_ray.run.record import Record
from sdvae_ray.run.scores import Scores, read_scores
from sdvae_ray.run.stored import commits, table_files, tables
from sdvae_ray.run.stored.features import features
from sdvae_ray.runfile import load_run, override, parse_run
from sdvae_ray.schema import (
    EMBEDDING,
    EMBEDDINGS,
    ERROR,
    LATENT,
    embeddings_table,
    latents_table,
    metrics_table,
)
from sdvae_ray.storage import Storage, absolute, is_remote, join

PROFILES = "profiles"
_RUN_FILES = (".yaml", ".yml")


class Column(NamedTuple):
    """One column of a data table: row n of `values` (n, ...) belongs to the field of view `fov_ids[n]`.

    Where the fields have different numbers of patches (image.policies), `values` is an array of n objects, an array (P, ...) each.
    """

    fov_ids: list[str]
    values: np.ndarray


@dataclass(frozen=True)
class Run:
    """The configuration of a run (`config`), and access to its tables, record and scores on storage."""

    config: RunConfig

    @classmethod
    def open(cls, place: str | Path, overrides: Sequence[str] = (), storage: Mapping[str, Any] | None = None) -> Self:
        """Return the run of a run file (.yaml, .yml), or of an output folder or URI, changed by `key.key=value` overrides.

        storage: keys of `storage:`, such as anonymous and endpoint_url; they override the run's own and are used to reach an
        output folder. Raises ConfigError for a run file or an override that is not allowed, DataError if a folder holds no run.
        """
        given = [*overrides, *(f"storage.{key}={json.dumps(value)}" for key, value in (storage or {}).items())]
        if str(place).endswith(_RUN_FILES):
            config = load_run(place, given)
        else:
            config = _recorded(absolute(str(place)), given, Storage.of(storage))
        return cls(_with_absolute_paths(config))

    def changed(self, *overrides: str) -> Self:
        """Return the run with `key.key=value` overrides in its configuration; nothing is written."""
        raw = self.config.model_dump(mode="json")
        for given in overrides:
            override(raw, given)
        return type(self)(parse_run(raw))

    @property
    def output(self) -> str:
        """Return the folder or URI under which everything of the run is stored."""
        return self.config.output

    @property
    def storage(self) -> Storage:
        """Return the reader and writer of the run's URIs."""
        return Storage(self.config.storage)

    def uri(self, *parts: str) -> str:
        """Return the URI of `parts` under the run's output."""
        return join(self.output, *parts)

    # --- run.json ------------------------------------------------------------------------------------------------------------

    def find_record(self) -> Record | None:
        """Return run.json (configuration, versions, weights, sessions); None if nothing has been encoded yet."""
        return record.read_record(self.output, self.storage)

    @property
    def record(self) -> Record:
        """Return run.json. Raises DataError if nothing has been encoded yet."""
        if (stored := self.find_record()) is None:
            raise DataError(f"no run at {self.output}: there is no {record.FILE}; run `sdvae-ray encode` first")
        return stored

    def sessions(self) -> list[str]:
        """Return the sessions and compactions that run.json names: the first 8 characters of the files that they wrote."""
        stored = self.find_record() or {}
        return [session["session"] for key in ("sessions", "compactions") for session in stored.get(key, [])]

    def write_record(self, changed: Record) -> None:
        """Write run.json; it replaces the earlier one."""
        record.write_record(self.output, changed, self.storage)

    # --- tables of fields of view ----------------------------------------------------------------------------------------------

    def fovs(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return one row per field of view that was tried: fov_id, Metadata_*, `error` (null: the field is usable), seconds, node.

        columns: None: all except the QC tensors; fov_id and error always come back. The column `files` is added, which `read`
        needs.
        """
        return commits.read_fovs(self.output, self.storage, columns)

    def commits(self, columns: Sequence[str] | None = None) -> tuple[pl.DataFrame, dict[str, frozenset[str]]]:
        """Return what `fovs` returns, and file name -> the columns `<table>:<column>` that this file of fovs/ commits."""
        return commits.read_commits(self.output, self.storage, columns)

    def present_commits(self, columns: Sequence[str] = ()) -> tuple[pl.DataFrame, dict[str, frozenset[str]]]:
        """Return `commits(columns)` without the columns whose file is gone, which are to be computed again."""
        fovs, committed = self.commits(columns)
        return fovs, commits.present_commits(self.output, self.storage, committed)

    def tables(self) -> list[str]:
        """Return the names of the data tables that have files, such as `embeddings/latent/sd14`."""
        return table_files.data_tables(self.output, self.storage)

    def embedded(self) -> list[tuple[str, str]]:
        """Return (extractor, side) of every embeddings table; the originals come first within an extractor."""
        pairs = [table.split("/")[1:] for table in self.tables() if table.startswith(f"{EMBEDDINGS}/")]
        return sorted(((e, side) for e, side in pairs), key=lambda pair: (pair[0], pair[1] != IMAGE_SIDE, pair[1]))

    def read(self, table: str, column: str, fovs: pl.DataFrame | None = None) -> Column:
        """Return one column of a data table, for the rows of `fovs` (fov_id, files) that have it; None: all usable rows.

        A row that was written twice counts once. Raises KeyError if the table exists and has no such column.
        """
        if fovs is None:
            fovs = self.fovs([]).filter(pl.col(ERROR).is_null())
        return Column(*tables.read_column(self.output, table, column, fovs, self.storage))

    def read_columns(self, table: str, columns: Sequence[str], fovs: pl.DataFrame) -> dict[str, Column]:
        """Return column -> the result of `read`, of the columns that the table has; every file is opened once."""
        read = tables.read_columns(self.output, table, columns, fovs, self.storage)
        return {name: Column(*values) for name, values in read.items()}

    def latents(self, autoencoder: str) -> Column:
        """Return (n, P, T, Z, s, s) float16: unscaled latents, as they were decoded; the model's factors are in `record`."""
        return self._of_table(latents_table(autoencoder), LATENT)

    def embeddings(self, extractor: str, side: str = IMAGE_SIDE) -> Column:
        """Return (n, G, D) float16: the embeddings of the originals or of a reconstruction, means over a field's patches."""
        return self._of_table(embeddings_table(extractor, side), EMBEDDING)

    def features(self, extractor: str, side: str = IMAGE_SIDE) -> pl.DataFrame:
        """Return one row per feature of an embedding, in the order of `embeddings(...).values.reshape(n, -1)`: `feature`, the
        name that profiles and exports give it, and what it is made of: `extractor`, `part` (stain or RGB pass), `dimension`.
        """
        table = embeddings_table(extractor, side)
        shape = self.example(table, EMBEDDING).shape
        rows = [(feature.name, *feature) for feature in features(self.config, extractor, side, *shape)]
        return pl.DataFrame(rows, schema=["feature", "extractor", "part", "dimension"], orient="row")

    def example(self, table: str, column: str) -> np.ndarray:
        """Return one value of a data table. Raises DataError, with the nearest match, if the run has no such table or column."""
        usable = self.fovs([]).filter(pl.col(ERROR).is_null())
        for fov in usable.unique("files", keep="first", maintain_order=True).iter_slices(1):
            with suppress(KeyError):  # this file lacks the column: an extended run
                if (values := self.read(table, column, fov).values).size:
                    return values[0]
        self._of_table(table, column)  # its errors are more exact
        raise DataError(f"{self.output}: no usable field of view has {column} of {table}")

    def metrics(self, side: str, metric: str) -> Column:
        """Return one metric of every patch, (n, P), (n, P, C) or (n, P, T) float32; NaN if it does not apply to a patch."""
        return self._of_table(metrics_table(side), metric)

    def _of_table(self, table: str, column: str) -> Column:
        """Return a column of a table. Raises DataError, with the nearest match, if the run has no such table or column."""
        try:
            values = self.read(table, column)
        except KeyError as error:
            raise DataError(f"{self.output}: {table} has no column {column!r}") from error
        if not values.fov_ids and table not in (known := self.tables()):
            raise DataError(f"{self.output} has no table {table!r}{did_you_mean(table, known)}")
        return values

    # --- what `score` writes ---------------------------------------------------------------------------------------------------

    def profiles(self, extractor: str, side: str = IMAGE_SIDE) -> pl.DataFrame:
        """Return well profiles before normalisation, one row per well: Metadata_* and one float32 column per feature.

        Raises DataError if `score` has not made them.
        """
        return pl.concat(list(self.profiles_by_plate(extractor, side)), how="diagonal_relaxed")

    def profiles_by_plate(self, extractor: str, side: str = IMAGE_SIDE) -> Iterator[pl.DataFrame]:
        """Yield the result of `profiles` plate by plate: a large run's wells need not be held together."""
        root = self.uri(PROFILES, extractor, side)
        names = [name for name in self.storage.list(root) if name.endswith(".parquet")]
        if not names:
            raise DataError(f"{self.output} has no profiles of {extractor} of {side}: run `sdvae-ray score` first")
        for name in names:
            yield pl.DataFrame(table_files.read_table(join(root, name), self.storage))

    def scores(self) -> Scores:
        """Return the tables of scores/ as polars frames. Raises DataError if the run has not been scored."""
        return read_scores(self.output, self.storage)

    def write_table(self, table: pl.DataFrame | pa.Table, *parts: str) -> None:
        """Write one Parquet file under the run's output."""
        arrow = table.to_arrow() if isinstance(table, pl.DataFrame) else table
        tables.write_table(self.uri(*parts), arrow, self.storage)


def _recorded(output: str, overrides: Sequence[str], storage: Storage) -> RunConfig:
    """Return the configuration in the record of an output folder; its output becomes the folder's present place."""
    try:
        stored = record.read_record(output, storage)
        raw = None if stored is None else {**stored["config"], "output": output}
        if raw is not None:
            for given in overrides:
                override(raw, given)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{output}/{record.FILE} is not what `encode` writes") from error
    if raw is None:
        raise DataError(
            f"no run at {output}: there is no {record.FILE} (the output of a run, or its run file .yaml, is wanted)"
        )
    return parse_run(raw, where=f"{output}/{record.FILE}")


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return the configuration with absolute paths. Raises ConfigError for a relative output in a submitted job. The folder of
    such a job is temporary, and what is written there is lost."""
    expanded = os.path.expanduser(config.output)
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if in_job and not is_remote(config.output) and not os.path.isabs(expanded):
        raise ConfigError(
            f"output: {config.output} is relative, and a submitted job runs in a temporary folder; "
            f"an absolute path or s3://... is wanted"
        )
    return config.model_copy(update={"manifest": absolute(config.manifest), "output": absolute(config.output)})
