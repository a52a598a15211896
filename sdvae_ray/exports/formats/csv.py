"""One CSV file of profiles, or .csv.gz: Metadata_* and a column per feature."""

import gzip

from sdvae_ray.exports.contract import TABLES, Exported, Request
from sdvae_ray.exports.profiles import profiles_of

SUFFIXES = (".csv", ".csv.gz")
NEEDS: tuple[str, ...] = ()
TAKES = TABLES


def export(request: Request) -> Exported:
    """Write the sides below each other, plate by plate, under one header. A missing value is an empty cell."""
    profiles = profiles_of(request, together=False)
    rows = 0
    opener = gzip.open if request.output.endswith(".gz") else open
    with request.run.storage.written(request.output) as path, opener(path, "wb") as file:
        for frame in profiles.stacked():
            file.write(frame.write_csv(include_header=rows == 0).encode())
            rows += frame.height
    return Exported(rows, profiles.noun, [request.output], profiles.facts())
