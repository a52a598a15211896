"""Does the phenotype survive Stable Diffusion's VAE? A distributed job on Ray, and its results in Python.

    import sdvae_ray

    run = sdvae_ray.open("demo-run/run")                  # a run's output, local or s3://, or its run file
    fov_ids, latents = run.latents("demo_kl")             # (n, P, T, Z, s, s) float16
    run.scores().summary                                  # polars

    scored = sdvae_ray.retrieve(["plate1.csv.gz"], pos_sameby=["Metadata_broad_sample"], neg_sameby=["Metadata_Plate"])

Importing this package imports nothing heavy: each function imports what it needs when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from sdvae_ray.queries.retrieve import Retrieved
    from sdvae_ray.run.run import Run


def open(place: str | Path, overrides: Sequence[str] = (), storage: Mapping[str, Any] | None = None) -> Run:
    """Return a run on storage: its configuration, record, tables and scores.

    place: a run's output folder or URI, or its run file (.yaml). overrides: `key.key=value`, as `--set` takes them. storage: keys
    of `storage:` in a run file (anonymous, endpoint_url, region, profile), which override the run's own. Raises ConfigError for a
    run file or value that is not allowed, DataError if there is no run at `place`.
    """
    from sdvae_ray.run.run import Run

    return Run.open(place, overrides, storage)


def retrieve(
    profiles: str | Path | pl.DataFrame | Sequence[str | Path | pl.DataFrame],
    *,
    pos_sameby: Sequence[str],
    pos_diffby: Sequence[str] = (),
    neg_sameby: Sequence[str] = (),
    neg_diffby: Sequence[str] = (),
    multilabel: str | None = None,
    reference: str | None = None,
    exclude: str | None = None,
    features: Sequence[str] = (),
    drop_features: Sequence[str] = (),
    missing: Sequence[str] | None = None,
    storage: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Retrieved:
    """Return the scores of profiles of wells by copairs' four lists: average precision, p-values, intervals and floors.

    profiles: files (CSV, CSV.gz, Parquet), URIs or polars frames, stacked; they have Metadata_* columns and features.
    pos_sameby, pos_diffby: columns in which the wells of a positive pair are equal, and differ; neg_sameby, neg_diffby: the
    same for a negative pair. multilabel: a column of pos_sameby with labels joined by |.
    reference: an expression for the negatives, such as "Metadata_control_type == 'negcon'". exclude: one for wells to leave out.
    features: prefixes of features to keep. drop_features: globs of features to leave out. Columns that identify, place or count
    (ImageNumber, Image_*, *_Count, ...) are features only if a prefix asks for them. missing: words that mean "nothing", beside
    blanks; None: NA, N/A, NaN, null, None and kin.
    storage: keys of `storage:` in a run file.
    settings: null, null_size, ties, distance, strict, threshold, normalise, seed; `sdvae-ray retrieve -h` explains them.

    `summary` of the result is a JSON-ready mapping; `groups`, `wells` and `floors` are polars frames. Raises ConfigError for a
    column or a setting that does not exist, DataError for profiles that cannot be read or scored.
    """
    from sdvae_ray.queries.copairs_lists import checked_settings
    from sdvae_ray.queries.retrieve import retrieve as score_table
    from sdvae_ray.retrieval.ranking.pair_rules import PairRules
    from sdvae_ray.settings.values import MISSING_WORDS
    from sdvae_ray.sources.profiles import read_profiles
    from sdvae_ray.storage import Storage

    chosen, place = checked_settings(settings), Storage.of(storage)
    table = read_profiles(profiles, place, features, drop_features, MISSING_WORDS if missing is None else missing)
    return score_table(
        table, PairRules(pos_sameby, pos_diffby, neg_sameby, neg_diffby, multilabel), reference, exclude, chosen
    )


def make_manifest(
    load_data: Sequence[str], *, storage: Mapping[str, Any] | None = None, **settings: Any
) -> pl.DataFrame:
    """Return the manifest of load_data files, platemaps and metadata tables: one row per field of view.

    settings: options of sources.manifest.build_manifest (platemaps, metadata, rewrites, stains, defaults, drop_unmapped_wells,
    missing).
    `sdvae-ray manifest` also writes it. Raises DataError, which names the file and the row.
    """
    from sdvae_ray.sources.manifest.manifest import build_manifest
    from sdvae_ray.storage import Storage

    return build_manifest(load_data, storage=Storage.of(storage), **settings).table


def read_manifest(uri: str | Path, storage: Mapping[str, Any] | None = None) -> pl.DataFrame:
    """Return the manifest of a run: one row per field of view, with its fov_id, Metadata_* and where its pixels are."""
    from sdvae_ray.sources.manifest.manifest import read_manifest as read
    from sdvae_ray.storage import Storage

    return read(str(uri), Storage.of(storage))
