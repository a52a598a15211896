"""The second stage: stored embeddings -> well profiles, FAISS indices and scores, per extractor, side and group.

Writes under the run's output

profiles/<extractor>/<side>/...       well profiles before normalisation; see sdvae_ray.scoring.profiles
index/<extractor>/<side>/<group>.*    a FAISS index over the normalised profiles, the wells of its ids, and the fit
scores/*.parquet                      see sdvae_ray.run.scores
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import polars as pl
from rich.console import Console

from sdvae_ray import shelves
from sdvae_ray.cluster.failures import RAY_LOGS
from sdvae_ray.cluster.ordered_tasks import mapped, stage
from sdvae_ray.cluster.session import ray_session
from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.console import print_line, waiting
from sdvae_ray.errors import DataError
from sdvae_ray.run.annotation import write_annotation
from sdvae_ray.run.driver.lease import Lease
from sdvae_ray.run.driver.log import RunLog
from sdvae_ray.run.record import with_score_settings
from sdvae_ray.run.run import Run
from sdvae_ray.run.scores import Scores
from sdvae_ray.run.stored.plates import Mapper, in_threads
from sdvae_ray.run.stored.table_files import committed_files
from sdvae_ray.schema import FOVS
from sdvae_ray.scoring.audits import audits_of
from sdvae_ray.scoring.distances.distances import distances, near_the_mean
from sdvae_ray.scoring.distances.latent_space import latent_space
from sdvae_ray.scoring.distances.references import profiles_of_site_halves, references, retrieved_of
from sdvae_ray.scoring.floors import differences, floors_of, with_ceiling
from sdvae_ray.scoring.indices.fov_index import build_fov_index
from sdvae_ray.scoring.inputs.fields import fields_to_score
from sdvae_ray.scoring.inputs.fovs import Fovs
from sdvae_ray.scoring.metric_distributions import metric_distributions
from sdvae_ray.scoring.profiles import Profiles, build_profiles
from sdvae_ray.scoring.sides import Results, score_side
from sdvae_ray.scoring.tasks import tasks_of

_FEW_FILES = 512  # of fovs/, which threads of the driver read in seconds; more are read by tasks


def score(run: Run, console: Console, address: str | None = None, manifest: str | None = None) -> Scores:
    """Score everything that `encode` has committed, write the tables of scores/ and return them.

    address: of a Ray cluster, as `ray_session` takes it. manifest: whose metadata counts, in place of the run's own.
    Raises DataError if nothing is usable, no well is a control, or a committed file is gone; ConfigError for a column that is not
    there, or if another driver writes to the output.
    """

    def say(line: str) -> None:
        print_line(console, f"score: {line}")

    with Lease(run.output, run.storage, say) as lease, RunLog(run.output, run.storage, "score", say, RAY_LOGS):
        with ExitStack() as sessions:
            with waiting(console, f"score: listing the files of {run.uri(FOVS)}"):
                names = committed_files(run.output, run.storage)
            mapper: Mapper[Any] = in_threads
            if len(names) > _FEW_FILES:
                sessions.enter_context(ray_session(address, console))
                mapper = mapped
            fields = fields_to_score(run, names, manifest, console, mapper)
            scores = _scored(run, fields.fovs, console, address)
        lease.check()
        with waiting(console, "score: writing scores/"):
            scores.write(run.output, run.storage)
            write_annotation(run, fields.annotation)
        if record := run.find_record():  # the settings of this score: `score` may run again with other settings
            record = with_score_settings(record, run.config)
            record["scored"] = fields.facts
            record["excluded_by_qc"] = fields.excluded
            run.write_record(record)
    return scores


def _scored(run: Run, fovs: Fovs, console: Console, address: str | None) -> Scores:
    """Return the scores, which are not written yet; profiles and indices are."""
    pairs = run.embedded()
    settings = run.config.score
    plates = f" of plates {', '.join(settings.plates)} alone" if settings.plates else ""
    print_line(console, f"score: {fovs.height} FOVs{plates}, {len(pairs)} pairs of extractor and side")
    results = Results()
    originals: dict[str, Profiles] = {}
    with ray_session(address, console):
        extractors = sorted({extractor for extractor, _ in pairs})
        shifts = {extractor: near_the_mean(run, fovs, extractor) for extractor in extractors}
        for number, (extractor, side) in enumerate(pairs, 1):
            what = f"score: {extractor} of {side} ({number} of {len(pairs)}):"
            with stage(console, f"{what} profiles of {fovs.wells.height:,} wells"):
                profiles = build_profiles(run, fovs, extractor, side, shifts[extractor])
            halves: list[Profiles] = []
            if side == IMAGE_SIDE:
                originals[extractor] = profiles
                with stage(console, f"{what} profiles of both halves of the sites"):
                    halves = profiles_of_site_halves(run, fovs, extractor, shifts[extractor])
            else:
                image = originals[extractor].patches if extractor in originals else {}
                with stage(console, f"{what} distances from the originals"):
                    results.distributions.append(distances(run, extractor, side, image, profiles.patches))
            if settings.fov_index is not None:
                with stage(console, f"{what} index"):
                    _index_fovs(run, fovs.table(), extractor, side, console)
            with stage(console, f"{what} normalised and ranked"):
                score_side(run, profiles, originals.get(extractor) if side != IMAGE_SIDE else None, halves, results)
            if side == IMAGE_SIDE and settings.distributions.references:
                active = retrieved_of(results.compounds, extractor)
                with stage(console, f"{what} distances between parts of the originals"):
                    results.references.extend(references(run, fovs, profiles, halves, shifts[extractor], active))
        with stage(console, "score: latents"):
            latents, channels = latent_space(run, fovs)
        with stage(console, "score: metrics of patches"):
            metrics = metric_distributions(run, fovs, bands(run))
        with stage(console, f"score: floors of {len(results.floors)} groups and sides"):
            floors = floors_of(results.floors)
        with stage(console, f"score: retrieval tasks of {len(results.tasks)} groups and sides"):
            tasks = tasks_of(results.tasks, results.transfers)
        with stage(console, f"score: audits of {len(results.audits)} groups and sides"):
            audits = audits_of(results.audits)
    compounds, wells = _stacked(results.compounds), _stacked(results.wells)
    with waiting(console, "score: intervals over compounds, and differences from the originals"):
        differing = differences(run, compounds, wells)
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
        "differences": differing,
        "distributions": _stacked(results.distributions),
        "references": _stacked(results.references),
        "metrics": metrics,
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
