"""Distances between the originals' patches and a side's, of any slice of the run, from what merges: moments and hashed samples.

Nothing here touches a model: the embeddings tables hold the patches.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import ray

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.distributions import fid, sample
from sdvae_ray.distributions.between import DISTANCES, compare
from sdvae_ray.distributions.kernel import kid
from sdvae_ray.randomness import generator
from sdvae_ray.run.run import Run
from sdvae_ray.schema import EMBEDDING, FOV_ID, PATCHES, embeddings_table

GROUP = "group"  # values of score.group joined by " / "; "all" where there are none
SLICE = "slice"  # the same of score.distributions.by
_TASK_CPUS = 0.5


@dataclass(frozen=True)
class PatchStatistics:
    """Of one part (RGB pass or stain) of one slice: moments for the Frechet distance, a sample for the others; None: not asked."""

    moments: fid.Moments | None
    sample: sample.Sample | None

    @property
    def n(self) -> int:
        found = self.moments or self.sample
        return found.n if found else 0


Patches = dict[tuple[str, str, int], PatchStatistics]  # (GROUP or SLICE, its value, part)


def with_slices(fovs: pl.DataFrame, run: Run) -> pl.DataFrame:
    """Adds `group`, and `slice` where the run asks for other slices."""

    def joined(columns: tuple[str, ...]) -> pl.Expr:
        if not columns:
            return pl.lit("all")
        return pl.concat_str([pl.col(name).fill_null("-") for name in columns], separator=" / ")

    by = run.config.score.distributions.by
    with_group = fovs.with_columns(joined(run.config.score.group).alias(GROUP))
    return with_group.with_columns(joined(by).alias(SLICE)) if by else with_group


def slice_columns(run: Run) -> list[str]:
    return [GROUP, SLICE] if run.config.score.distributions.by else [GROUP]


def near_the_mean(run: Run, fovs: pl.DataFrame, extractor: str) -> np.ndarray | None:
    """(G, D) float64: the original of one FOV, chosen by hash. Moments about it do not drown in the square of their mean."""
    names = sorted(fovs[FOV_ID].to_list())
    chosen = names[int(generator(run.config.seed, "shift").integers(len(names)))]
    row = fovs.filter(pl.col(FOV_ID) == chosen)
    ids, values = run.read(embeddings_table(extractor, IMAGE_SIDE), EMBEDDING, row)
    return values[0].astype(np.float64) if ids else None


def patch_statistics(run: Run, table: str, plate: pl.DataFrame, shift: np.ndarray | None) -> Patches:
    """Of the FOVs of `plate` (fov_id, files and the slices); empty where the table keeps no patches."""
    try:
        ids, values = run.read(table, PATCHES, plate)
    except KeyError:  # keep_patches: 0
        return {}
    if not ids:
        return {}
    settings, wanted = run.config.score.distributions, run.config.score.distributions.metrics
    found: Patches = {}
    by_fov = pl.DataFrame({FOV_ID: ids}).join(plate, on=FOV_ID, how="left", maintain_order="left")
    for column in slice_columns(run):
        labels = by_fov[column].to_numpy()
        for label in sorted(set(labels.tolist())):
            rows = np.flatnonzero(labels == label)
            chosen = values[rows].astype(np.float64)  # (n, k, G, D)
            keys = sample.patch_keys([ids[row] for row in rows], chosen.shape[1])
            for part in range(chosen.shape[2]):
                flat = chosen[:, :, part].reshape(-1, chosen.shape[3])
                about = None if shift is None else shift[part]
                found[column, label, part] = PatchStatistics(
                    fid.moments(flat, about) if "fid" in wanted else None,
                    sample.sample(keys, flat, settings.samples, run.config.seed) if {*wanted} - {"fid"} else None,
                )
    return found


def merge_all(parts: Iterable[Patches]) -> Patches:
    merged: Patches = {}
    for part in parts:
        for key, found in part.items():
            merged[key] = _merge(merged[key], found) if key in merged else found
    return merged


def _merge(a: PatchStatistics, b: PatchStatistics) -> PatchStatistics:
    moments = fid.merge(a.moments, b.moments) if a.moments and b.moments else None
    return PatchStatistics(moments, sample.merge(a.sample, b.sample) if a.sample and b.sample else None)


def distances(run: Run, extractor: str, side: str, image: Patches, found: Patches) -> pl.DataFrame:
    """One row per slice and part that both sides have; a number that cannot be had is null, with its reason."""
    keys = [key for key in sorted(found) if key in image]
    task = _compare.options(num_cpus=_TASK_CPUS)
    settings = run.config.score.distributions
    numbers = ray.get([task.remote(image[key], found[key], settings.metrics, settings.neighbours) for key in keys])
    count = 1 + max((part for _, _, part in found), default=0)
    rows = [
        {
            "extractor": extractor,
            "side": side,
            "by": column,
            "slice": label,
            "part": run.config.image.parts(count)[part],
            "n_image": image[column, label, part].n,
            "n_side": found[column, label, part].n,
            **values,
            "reason": "; ".join(sorted(set(reasons.values()))) or None,
        }
        for (column, label, part), (values, reasons) in zip(keys, numbers, strict=True)
    ]
    return pl.DataFrame(rows, schema=_schema(run))


def _schema(run: Run) -> Mapping[str, pl.DataType | type[pl.DataType]]:
    text = dict.fromkeys(("extractor", "side", "by", "slice", "part"), pl.String)
    counts = dict.fromkeys(("n_image", "n_side", "dimensions", "sampled"), pl.Int64)
    numbers = [name for distance in run.config.score.distributions.metrics for name in DISTANCES[distance]]
    if "kid" in numbers:
        numbers.append("kid_paired")
    return {**text, **counts, **dict.fromkeys(numbers, pl.Float64), "reason": pl.String}


@ray.remote
def _compare(
    image: PatchStatistics, side: PatchStatistics, which: tuple[str, ...], neighbours: int
) -> tuple[dict[str, float | int | None], dict[str, str]]:
    values, reasons = compare(image.moments, side.moments, image.sample, side.sample, which, neighbours)
    a, b = image.sample, side.sample
    if "kid" in which and values["kid"] is not None and a and b and np.array_equal(a.hashes, b.hashes):
        values["kid_paired"] = kid(a.values, b.values, paired=True)
    dimensions = side.moments.sum.size if side.moments else side.sample.values.shape[1] if side.sample else None
    sampled = len(side.sample.hashes) if side.sample else None
    return {"dimensions": dimensions, "sampled": sampled, **values}, reasons
