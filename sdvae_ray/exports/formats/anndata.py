"""One AnnData file, .h5ad: wells or fields of view by features, a layer per side; scanpy and the scverse read it."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.exports.contract import TABLES, Exported, Request
from sdvae_ray.exports.profiles import Profiles, profiles_of
from sdvae_ray.run.stored.features import Feature
from sdvae_ray.schema import METADATA

SUFFIXES = (".h5ad",)
NEEDS = ("anndata",)
TAKES = TABLES
_KEY = "_key"  # column: the name of a row


def export(request: Request) -> Exported:
    """Write X (the first side, float32), a layer for every other side, obs, var and uns. All rows are held in memory.

    The names follow scverse's cell-painting-io: columns of obs without `Metadata_`, an index of obs joined by ":", an index of var
    called `feature`, and `channel` in small letters. A row that a side lacks is NaN in its layer.
    """
    import anndata
    import pandas as pd

    profiles = profiles_of(request, together=True)
    tables = {side: _table(profiles, side) for side in profiles.sides}
    keys = pl.concat([table.select(_KEY) for table in tables.values()]).unique(maintain_order=True)
    metadata = pl.concat([table.select(_KEY, f"^{METADATA}.*$") for table in tables.values()], how="diagonal_relaxed")
    metadata = metadata.unique(_KEY, keep="first", maintain_order=True)
    columns = {name.removeprefix(METADATA): _categories(metadata[name]) for name in metadata.columns if name != _KEY}
    obs = pd.DataFrame(columns, index=_index(keys[_KEY].to_list(), profiles.level))
    values = {side: _values(keys, table, profiles.names) for side, table in tables.items()}
    first, *others = profiles.sides
    facts = {**profiles.facts(), "x_side": first}
    table = anndata.AnnData(
        values[first],
        obs=obs,
        var=_var(profiles.features, profiles.run.config.image.stains),
        layers={side: values[side] for side in others},
        uns={"sdvae_ray": _writable(facts)},
    )
    with request.run.storage.written(request.output) as path:
        table.write_h5ad(path, compression="gzip")
    return Exported(keys.height, profiles.noun, [request.output], facts)


def _table(profiles: Profiles, side: str) -> pl.DataFrame:
    whole = pl.concat(list(profiles.frames(side)), how="diagonal_relaxed")
    return whole.with_columns(pl.concat_str(profiles.key, separator=":").alias(_KEY))


def _values(keys: pl.DataFrame, table: pl.DataFrame, names: list[str]) -> np.ndarray:
    """Return (n, features) float32 in the order of `keys`; NaN where the table lacks a row."""
    joined = keys.join(table, on=_KEY, how="left", maintain_order="left").select(names)
    return joined.to_numpy().astype(np.float32)


def _var(features: list[Feature], stains: tuple[str, ...]) -> Any:
    """Return the features as a pandas table: extractor, part (stain or RGB pass), dimension; channel of a stain; n_channels."""
    import pandas as pd

    parts = [feature.part for feature in features]
    held = [[stain for stain in stains if stain in part.split("+")] for part in parts]
    columns = {
        "extractor": _categories([feature.extractor for feature in features]),
        "part": _categories(parts),
        "dimension": [feature.dimension for feature in features],
        "channel": _categories([names[0].lower() if len(names) == 1 else None for names in held]),
        "n_channels": np.array([len(names) for names in held], np.int8),
    }
    return pd.DataFrame(columns, index=_index([feature.name for feature in features], "feature"))


def _index(names: list[str], name: str) -> Any:
    import pandas as pd

    return pd.Index(names, dtype=object, name=name)  # of pandas 3, anndata writes texts as objects alone


def _categories(texts: Iterable[str | None]) -> Any:
    """Return texts as a categorical column, in which null stays missing."""
    import pandas as pd

    values = list(texts)
    known = sorted({text for text in values if text is not None})
    return pd.Categorical(values, dtype=pd.CategoricalDtype(_index(known, "")))


def _writable(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts as HDF5 holds them: texts and numbers as they are, everything else as JSON."""
    return {name: value if isinstance(value, str | int) else json.dumps(value) for name, value in facts.items()}
