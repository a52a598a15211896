"""The FAISS index of a group's wells: saved and read back, and the recalls of its nearest neighbours."""

import hashlib
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl

from sdvae_ray.controls import TREATED
from sdvae_ray.queries.saved_index import FIT, ID, LEVELS, ROOT
from sdvae_ray.randomness import generator
from sdvae_ray.retrieval.index import faiss_index
from sdvae_ray.retrieval.normalisation import saved_fit
from sdvae_ray.retrieval.normalisation.normalise import Normalised, resolve_steps
from sdvae_ray.retrieval.normalisation.shelf import has_fit
from sdvae_ray.retrieval.tasks.recall import replicate_recall
from sdvae_ray.run.run import Run
from sdvae_ray.schema import WELL_KEY
from sdvae_ray.scoring.inputs.labels import Label
from sdvae_ray.scoring.normalised import normaliser_of
from sdvae_ray.scoring.profiles import FILE, ROW, Profiles
from sdvae_ray.storage import join

_QUERIES = 20_000  # a mean over so many is known to 0.4 %
_LONGEST = 150  # characters of a group in a file name; file systems allow 255 in all
BothSides = tuple[np.ndarray, np.ndarray]  # (originals, reconstructions), each (W, D)


def save_and_reload_index(run: Run, label: Label, normalised: Normalised, wells: pl.DataFrame) -> Any:
    """Save the group's index, the wells of its ids and the fit of their normalisation; return the index, read back from storage."""
    place = (ROOT, label.extractor, label.side)
    stem = run.uri(*place, _file_name(str(label.group)))
    run.storage.write_bytes(f"{stem}{FIT}", saved_fit.to_bytes(normalised.chain))
    run.storage.write_bytes(f"{stem}.faiss", faiss_index.to_bytes(faiss_index.build(normalised.features)))
    run.write_table(wells.drop(FILE, ROW).with_row_index(ID), *place, f"{_file_name(str(label.group))}.parquet")
    return faiss_index.from_bytes(run.storage.read_bytes(f"{stem}.faiss"))


def delete_well_indices(run: Run, extractor: str, side: str) -> None:
    """Delete the indices of wells of an earlier score, whose groups may differ; indices of FOVs and patches stay."""
    folder = run.uri(ROOT, extractor, side)
    for name in run.storage.list(folder):
        if name.partition(".")[0] not in LEVELS.values():
            run.storage.delete(join(folder, name))


def recall_queries(run: Run, label: Label, wells: pl.DataFrame) -> np.ndarray:
    """Return the rows (Q,) of treated wells to query with, ascending: all, or a random 20,000 if there are more."""
    treated = np.flatnonzero(wells[TREATED].to_numpy())
    if len(treated) <= _QUERIES:
        return treated
    drawn = generator(run.config.seed, "recall", str(label.group)).choice(len(treated), _QUERIES, replace=False)
    return treated[np.sort(drawn)]


def neighbours_in(run: Run, index: Any, features: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the ids (Q, K) of the wells nearest to every query, itself among them, for the largest k of score.recall_at."""
    if len(queries) == 0:
        return np.empty((0, max(run.config.score.recall_at) + 1), np.int64)
    return faiss_index.search(index, features[queries], max(run.config.score.recall_at) + 1)[1]


def replicate_recalls(
    run: Run, neighbours: np.ndarray, wells: pl.DataFrame, queries: np.ndarray
) -> dict[str, float | None]:
    """Return the column replicate_recall_at_<k>, in [0, 1], for every k of score.recall_at; no columns without queries.

    neighbours: from `neighbours_in`. queries: (Q,) rows of treated wells. The value is None if no query has a replicate.
    """
    if len(queries) == 0:
        return {}
    compound, treated = wells["compound"].to_numpy(), wells[TREATED].to_numpy()
    recalls: dict[str, float | None] = {}
    for k in run.config.score.recall_at:
        recall = replicate_recall(neighbours, queries, compound, treated, k)
        known = recall[~np.isnan(recall)]
        recalls[f"replicate_recall_at_{k}"] = float(known.mean()) if len(known) else None
    return recalls


def in_the_originals_space(
    run: Run, originals: Profiles, profiles: Profiles, wells: pl.DataFrame, fit: np.ndarray, fittable: np.ndarray
) -> BothSides | None:
    """Return (originals, reconstructions), each (W, D), both normalised by a fit on the originals' controls.

    A fit on the reconstructions' controls would give another space. wells: W rows of `profiles`. fit: (W,) bool, the controls to
    fit on. fittable: (W,) bool, the wells that a step may be fitted on. None if a well has no original, and for harmony, which
    would align one side to the other.
    """
    if not has_fit(resolve_steps(run.config.score.normalise)):
        return None
    places = originals.wells.select(*WELL_KEY, FILE, ROW)
    of_originals = wells.drop(FILE, ROW).join(places, on=list(WELL_KEY), how="left", maintain_order="left")
    if of_originals[ROW].null_count():
        return None
    nobody = np.zeros_like(fit)
    normaliser = normaliser_of(run, [(originals, of_originals), (profiles, wells)])
    both = normaliser(np.concatenate([fit, nobody]), np.concatenate([fittable, nobody])).features
    return both[: wells.height], both[wells.height :]


def own_well_recall(both: BothSides | None, queries: np.ndarray) -> float | None:
    """Return the share of the wells `queries` whose reconstruction is nearest to its own original; None without them or `both`."""
    if both is None or len(queries) == 0:
        return None
    originals, reconstructions = both
    _, nearest = faiss_index.search(faiss_index.build(originals), reconstructions[queries], 1)
    return float((nearest[:, 0] == queries).mean())


def _file_name(group: str) -> str:
    """Return a name of a file for a group, of its own: what is no letter, digit, `_`, `.`, `-` or `~` is percent-encoded."""
    name = quote(group, safe="")
    if name.partition(".")[0] in LEVELS.values():  # the name of an index of FOVs or patches
        name = f"%{ord(name[0]):02X}{name[1:]}"
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}~{hashlib.sha256(group.encode()).hexdigest()[:16]}"
