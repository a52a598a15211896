"""Nearest wells to a well, and FOVs to a FOV, from the indices that `score` has saved: no model, no Ray."""

import difflib

import polars as pl

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.retrieval import index as faiss_index
from sdvae_ray.schema import FOV_ID, KEYS, METADATA, embeddings_table
from sdvae_ray.stages.columns import EMBEDDING
from sdvae_ray.storage import Storage, join
from sdvae_ray.tables import read_column, read_table

PLATE, WELL, SITE = KEYS[2], KEYS[3], KEYS[4]
SIMILARITY = "similarity"
FIELD_INDEX = "fovs"  # name of the files of an index over FOVs
_ROOT = "index"


def search_well(
    config: RunConfig, well: str, extractor: str | None, side: str | None, count: int, storage: Storage
) -> tuple[pl.DataFrame, dict[str, str]]:
    """(the `count` nearest other wells of the well's group, nearest first, with their cosine similarity; what was searched).

    well: PLATE/WELL. extractor, side: the run's first and the originals where None, or the first side where there are no originals.
    Raises DataError for what is not there, with the nearest match.
    """
    root = join(config.output, _ROOT)
    saved = [name for name in _saved(root, storage) if not name.endswith(f"/{FIELD_INDEX}")]
    if not saved:
        raise DataError(f"{config.output} has no index: run `sdvae-ray score` first")
    chosen, of_side = _chosen(config, saved, extractor, side)
    known: list[str] = []
    for stem in (each for each in saved if each.startswith(f"{chosen}/{of_side}/")):
        wells = pl.DataFrame(read_table(join(root, f"{stem}.parquet"), storage))
        names = wells.select(pl.concat_str(PLATE, WELL, separator="/")).to_series()
        rows = (names == well).arg_true()
        if not len(rows):
            known += names.to_list()
            continue
        if len(rows) > 1:
            raise DataError(f"{len(rows)} wells are {well}: the same plate name stands in several batches of this run")
        index = faiss_index.from_bytes(storage.read_bytes(join(root, f"{stem}.faiss")))
        number = int(wells["id"][rows[0]])
        similarity, ids = faiss_index.search(index, index.reconstruct(number)[None], min(count + 1, wells.height))
        found = pl.DataFrame({"id": ids[0], SIMILARITY: similarity[0]}).filter(pl.col("id") != number).head(count)
        metadata = [name for name in wells.columns if name.startswith(METADATA)]
        joined = found.join(
            wells.select("id", *metadata).cast({"id": pl.Int64}), on="id", how="left", maintain_order="left"
        )
        asked = wells.row(rows[0], named=True)
        about = {"well": well, "extractor": chosen, "side": of_side, "group": str(asked["group"])}
        perturbation = config.score.perturbation
        if perturbation is not None and perturbation in asked:
            about["perturbation"] = str(asked[perturbation] or "")
        return joined.drop("id"), about
    near = difflib.get_close_matches(well, known[:50_000], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; PLATE/WELL is wanted, such as {known[0]!r}" if known else ""
    raise DataError(f"no well {well!r} in the index of {chosen} on {of_side}{hint}")


def search_fov(
    config: RunConfig, fov_id: str, extractor: str | None, side: str | None, count: int, storage: Storage
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The same of one FOV in the approximate index over FOVs (score.fov_index); its settings are those it was measured with."""
    root = join(config.output, _ROOT)
    saved = [name for name in _saved(root, storage) if name.endswith(f"/{FIELD_INDEX}")]
    if not saved:
        raise DataError(f"{config.output} has no index of FOVs: set score.fov_index and run `sdvae-ray score`")
    chosen, of_side = _chosen(config, saved, extractor, side)
    stem = join(root, chosen, of_side, FIELD_INDEX)
    fovs = pl.DataFrame(read_table(f"{stem}.parquet", storage))
    row = fovs.filter(pl.col(FOV_ID) == fov_id)
    if row.height == 0:
        near = difflib.get_close_matches(fov_id, fovs[FOV_ID].head(50_000).to_list(), n=1)
        raise DataError(f"no FOV {fov_id!r} in the index{f'; did you mean {near[0]!r}?' if near else ''}")
    _, values = read_column(config.output, embeddings_table(chosen, of_side), EMBEDDING, row, storage)
    index = faiss_index.from_bytes(storage.read_bytes(f"{stem}.faiss"))
    similarity, ids = faiss_index.search(index, values.reshape(1, -1), min(count + 1, fovs.height))
    found = pl.DataFrame({"id": ids[0], SIMILARITY: similarity[0]}).filter(pl.col("id") != row["id"][0]).head(count)
    joined = found.join(fovs.drop("files").cast({"id": pl.Int64}), on="id", how="left", maintain_order="left")
    return joined.drop("id"), {"fov": fov_id, "extractor": chosen, "side": of_side, "group": "all"}


def _saved(root: str, storage: Storage) -> list[str]:
    """<extractor>/<side>/<name> of every index."""
    return [name.removesuffix(".faiss") for name in storage.list(root) if name.endswith(".faiss")]


def _chosen(config: RunConfig, saved: list[str], extractor: str | None, side: str | None) -> tuple[str, str]:
    """Extractor and side: those asked for, else the run's first and the originals, of what is saved."""
    there = {name.split("/")[0] for name in saved}
    extractors = [*(name for name in config.extractors if name in there), *sorted(there - config.extractors.keys())]
    chosen = _one("extractor", extractor, extractors, extractors[0])
    sides = sorted({name.split("/")[1] for name in saved if name.split("/")[0] == chosen})
    return chosen, _one("side", side, sides, IMAGE_SIDE if IMAGE_SIDE in sides else sides[0])


def _one(what: str, asked: str | None, names: list[str], default: str) -> str:
    if asked is not None and asked not in names:
        raise DataError(f"no index of {what} {asked!r}{did_you_mean(asked, names)}")
    return asked or default
