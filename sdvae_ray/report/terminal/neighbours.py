"""The wells nearest to one, in a terminal."""

import polars as pl
from rich.console import Console
from rich.markup import escape

from sdvae_ray.config import RunConfig
from sdvae_ray.queries.saved_index import PATCH, SIMILARITY
from sdvae_ray.report.terminal.tables import number_column, plain_table, say, text_column
from sdvae_ray.schema import PLATE_COLUMN, SITE_COLUMN, WELL_COLUMN

_SHOWN = (
    "Metadata_control_type",
    "Metadata_pert_iname",
    "Metadata_phenotype",
    "Metadata_target",
)  # where the run has them


def print_neighbours(config: RunConfig, found: pl.DataFrame, about: dict[str, str], console: Console) -> None:
    of = f" ({about['perturbation']})" if about.get("perturbation") else ""
    what = "wells" if "well" in about else "patches" if PATCH in about else "FOVs"
    whose = about.get("well") or f"{about['fov']}{f', patch {about[PATCH]}' if PATCH in about else ''}"
    where = ", ".join(about[key] for key in ("extractor", "side", "group", "as") if key in about)
    say(console, f"{whose}{of}: nearest {what} by {where}", style="bold")
    asked = [name for name in (config.score.perturbation, *_SHOWN) if name is not None and name in found.columns]
    place = [name for name in (SITE_COLUMN, PATCH) if name in found.columns and "fov" in about]
    columns = [PLATE_COLUMN, WELL_COLUMN, *place, *dict.fromkeys(asked)]
    table = plain_table("")
    number_column(table, "cosine")
    for name in columns:
        text_column(table, name.removeprefix("Metadata_"))
    for row in found.rows(named=True):
        table.add_row(
            f"{row[SIMILARITY]:.4f}", *(escape("" if row[name] is None else str(row[name])) for name in columns)
        )
    console.print(table)
