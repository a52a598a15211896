"""Stored latents to train on: one row per patch of a field of view, one file of the run at a time.

A row's latent is (T, Z, s, s): all RGB passes of the patch, so that a model may learn the stains together, as T * Z channels, or
one pass alone. It is unscaled, as the run stores it: a diffusion model learns (latent - shift_factor) * scaling_factor.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.exports.contract import Request
from sdvae_ray.exports.rows import by_file, provenance, texts, usable_fovs
from sdvae_ray.queries.decode import checked_side
from sdvae_ray.queries.recorded import recorded
from sdvae_ray.run.run import Run
from sdvae_ray.schema import FOV_ID, LATENT, LOGVAR, METADATA, latents_table
from sdvae_ray.settings.packing import pass_names

PATCH, TEXT, SCALING, SHIFT = "patch", "text", "scaling_factor", "shift_factor"


class Batch(NamedTuple):
    """The patches of some fields of view, n rows.

    rows     fov_id, patch (number in its field, row by row), text, Metadata_*, scaling_factor, shift_factor
    tensors  name -> (n, T, Z, s, s) float16: `mean`, or `sample` where the run drew one; `logvar` where the run stored it
    """

    rows: pl.DataFrame
    tensors: dict[str, np.ndarray]


@dataclass(frozen=True)
class Latents:
    """The latents of one autoencoder of a run. scaling, shift: of the model; 1 and 0 where it has none."""

    run: Run
    side: str
    plates: tuple[str, ...]
    text: str | None
    scaling: float
    shift: float

    @property
    def name(self) -> str:
        """Return `mean` if the run stored the posterior's mean, or the one latent of a model without a posterior; else `sample`."""
        return self.run.config.autoencoders[self.side].latent

    def batches(self) -> Iterator[Batch]:
        """Yield the patches file by file: no more than the latents of one file of the run are held."""
        table = latents_table(self.side)
        wanted = {self.name: LATENT}
        if self.run.config.autoencoders[self.side].store_logvar:
            wanted["logvar"] = LOGVAR
        for part in by_file(usable_fovs(self.run, self.plates)):
            columns = {name: self.run.read(table, column, part) for name, column in wanted.items()}
            fov_ids = columns[self.name].fov_ids
            if fov_ids:
                tensors = {
                    name: np.concatenate(_in_order(values.fov_ids, values.values, fov_ids))
                    for name, values in columns.items()
                }
                yield Batch(self._rows(part, fov_ids, columns[self.name].values.shape[1]), tensors)

    def _rows(self, part: pl.DataFrame, fov_ids: list[str], patches: int) -> pl.DataFrame:
        fovs = pl.DataFrame({FOV_ID: fov_ids}).join(part.drop("files"), on=FOV_ID, how="left", maintain_order="left")
        fovs = fovs.with_columns(pl.Series(TEXT, texts(self.run, fovs, self.text), pl.String))
        fovs = fovs.with_columns(pl.lit(self.scaling).alias(SCALING), pl.lit(self.shift).alias(SHIFT))
        fovs = fovs.with_columns(pl.lit(list(range(patches)), dtype=pl.List(pl.Int64)).alias(PATCH)).explode(PATCH)
        return fovs.select(FOV_ID, PATCH, TEXT, SCALING, SHIFT, f"^{METADATA}.*$")

    def facts(self, rows: int) -> dict[str, Any]:
        """Return what a reader of the latents must know."""
        autoencoder = self.run.config.autoencoders[self.side]
        return {
            **provenance(self.run, [f"autoencoders.{self.side}"]),
            "side": self.side,
            "rows": rows,
            "latent": self.name,
            "latent_bits": autoencoder.latent_bits,
            "logvar": autoencoder.store_logvar,
            "axes": ["pass", "channel", "y", "x"],
            "passes": pass_names(self.run.config.triples(self.side)),
            SCALING: self.scaling,
            SHIFT: self.shift,
            "to_train_on": f"({self.name} - {SHIFT}) * {SCALING}",
        }


def _in_order(fov_ids: list[str], values: np.ndarray, wanted: list[str]) -> np.ndarray:
    """Return the values (n, P, T, Z, s, s) in the order of `wanted`."""
    if fov_ids == wanted:
        return values
    place = {fov: number for number, fov in enumerate(fov_ids)}
    if lacking := [fov for fov in wanted if fov not in place]:
        raise DataError(f"{lacking[0]} has a latent and no logvar: run `sdvae-ray encode`")
    return values[[place[fov] for fov in wanted]]


def latents_of(request: Request) -> Latents:
    """Return the latents that a request asks for. Raises ConfigError for a side whose latents are not stored, or several sides."""
    if len(request.sides) > 1:
        raise ConfigError("export: one --side is wanted, latents of two autoencoders fit no one training set")
    run = request.run
    side = checked_side(run, request.sides[0] if request.sides else None)
    factors = recorded(run, {side}).get("latent_scaling", {}).get(side, {})
    scaling, shift = float(factors.get(SCALING) or 1.0), float(factors.get(SHIFT) or 0.0)
    return Latents(run, side, tuple(request.plates), request.text, scaling, shift)
