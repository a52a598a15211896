"""The section `score` of a run file against its manifest, before the launch: steps, columns, expressions, and controls."""

import re
from collections.abc import Callable

import polars as pl

from sdvae_ray.controls import control_counts, lines_on_controls, with_groups, with_roles
from sdvae_ray.errors import ConfigError, did_you_mean
from sdvae_ray.retrieval.normalisation.normalise import resolve_steps
from sdvae_ray.run.quality import qc_rule
from sdvae_ray.run.run import Run
from sdvae_ray.schema import METADATA, PLATE_COLUMN, WELL_KEY
from sdvae_ray.selection import select
from sdvae_ray.sources.keys import WordCounts, counted_words
from sdvae_ray.sources.manifest.reader import iterate_metadata, row_groups
from sdvae_ray.sources.manifest.row import located_stains
from sdvae_ray.sources.manifest.rules import is_known
from sdvae_ray.sources.tables import listed


def check_score(run: Run, say: Callable[[str], None]) -> None:
    """Check the section `score`, and say how many controls the plates of the manifest have.

    Raises ConfigError for a wrong step, expression or column, DataError if score.control holds for no well.
    """
    settings, manifest = run.config.score, run.config.manifest
    resolve_steps(settings.normalise)
    if settings.exclude_qc is not None:
        qc_rule(settings.exclude_qc, run.config.image.stains, "score.exclude_qc")
    names = row_groups(manifest, run.storage)[1]
    metadata = [name for name in names if name.startswith(METADATA)]
    retrieval = settings.perturbation is not None
    expressions = {"control": settings.control, "exclude": settings.exclude} if retrieval else {}
    for key, expression in expressions.items():
        if expression:
            select(expression, metadata, f"score.{key}")
    named = {"perturbation": [settings.perturbation], "group": settings.group, "target": [settings.target]}
    for key, columns in {**named, "distributions.by": settings.distributions.by}.items():
        for column in columns:
            if column is not None and column not in metadata:
                raise ConfigError(f"score.{key}: there is no column {column!r}{did_you_mean(column, metadata)}")
    unread = [name for name in names if not is_known(name, located_stains(names))]
    if unread:
        say(f"note: columns of the manifest that nothing reads: {listed(unread)}")
    if not retrieval:
        return
    words = {word for expression in expressions.values() for word in re.findall(r"\w+", expression or "")}
    wanted = {*WELL_KEY, str(settings.perturbation), *settings.group, *(words & set(metadata))}
    counts, parts = WordCounts(), list[pl.DataFrame]()
    for fields in iterate_metadata(manifest, sorted(wanted), run.storage):
        cleaned, more = counted_words(fields, sorted(wanted), settings.missing_words)
        counts += more
        parts.append(cleaned.unique(maintain_order=True))  # wells, so that millions of fields are not held
    fovs = pl.concat(parts)
    if settings.plates is not None:
        fovs = fovs.filter(pl.col(PLATE_COLUMN).is_in(settings.plates))
    for note in counts.notes():
        say(f"note: {note}")
    for line in lines_on_controls(settings, control_counts(with_roles(settings, with_groups(settings, fovs)))):
        say(line if line.startswith("note") else f"controls  {line}")
