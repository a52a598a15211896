"""The wells, fields of view or patches nearest to a query, as a table."""

from collections.abc import Mapping

import polars as pl

from sdvae_ray.config import RunConfig
from sdvae_ray.queries.saved_index import PATCH, SIMILARITY
from sdvae_ray.report.facts.table import Column, Table, text_column
from sdvae_ray.schema import PLATE_COLUMN, SITE_COLUMN, WELL_COLUMN

# columns that are shown where the run has them
_KNOWN = ("Metadata_control_type", "Metadata_pert_iname", "Metadata_phenotype", "Metadata_target")


def neighbours_table(config: RunConfig, neighbours: pl.DataFrame, facts: Mapping[str, str]) -> Table:
    """Return the table of an answer of sdvae_ray.queries.search: its `neighbours` under a title from its `facts`."""
    perturbation = f" ({facts['perturbation']})" if facts.get("perturbation") else ""
    kind = "wells" if "well" in facts else "patches" if PATCH in facts else "FOVs"
    query = facts.get("well") or f"{facts['fov']}{f', patch {facts[PATCH]}' if PATCH in facts else ''}"
    where = ", ".join(facts[key] for key in ("extractor", "side", "group", "as") if key in facts)
    known = dict.fromkeys(name for name in (config.score.perturbation, *_KNOWN) if name in neighbours.columns)
    place = [name for name in (SITE_COLUMN, PATCH) if name in neighbours.columns and "fov" in facts]
    names = [PLATE_COLUMN, WELL_COLUMN, *place, *known]
    columns = [Column(SIMILARITY, "cosine", 4), *(text_column(name, name.removeprefix("Metadata_")) for name in names)]
    rows = [
        {SIMILARITY: row[SIMILARITY], **{name: "" if row[name] is None else str(row[name]) for name in names}}
        for row in neighbours.rows(named=True)
    ]
    return Table(f"{query}{perturbation}: nearest {kind} by {where}", columns, rows)
