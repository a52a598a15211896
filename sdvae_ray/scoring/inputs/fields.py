"""From fovs/ to the fields of view that are scored: read once, joined to the metadata of now, excluded, grouped, and checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any

import polars as pl
from rich.console import Console

from sdvae_ray.cluster.ordered_tasks import stage
from sdvae_ray.console import print_line
from sdvae_ray.controls import GROUP, lines_on_controls, with_roles
from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.retrieval.normalisation.normalise import resolve_steps
from sdvae_ray.run.quality import STORED
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.commits import gone_of, present_commits, refuse_gone
from sdvae_ray.run.stored.plates import PLACE, Committed, Key, Mapper, PlateRows, in_threads, read_committed, reduced
from sdvae_ray.schema import FOV_ID, METADATA, PLATE_KEY, SOURCE_DIGEST, annotation_columns
from sdvae_ray.scoring.inputs.annotation import current_manifest, current_metadata
from sdvae_ray.scoring.inputs.exclusion import exclusion_of, exclusion_rule
from sdvae_ray.scoring.inputs.fovs import Fovs, Prepared, Rules, prepare_plate, well_table
from sdvae_ray.scoring.inputs.roles import known_columns
from sdvae_ray.settings.score import ScoreConfig
from sdvae_ray.sources.keys import WordCounts


@dataclass(frozen=True)
class Fields:
    """The fields of a run as the scores take them.

    annotation  fov_id and the Metadata_* of the manifest at hand, where they are not those of the encoded fields; else None
    facts       what the record of the scores says of the metadata, JSON-ready
    excluded    the same of score.exclude_qc; None without a rule
    """

    fovs: Fovs
    annotation: pl.DataFrame | None
    facts: dict[str, Any]
    excluded: dict[str, Any] | None


def fields_to_score(
    run: Run, names: Sequence[str], manifest: str | None, console: Console, mapper: Mapper[Any] = in_threads
) -> Fields:
    """Return the fields that are scored, after checking the score section and that no committed file is gone.

    names: of the files of fovs/. manifest: whose metadata counts, in place of the run's own. mapper: where files and plates are
    worked on. Raises DataError if nothing is usable, no well is a control, or a file is gone; ConfigError for a mistake in `score`.
    """

    def say(line: str) -> None:
        print_line(console, f"score: {line}")

    settings = run.config.score
    resolve_steps(settings.normalise)
    rule = exclusion_rule(run)
    current = current_manifest(run, manifest, say)
    others = {*(STORED if rule is not None else ()), *((SOURCE_DIGEST,) if current.uri else ())}
    with stage(console, f"score: reading fovs/ of {len(names):,} files"):
        committed = read_committed(run, names, partial(_is_wanted, others), mapper)
    if not committed.usable:
        raise DataError(f"{run.output} has no usable FOVs to score: run `sdvae-ray encode` first")
    annotation, facts = None, current.facts
    if current.uri:
        with stage(console, f"score: joining the metadata of {current.uri}"):
            annotation, more = current_metadata(run, current.uri, _whole(committed), say)
        facts["manifest"] |= {key: more.pop(key) for key in ("identity", "annotation")}
        facts |= more
    _check_columns(settings, _columns(committed, annotation))
    numbers = () if rule is None else tuple(rule.meta.root_names())
    rules = Rules(committed.columns, None if rule is None else rule.meta.serialize(), numbers)
    with stage(console, f"score: fields of view of {len(committed.plates):,} plates"):
        by_plate = _by_plate(committed, annotation)
        keys = sorted(committed.plates)
        arguments = [(run, rules, key, committed.plates.pop(key), by_plate.get(key)) for key in keys]
        prepared: list[Prepared] = list(mapper(prepare_plate, arguments))
    if shared := [plate.shared for plate in prepared if plate.shared]:
        well, *places = shared[0]
        raise DataError(f"the well {well} stands in {' and in '.join(places)}: a joined score takes every well once")
    exclusion = exclusion_of(run, numbers, prepared)
    if exclusion.line:
        say(exclusion.line)
    with stage(console, "score: looking for the files that fovs/ commits"):
        kinds = {tuple(files) for plate in prepared for files in plate.kinds}
        present = present_commits(run.output, run.storage, committed.commits)
        refuse_gone(run.output, gone_of(kinds, committed.commits, present))
    for note in reduce(add, (plate.words for plate in prepared), WordCounts()).notes():
        say(f"note: {note}")
    _check_plates(settings, [plate for plate in prepared if plate.usable])
    scored = [plate for plate in prepared if plate.rows is not None]
    if not scored:
        raise DataError(f"{run.output}: no usable FOV is left to score")
    if settings.perturbation is not None:
        counts = pl.concat([plate.controls for plate in scored if plate.controls is not None]).sort(GROUP, *PLATE_KEY)
        for line in lines_on_controls(settings, counts):
            say(line)
        facts["controls"] = counts.to_dicts()
    fovs = Fovs(
        [plate.rows for plate in scored if plate.rows], well_table(plate.wells for plate in scored if plate.wells)
    )
    return Fields(fovs, annotation, facts, exclusion.record)


def _is_wanted(others: set[str], name: str) -> bool:
    return name.startswith(METADATA) or name in others


def _whole(committed: Committed) -> pl.DataFrame:
    """Return one row per FOV that was tried, in the order of fovs/, without the QC columns."""
    parts = [reduced(parts, committed.columns).drop(STORED, strict=False) for parts in committed.plates.values()]
    return pl.concat(parts).sort(PLACE).drop(PLACE)


def _columns(committed: Committed, annotation: pl.DataFrame | None) -> list[str]:
    """Return the names of the columns of the fields that are scored."""
    names = list(committed.columns)
    if annotation is None:
        return names
    own = set(annotation_columns(names))
    return [name for name in names if name not in own] + [name for name in annotation.columns if name != FOV_ID]


def _by_plate(committed: Committed, annotation: pl.DataFrame | None) -> dict[Key, PlateRows]:
    """Return plate -> its rows of the annotation."""
    if annotation is None:
        return {}
    parts = {}
    for key, rows in committed.plates.items():
        fovs = reduced(rows, committed.columns).select(FOV_ID)
        parts[key] = PlateRows.of(key, fovs.join(annotation, on=FOV_ID, how="left", maintain_order="left"))
    return parts


def _check_columns(settings: ScoreConfig, names: Sequence[str]) -> None:
    """Raise ConfigError for a column that the section names and the fields lack, and for an expression that cannot be read."""
    fields = pl.DataFrame(schema=dict.fromkeys(names, pl.String))
    for columns, where in (
        (settings.group, "score.group"),
        (settings.distributions.by, "score.distributions.by"),
        ((settings.batch,), "score.batch"),
        ((settings.target,), "score.target"),
        (settings.sets or (), "score.sets"),
        ((settings.perturbation,), "score.perturbation"),
    ):
        known_columns(tuple(name for name in columns if name is not None), fields, where)
    with_roles(settings, fields)


def _check_plates(settings: ScoreConfig, plates: Sequence[Prepared]) -> None:
    """Raise DataError, with the nearest match, for a plate of score.plates that no usable FOV is of."""
    names = sorted({plate.key[-1] for plate in plates})
    for name in settings.plates or ():
        if name not in names:
            raise DataError(f"score.plates: no usable FOV is of plate {name!r}{did_you_mean(name, names)}")
