"""The second stage: stored embeddings -> well profiles, FAISS indices and scores, per extractor, side and group.

Writes under the run's output

profiles/<extractor>/<side>/...       well profiles before normalisation; see sdvae_ray.scoring.profiles
index/<extractor>/<side>/<group>.*    a FAISS index over the normalised profiles, the wells of its ids, and the fit
scores/*.parquet                      see sdvae_ray.run.scores
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl
from rich.console import Console

from sdvae_ray import shelves
from sdvae_ray.cluster.failures import RAY_LOGS
from sdvae_ray.cluster.session import ray_session
from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.console import print_line
from sdvae_ray.controls import control_counts, lines_on_controls, with_roles
from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.retrieval.normalisation.normalise import resolve_steps
from sdvae_ray.run.annotation import write_annotation
from sdvae_ray.run.lease import Lease
from sdvae_ray.run.log import RunLog
from sdvae_ray.run.record import with_score_settings
from sdvae_ray.run.run import Run
from sdvae_ray.run.scores import Scores
from sdvae_ray.schema import ERROR, FOV_ID, PLATE_COLUMN, annotation_columns
from sdvae_ray.scoring.annotation import Fields, with_current_metadata
from sdvae_ray.scoring.audits import audits_of
from sdvae_ray.scoring.distances.distances import distances, near_the_mean
from sdvae_ray.scoring.distances.latent_space import latent_space
from sdvae_ray.scoring.distances.references import profiles_of_site_halves, references, retrieved_of
from sdvae_ray.scoring.exclusion import Exclusion, excluded_fovs
from sdvae_ray.scoring.floors import differences, floors_of, with_ceiling
from sdvae_ray.scoring.fov_index import build_fov_index
from sdvae_ray.scoring.labels import with_slices
from sdvae_ray.scoring.metric_distributions import metric_distributions
from sdvae_ray.scoring.profiles import Profiles, build_profiles
from sdvae_ray.scoring.roles import known_columns
from sdvae_ray.scoring.sides import Results, score_side
from sdvae_ray.scoring.tasks import tasks_of
from sdvae_ray.sources.keys import without_words


def score(run: Run, console: Console, address: str | None = None, manifest: str | None = None) -> Scores:
    """Score everything that `encode` has committed, write the tables of scores/ and return them.

    address: of a Ray cluster, as `ray_session` takes it. manifest: whose metadata counts, in place of the run's own manifest.
    Raises DataError if nothing is usable, no well is a control, or a committed file is gone; ConfigError for a column that is not
    there, or if another driver writes to the output.
    """

    def say(line: str) -> None:
        print_line(console, f"score: {line}")

    with Lease(run.output, run.storage, say) as lease, RunLog(run.output, run.storage, "score", say, RAY_LOGS):
        exclusion = excluded_fovs(run)
        if exclusion.line:
            say(exclusion.line)
        fields = _fovs_to_score(run, manifest, say, exclusion)
        scores = _scored(run, fields.fovs, console, address)
        lease.check()
        scores.write(run.output, run.storage)
        write_annotation(run, fields.annotation)
        if record := run.find_record():  # the settings of this score: `score` may run again with other settings
            record = with_score_settings(record, run.config)
            record["scored"] = fields.facts
            record["excluded_by_qc"] = exclusion.record
            run.write_record(record)
    return scores


def _scored(run: Run, fovs: pl.DataFrame, console: Console, address: str | None) -> Scores:
    """Return the scores, which are not written yet; profiles and indices are. fovs: from `_fovs_to_score`."""
    run.check_whole()
    pairs = run.embedded()
    settings = run.config.score
    plates = f" of plates {', '.join(settings.plates)} alone" if settings.plates else ""
    print_line(console, f"score: {fovs.height} FOVs{plates}, {len(pairs)} pairs of extractor and side")
    results = Results()
    originals: dict[str, Profiles] = {}
    with ray_session(address):
        extractors = sorted({extractor for extractor, _ in pairs})
        shifts = {extractor: near_the_mean(run, fovs, extractor) for extractor in extractors}
        for extractor, side in pairs:
            profiles = build_profiles(run, fovs, extractor, side, shifts[extractor])
            halves: list[Profiles] = []
            if side == IMAGE_SIDE:
                originals[extractor] = profiles
                halves = profiles_of_site_halves(run, fovs, extractor, shifts[extractor])
            else:
                image = originals[extractor].patches if extractor in originals else {}
                results.distributions.append(distances(run, extractor, side, image, profiles.patches))
            if settings.fov_index is not None:
                _index_fovs(run, fovs, extractor, side, console)
            score_side(run, profiles, originals.get(extractor) if side != IMAGE_SIDE else None, halves, results)
            if side == IMAGE_SIDE and settings.distributions.references:
                active = retrieved_of(results.compounds, extractor)
                results.references.extend(references(run, fovs, profiles, halves, shifts[extractor], active))
        latents, channels = latent_space(run, fovs)
        floors = floors_of(results.floors)
        tasks = tasks_of(results.tasks, results.transfers)
        audits = audits_of(results.audits)
    compounds, wells = _stacked(results.compounds), _stacked(results.wells)
    tables = {
        "summary": _stacked(results.summary),
        "compounds": compounds,
        "wells": wells,
        "floors": floors.floors,
        "estimates": floors.estimates,
        "over_floor": with_ceiling(floors.over_floor),
        "ceilings": floors.ceilings,
        "tasks": tasks,
        **audits,
        "differences": differences(run, compounds, wells),
        "distributions": _stacked(results.distributions),
        "references": _stacked(results.references),
        "metrics": metric_distributions(run, fovs, bands(run)),
        "latents": latents,
        "latent_channels": channels,
    }
    return Scores(**{name: _with_random_weights(run, table) for name, table in tables.items()})


def bands(run: Run) -> dict[str, tuple[str, ...]]:
    """Return metric -> names of its last axis, for every metric that has one."""
    names: dict[str, tuple[str, ...]] = {}
    for name, metric in run.config.metrics.items():
        module = shelves.find("metrics", metric.name)
        against_stains = getattr(module, "AGAINST_STAINS", False)
        names[name] = run.config.image.stains if against_stains else tuple(getattr(module, "BANDS", ()))
    return {name: bands for name, bands in names.items() if bands}


def _fovs_to_score(run: Run, manifest: str | None, say: Callable[[str], None], exclusion: Exclusion) -> Fields:
    """Return the usable rows of fovs on the plates of score.plates that `exclusion` keeps, with current metadata, groups, slices
    and roles, after checking the score section. say: takes notes.
    """
    settings = run.config.score
    resolve_steps(settings.normalise)
    fovs = run.fovs()
    if fovs[ERROR].null_count() == 0:
        raise DataError(f"{run.output} has no usable FOVs to score: run `sdvae-ray encode` first")
    fields = with_current_metadata(run, fovs, manifest, say)
    fovs = fields.fovs.filter(pl.col(ERROR).is_null())
    fovs, notes = without_words(fovs, annotation_columns(fovs.columns), settings.missing_words)
    for note in notes:
        say(f"note: {note}")
    if settings.plates is not None:
        plates = fovs[PLATE_COLUMN].unique().to_list()
        for name in settings.plates:
            if name not in plates:
                raise DataError(f"score.plates: no usable FOV is of plate {name!r}{did_you_mean(name, plates)}")
        fovs = fovs.filter(pl.col(PLATE_COLUMN).is_in(settings.plates))
    if exclusion.fovs:
        fovs = fovs.filter(~pl.col(FOV_ID).is_in(list(exclusion.fovs)))
    for columns, where in (
        (settings.group, "score.group"),
        (settings.distributions.by, "score.distributions.by"),
        ((settings.batch,), "score.batch"),
        ((settings.target,), "score.target"),
        (settings.sets or (), "score.sets"),
        ((settings.perturbation,), "score.perturbation"),
    ):
        known_columns(tuple(name for name in columns if name is not None), fovs, where)
    fovs = with_roles(settings, with_slices(fovs, run))
    if settings.perturbation is not None:
        counts = control_counts(fovs)
        for line in lines_on_controls(settings, counts):
            say(line)
        fields.facts["controls"] = counts.to_dicts()
    return replace(fields, fovs=fovs)


def _index_fovs(run: Run, fovs: pl.DataFrame, extractor: str, side: str, console: Console) -> None:
    """Build the index of score.fov_index and print one line: its size and recall, or why it was not built."""
    level = run.config.score.fov_index.level if run.config.score.fov_index else "fov"
    vectors = "FOVs" if level == "fov" else "patches"
    try:
        record = build_fov_index(run, fovs, extractor, side, level)
    except DataError as error:
        outcome = f"no index of {vectors}: {error}"
    else:
        size, recall = record["bytes_per_vector"], record["recall"]
        outcome = f"{record['kind']}, {record['vectors']} {vectors}, {size:.0f} bytes each, recall@10 {recall:.3f}"
    print_line(console, f"index: {extractor} {side}: {outcome}")


def _stacked(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the tables stacked into one; an empty table without tables."""
    empty = pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})
    return pl.concat(tables, how="diagonal_relaxed") if tables else empty


def _with_random_weights(run: Run, table: pl.DataFrame) -> pl.DataFrame:
    """Return the table with the column random_weights: True if the row's extractor or side has random weights."""
    names = [pl.col(name).is_in(run.config.random_weights) for name in ("extractor", "side") if name in table.columns]
    return table.with_columns(pl.any_horizontal(names).alias("random_weights"))
