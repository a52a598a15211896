"""One Parquet file of profiles, Metadata_* and a column per feature, as pycytominer, copairs, pandas, polars and DuckDB read."""

from contextlib import ExitStack

import pyarrow.parquet as pq

from sdvae_ray.exports.contract import TABLES, Exported, Request
from sdvae_ray.exports.profiles import profiles_of
from sdvae_ray.exports.rows import as_json

SUFFIXES = (".parquet",)
NEEDS: tuple[str, ...] = ()
TAKES = TABLES


def export(request: Request) -> Exported:
    """Write the sides below each other, plate by plate. The facts are in the metadata of the file's schema, key `sdvae_ray`."""
    profiles = profiles_of(request, together=False)
    facts, rows, writer = profiles.facts(), 0, None
    with request.run.storage.written(request.output) as path, ExitStack() as opened:
        for frame in profiles.stacked():
            table = frame.to_arrow()
            if writer is None:
                schema = table.schema.with_metadata({"sdvae_ray": as_json(facts)})
                writer = opened.enter_context(pq.ParquetWriter(path, schema, compression="zstd"))
            writer.write_table(table.cast(writer.schema))
            rows += table.num_rows
    return Exported(rows, profiles.noun, [request.output], facts)
