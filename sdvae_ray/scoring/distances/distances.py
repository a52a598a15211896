"""Distances between the originals' patches and a side's, per slice of the run, from statistics that merge: moments and samples.

No model runs here: the embeddings tables hold the patches.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import TASK_CPUS, in_order
from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.distributions import fid, sample
from sdvae_ray.distributions.between import DISTANCES, compare
from sdvae_ray.distributions.kernel import kid
from sdvae_ray.randomness import generator
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.field_values import of_patches
from sdvae_ray.schema import EMBEDDING, FOV_ID, PATCHES, embeddings_table
from sdvae_ray.scoring.inputs.fovs import Fovs
from sdvae_ray.scoring.inputs.labels import Label, slice_columns


@dataclass(frozen=True)
class PatchStatistics:
    """The statistics of the patches of one part (RGB pass or stain) in one slice of the run.

    moments: for the Frechet distance. sample: for the other distances. None if the run asks for no distance that needs it.
    """

    moments: fid.Moments | None
    sample: sample.Sample | None

    @property
    def n(self) -> int:
        """Return the number of patches."""
        statistics = self.moments or self.sample
        return statistics.n if statistics else 0

    @property
    def dimensions(self) -> int | None:
        """Return the number of features of a patch; None without statistics."""
        if self.moments:
            return int(self.moments.sum.size)
        return int(self.sample.values.shape[1]) if self.sample else None

    def merged(self, other: "PatchStatistics") -> "PatchStatistics":
        """Return the statistics of both sets of patches together."""
        return PatchStatistics(
            fid.merge(self.moments, other.moments) if self.moments and other.moments else None,
            sample.merge(self.sample, other.sample) if self.sample and other.sample else None,
        )


Patches = dict[tuple[str, str, int], PatchStatistics]  # (GROUP or SLICE, its value, number of the part) -> statistics


def near_the_mean(run: Run, fovs: Fovs, extractor: str) -> np.ndarray | None:
    """Return the originals' embedding of one FOV, chosen by hash, (G, D) float64; None if that FOV has no embedding.

    It is a vector near the mean: moments about it do not drown in the square of the mean.
    """
    number = int(generator(run.config.seed, "shift").integers(fovs.height))
    for plate in sorted(fovs.plates, key=lambda plate: "/".join(plate.key) + "/"):  # as their fov_ids are sorted
        if number < plate.height:
            row = plate.table().sort(FOV_ID)[number]
            break
        number -= plate.height
    names, values = run.read(embeddings_table(extractor, IMAGE_SIDE), EMBEDDING, row)
    return values[0].astype(np.float64) if names else None


def patch_statistics(run: Run, extractor: str, table: str, plate: pl.DataFrame, shift: np.ndarray | None) -> Patches:
    """Return the statistics of the patches of the FOVs of `plate` (fov_id, files and the slices); empty if no patches were kept."""
    settings = run.config.extractors.get(extractor)
    if settings is not None and not settings.keep_patches:
        return {}
    try:
        fov_ids, values = run.read(table, PATCHES, plate)
    except KeyError:  # of a run of an earlier version
        return {}
    if not fov_ids:
        return {}
    asked, wanted = run.config.score.distributions, {*run.config.score.distributions.metrics}
    statistics: Patches = {}
    by_fov = pl.DataFrame({FOV_ID: fov_ids}).join(plate, on=FOV_ID, how="left", maintain_order="left")
    for column in slice_columns(run):
        slices = by_fov[column].to_numpy()
        for name in sorted(set(slices.tolist())):
            rows = np.flatnonzero(slices == name)
            patches = of_patches(values[rows]).astype(np.float64)  # (N, G, D)
            keys = [key for row in rows for key in sample.patch_keys([fov_ids[row]], len(values[row]))]
            for part in range(patches.shape[1]):
                vectors = np.ascontiguousarray(patches[:, part])
                origin = None if shift is None else shift[part]
                statistics[column, name, part] = PatchStatistics(
                    fid.moments(vectors, origin) if "fid" in wanted else None,
                    sample.sample(keys, vectors, asked.samples, run.config.seed) if wanted - {"fid"} else None,
                )
    return statistics


def merge_patches(first: Patches, second: Patches) -> Patches:
    """Return the statistics of both sets of patches together, slice by slice."""
    shared = {key: first[key].merged(second[key]) for key in first.keys() & second.keys()}
    return {**first, **second, **shared}


def distances(run: Run, extractor: str, side: str, image: Patches, patches: Patches) -> pl.DataFrame:
    """Return one row for every slice and part that both the originals (`image`) and the side (`patches`) have.

    The columns are those of `Scores.distributions`. A distance that cannot be computed is null, and `reason` says why.
    """
    keys = [key for key in sorted(patches) if key in image]
    settings = run.config.score.distributions
    which = settings.metrics, settings.neighbours
    rows = list(in_order(_compare_slice, [(image[key], patches[key], *which) for key in keys]))
    parts = run.config.parts(1 + max((part for _, _, part in patches), default=0))
    where = [{"by": column, "slice": name, "part": parts[part]} for column, name, part in keys]
    numbers = [name for distance in settings.metrics for name in DISTANCES[distance]]
    paired = ["kid_paired"] if "kid" in numbers else []
    schema: dict[str, Any] = {
        **dict.fromkeys(("by", "slice", "part"), pl.String),
        **dict.fromkeys(("n_image", "n_side", "dimensions", "sampled"), pl.Int64),
        **dict.fromkeys((*numbers, *paired), pl.Float64),
        "reason": pl.String,
    }
    table = pl.DataFrame([{**place, **row} for place, row in zip(where, rows, strict=True)], schema=schema)
    return Label(extractor, side).before(table)


@ray.remote(num_cpus=TASK_CPUS)
def _compare_slice(
    image: PatchStatistics, side: PatchStatistics, metrics: tuple[str, ...], neighbours: int
) -> dict[str, Any]:
    """Return the columns of one row of `distances`, from `n_image` on."""
    values, reasons = compare(image.moments, side.moments, image.sample, side.sample, metrics, neighbours)
    a, b = image.sample, side.sample
    if "kid" in metrics and values["kid"] is not None and a and b and np.array_equal(a.hashes, b.hashes):
        values["kid_paired"] = kid(a.values, b.values, paired=True)
    return {
        "n_image": image.n,
        "n_side": side.n,
        "dimensions": side.dimensions,
        "sampled": len(b.hashes) if b else None,
        **values,
        "reason": "; ".join(sorted(set(reasons.values()))) or None,
    }
