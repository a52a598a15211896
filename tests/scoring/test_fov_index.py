"""An index over FOVs: built plate by plate through Ray, it finds what one build of all finds, and says how much of it is true."""

import json

import numpy as np
import polars as pl
import pytest

from sdvae_ray.config import RunConfig
from sdvae_ray.errors import DataError
from sdvae_ray.queries.search import search_row
from sdvae_ray.retrieval.index import approximate, faiss_index
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.commits import read_fovs
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.schema import ERROR, FOV_ID, KEYS, ROW, fov_id
from sdvae_ray.scoring.indices import fov_index
from sdvae_ray.scoring.indices.fov_index import build_fov_index
from sdvae_ray.storage import Storage

FOVS, GROUPS, DEPTH = 900, 2, 12
STORAGE = Storage()


@pytest.fixture
def run(small_run_config) -> tuple[RunConfig, np.ndarray, list[str]]:
    """900 FOVs of three plates in clusters; (config, unit vectors in the order of their sorted names, the names)."""
    config = small_run_config(
        extractors={"latent": None, "intensity": None, "made": {"name": "intensity"}},
        metrics=[],
        score={"perturbation": None, "fov_index": {"recall": 0.9, "memory_gb": 1}},
    )
    random = np.random.default_rng(0)
    centres = random.normal(0, 1, (30, GROUPS, DEPTH))
    values = (centres[random.integers(0, 30, FOVS)] + random.normal(0, 0.7, (FOVS, GROUPS, DEPTH))).astype(np.float16)
    rows = [
        dict(zip(KEYS, ("s", "b", f"P{n % 3}", f"A{n // 3 // 4:03d}", str(n // 3 % 4)), strict=True))
        for n in range(FOVS)
    ]
    names = [fov_id(row) for row in rows]
    for part, chosen in enumerate(np.array_split(np.arange(FOVS), 3)):
        columns = {FOV_ID: np.array([names[n] for n in chosen], object), ERROR: np.full(len(chosen), "", object)}
        columns[ROW] = np.array([json.dumps(rows[n]) for n in chosen], object)
        columns["embeddings/made/image:embedding"] = values[chosen]
        write_rows(config.output, f"part-{part}", columns, STORAGE)
    order = np.argsort(names)
    flat = values[order].reshape(FOVS, -1).astype(np.float64)
    return config, flat / np.linalg.norm(flat, axis=1, keepdims=True), [names[at] for at in order]


def built(config: RunConfig) -> dict:
    fovs = read_fovs(config.output, STORAGE)
    return build_fov_index(Run(config), fovs, "made", "image")


def offer(monkeypatch: pytest.MonkeyPatch, *kinds: tuple[str, int]) -> None:
    """Has these kinds, with their bits to refine by, be the ones that fit, in this order."""

    def planned(n: int, dimensions: int, memory_bytes: float, recall: float) -> list[approximate.Choice]:
        return [approximate.plan(kind, n, dimensions, bits) for kind, bits in kinds]

    monkeypatch.setattr(fov_index.approximate, "choices", planned)


def test_a_kind_that_does_not_reach_the_recall_gives_way_to_the_next_and_the_best_is_kept(local_ray, run, monkeypatch):
    config, _, names = run
    wanted = config.score.fov_index.model_copy(update={"recall": 1.0})
    config = config.model_copy(update={"score": config.score.model_copy(update={"fov_index": wanted})})
    offer(monkeypatch, ("ivf_pq_refined", 4), ("ivf_sq8", 8))
    record = built(config)
    assert (record["kind"], record["recall_reached"]) == ("ivf_sq8", False)
    offer(monkeypatch, ("ivf_pq_refined", 4), ("flat", 8), ("ivf_sq8", 8))
    record = built(config)
    assert (record["kind"], record["recall_reached"]) == ("flat", True)
    assert search_row(Run(config), names[5], None, None, None, 10)[0].height == 10


def test_the_exact_index_of_few_fovs_finds_the_nearest(local_ray, run):
    config, unit, names = run
    record = built(config)
    assert (record["kind"], record["recall"], record["vectors"]) == ("flat", 1.0, FOVS - FOVS // 10)
    found, about = search_row(Run(config), names[5], None, None, None, 10)
    assert about["side"] == "image"
    similarity = unit @ unit[5]
    expected = [names[at] for at in np.argsort(-similarity) if at != 5][:10]
    assert found[FOV_ID].to_list() == expected
    np.testing.assert_allclose(found["similarity"], np.sort(similarity)[::-1][1:11], atol=1e-3)


@pytest.mark.parametrize("kind", ["ivf_sq8", "ivf_pq_refined"])
def test_an_approximate_index_is_whole_and_its_recall_is_of_fovs_that_were_held_out(local_ray, run, monkeypatch, kind):
    config, unit, names = run

    offer(monkeypatch, (kind, 8))
    record = built(config)
    assert record["kind"] == kind
    assert 0.8 < record["recall"] <= 1
    assert record["queries"] == FOVS // 10 // 2  # the other half chose the settings
    stem = f"{config.output}/index/made/image/fovs"
    assert json.loads(STORAGE.read_bytes(f"{stem}.json"))["settings"] == record["settings"]
    index = faiss_index.from_bytes(STORAGE.read_bytes(f"{stem}.faiss"))
    assert sorted(faiss_index.ids_of(index).tolist()) == list(range(FOVS))  # the queries are back in it
    assert pl.read_parquet(f"{stem}.parquet")[FOV_ID].to_list() == names
    faiss_index.configure(index, dict.fromkeys(faiss_index.SETTINGS[kind], 10))
    _, ids = faiss_index.search(index, unit, 1)
    assert (ids[:, 0] == np.arange(FOVS)).mean() > 0.99


def test_what_cannot_be_indexed_or_searched_is_said_in_one_line(local_ray, run):
    config, _, names = run
    with pytest.raises(DataError, match="no FOV has an embedding of made of nothing"):
        build_fov_index(Run(config), read_fovs(config.output, STORAGE), "made", "nothing")
    with pytest.raises(DataError, match="too few"):
        build_fov_index(Run(config), read_fovs(config.output, STORAGE).head(8), "made", "image")
    with pytest.raises(DataError, match="set score.fov_index"):
        search_row(Run(config), names[0], None, None, None, 5)
    built(config)
    with pytest.raises(DataError, match="did you mean 's/b/P0/A0"):
        search_row(Run(config), "s/b/P0/A00/0", None, None, None, 5)
