"""FAISS in the score stage: the index of a group, saved and read back, and what its nearest neighbours say."""

import re
from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.queries.saved_index import FIT, LEVELS, ROOT
from sdvae_ray.randomness import generator
from sdvae_ray.retrieval.index import faiss_index
from sdvae_ray.retrieval.normalisation import saved_fit
from sdvae_ray.retrieval.normalisation.normalise import Normalised, resolve_steps
from sdvae_ray.retrieval.normalisation.shelf import has_fit
from sdvae_ray.retrieval.tasks.recall import replicate_recall
from sdvae_ray.run.run import Run
from sdvae_ray.run.tables import write_table
from sdvae_ray.schema import WELL_KEY
from sdvae_ray.scoring.normalised import normaliser_of
from sdvae_ray.scoring.profiles import FILE, ROW, Profiles
from sdvae_ray.scoring.roles import TREATED
from sdvae_ray.storage import join

_QUERIES = 20_000  # a mean over them is known to 0.4 %


def save_and_reload_index(run: Run, label: dict[str, object], normalised: Normalised, wells: pl.DataFrame) -> Any:
    """Builds the group's index, saves it with the wells of its ids and the fit of their normalisation, returns it as read back."""
    stem = run.uri(ROOT, str(label["extractor"]), str(label["side"]), _file_name(str(label["group"])))
    built = faiss_index.build(normalised.features, np.arange(wells.height))
    run.storage.write_bytes(f"{stem}{FIT}", saved_fit.to_bytes(normalised.chain))
    run.storage.write_bytes(f"{stem}.faiss", faiss_index.to_bytes(built))
    write_table(f"{stem}.parquet", wells.drop(FILE, ROW).with_row_index("id").to_arrow(), run.storage)
    return faiss_index.from_bytes(run.storage.read_bytes(f"{stem}.faiss"))


def delete_well_indices(run: Run, extractor: str, side: str) -> None:
    """Those of an earlier score, whose groups may be others; what is indexed on request stays."""
    folder = run.uri(ROOT, extractor, side)
    for name in run.storage.list(folder):
        if name.partition(".")[0] not in LEVELS.values():
            run.storage.delete(join(folder, name))


def recall_queries(run: Run, label: dict[str, object], wells: pl.DataFrame) -> np.ndarray:
    """Rows of the treated wells whose neighbours are looked up: all, or a draw where they are many, for each meets every well."""
    treated = np.flatnonzero(wells[TREATED].to_numpy())
    if len(treated) <= _QUERIES:
        return treated
    drawn = generator(run.config.seed, "recall", str(label["group"])).choice(len(treated), _QUERIES, replace=False)
    return treated[np.sort(drawn)]


def replicate_recalls(
    run: Run, index: Any, features: np.ndarray, wells: pl.DataFrame, treated: np.ndarray
) -> dict[str, float | None]:
    """treated: rows of the queries."""
    if len(treated) == 0:
        return {}
    deepest = max(run.config.score.recall_at)
    _, found = faiss_index.search(index, features[treated], deepest + 1)
    compound, is_treated = wells["compound"].to_numpy(), wells["is_treated"].to_numpy()
    recalls = {}
    for k in run.config.score.recall_at:
        recall = replicate_recall(found, treated, compound, is_treated, k)
        known = recall[~np.isnan(recall)]
        recalls[f"replicate_recall_at_{k}"] = float(known.mean()) if len(known) else None
    return recalls


def in_the_originals_space(
    run: Run, profiles: Profiles, wells: pl.DataFrame, fit: np.ndarray, among: np.ndarray, image: Profiles
) -> tuple[np.ndarray, np.ndarray] | None:
    """(originals, reconstructions), each (W, D), normalised by the fit on the originals' controls (`fit`): a space fitted on the
    other side would not be theirs. `among`: wells that a step may be fitted on. None where a well has no original, and for harmony,
    which would align the one side to the other.
    """
    if not has_fit(resolve_steps(run.config.score.normalise)):
        return None
    theirs = image.wells.select(*WELL_KEY, FILE, ROW)
    originals = wells.drop(FILE, ROW).join(theirs, on=list(WELL_KEY), how="left", maintain_order="left")
    if originals[ROW].null_count():
        return None
    nobody = np.zeros_like(fit)
    space = normaliser_of(run, [(image, originals), (profiles, wells)])
    both = space(np.concatenate([fit, nobody]), np.concatenate([among, nobody])).features
    return both[: wells.height], both[wells.height :]


def own_well_recall(both: tuple[np.ndarray, np.ndarray] | None, treated: np.ndarray) -> float | None:
    """Return the share of treated wells whose reconstruction's nearest original is their own."""
    if both is None or len(treated) == 0:
        return None
    originals, recon = both
    _, nearest = faiss_index.search(faiss_index.build(originals), recon[treated], 1)
    return float((nearest[:, 0] == treated).mean())


def _file_name(group: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", group)
