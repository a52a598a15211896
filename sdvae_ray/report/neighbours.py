"""The wells nearest to one, in a terminal."""

import polars as pl
from rich.console import Console
from rich.markup import escape

from sdvae_ray.config import RunConfig
from sdvae_ray.report.terminal import number_column, plain_table, say, text_column
from sdvae_ray.stages.search import PLATE, SIMILARITY, SITE, WELL

_SHOWN = (
    "Metadata_control_type",
    "Metadata_pert_iname",
    "Metadata_phenotype",
    "Metadata_target",
)  # where the run has them


def print_neighbours(config: RunConfig, found: pl.DataFrame, about: dict[str, str], console: Console) -> None:
    of = f" ({about['perturbation']})" if about.get("perturbation") else ""
    what = "wells" if "well" in about else "FOVs"
    say(
        console,
        f"{about.get('well') or about['fov']}{of}: nearest {what} by {about['extractor']}, {about['side']}, {about['group']}",
    )
    asked = [name for name in (config.score.perturbation, *_SHOWN) if name is not None and name in found.columns]
    columns = [PLATE, WELL, *([SITE] if "fov" in about else []), *dict.fromkeys(asked)]
    table = plain_table("")
    number_column(table, "cosine")
    for name in columns:
        text_column(table, name.removeprefix("Metadata_"))
    for row in found.rows(named=True):
        table.add_row(f"{row[SIMILARITY]:.4f}", *(escape(str(row[name] or "")) for name in columns))
    console.print(table)
