"""The metadata that the scores were made with, where it is not the metadata that the fields were encoded with.

`fovs/` keeps what was known when a field was encoded. `scores/metadata.parquet` holds, for every field, the Metadata_* columns of
the manifest that `score` took; it is absent where those are the same.
"""

import polars as pl

from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.table_files import read_table
from sdvae_ray.schema import FOV_ID, annotation_columns
from sdvae_ray.storage import join

_NAME = ("scores", "metadata.parquet")


def write_annotation(run: Run, annotation: pl.DataFrame | None) -> None:
    """Store fov_id and Metadata_* that the scores were made with; None: those of `fovs/`."""
    if annotation is not None:
        run.write_table(annotation, *_NAME)
    elif _NAME[1] in run.storage.list(run.uri(_NAME[0])):
        run.storage.delete(join(run.uri(_NAME[0]), _NAME[1]))


def with_annotation(run: Run, fovs: pl.DataFrame) -> pl.DataFrame:
    """Return rows of fovs with the Metadata_* that the scores were made with, of the columns that `fovs` has."""
    try:
        stored = pl.DataFrame(read_table(run.uri(*_NAME), run.storage, [FOV_ID, *annotation_columns(fovs.columns)]))
    except FileNotFoundError:
        return fovs
    return replaced(fovs, stored)


def replaced(fovs: pl.DataFrame, annotation: pl.DataFrame) -> pl.DataFrame:
    """Return rows of fovs with the columns of `annotation` (fov_id, Metadata_*) in place of their own, keys excepted."""
    kept = fovs.drop(annotation_columns(fovs.columns))
    return kept.join(annotation, on=FOV_ID, how="left", maintain_order="left")
