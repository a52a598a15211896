"""A sample of a run's fields of view, whole files of it, chosen by hash: enough for distributions, and a bound on what is read."""

import polars as pl

from sdvae_ray.randomness import generator
from sdvae_ray.report.facts.scored import ScoredRun

SAMPLE = 20_000  # fields of view


def sampled(scored: ScoredRun) -> pl.DataFrame:
    """Return usable fields of view of whole files, chosen by hash: all of a small run, about SAMPLE of a large one."""
    file = pl.col("files").list.first()
    counts = dict(scored.usable.group_by(file).len().rows())
    names = sorted(counts)
    total, kept = 0, []
    for index in generator(scored.config.seed, "files").permutation(len(names)):
        if total < SAMPLE:
            kept.append(names[index])
            total += counts[names[index]]
    return scored.usable.filter(file.is_in(kept))
