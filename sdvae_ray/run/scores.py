"""The tables of scores/: `score` writes them, the report and `compare` read them."""

from dataclasses import MISSING, dataclass, field, fields

import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.run.stored.table_files import read_table, write_table
from sdvae_ray.storage import Storage, join


@dataclass(frozen=True)
class Scores:
    """The tables that `score` writes, one file of scores/ per table; sdvae_ray.dictionary says what their rows and columns are. All
    of them have `random_weights`.
    """

    summary: pl.DataFrame
    compounds: pl.DataFrame
    wells: pl.DataFrame
    floors: pl.DataFrame
    estimates: pl.DataFrame
    over_floor: pl.DataFrame
    ceilings: pl.DataFrame
    tasks: pl.DataFrame
    differences: pl.DataFrame
    distributions: pl.DataFrame
    metrics: pl.DataFrame
    latents: pl.DataFrame
    latent_channels: pl.DataFrame
    stringency: pl.DataFrame = field(default_factory=pl.DataFrame)
    neighbours: pl.DataFrame = field(default_factory=pl.DataFrame)
    enrichment: pl.DataFrame = field(default_factory=pl.DataFrame)
    probes: pl.DataFrame = field(default_factory=pl.DataFrame)
    references: pl.DataFrame = field(default_factory=pl.DataFrame)

    def write(self, output: str, storage: Storage) -> None:
        """Write every table under the run's output."""
        for table in fields(self):
            write_table(join(output, "scores", f"{table.name}.parquet"), getattr(self, table.name).to_arrow(), storage)


SCORE_TABLES = tuple(table.name for table in fields(Scores))


def read_scores(output: str, storage: Storage) -> Scores:
    """Return the tables of scores/; one that an earlier version did not write is empty. Raises DataError if the run has not been
    scored.
    """
    tables = {}
    for table in fields(Scores):
        try:
            tables[table.name] = pl.DataFrame(read_table(join(output, "scores", f"{table.name}.parquet"), storage))
        except FileNotFoundError as error:
            if table.default_factory is MISSING:
                raise DataError(f"{output} has no scores yet: run `sdvae-ray score` first") from error
    return Scores(**tables)
