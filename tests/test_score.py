"""The second stage on embeddings made here, whose answer is known: profiles, indices and scores."""

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import polars as pl
import pytest
from rich.console import Console

from sdvae_ray.config import RunConfig
from sdvae_ray.distributions.fid import frechet_distance_from_samples
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.pipeline.score import score
from sdvae_ray.pipeline.session import ray_session
from sdvae_ray.retrieval.activity import phenotypic_activity
from sdvae_ray.retrieval.normalise import normalise
from sdvae_ray.schema import EMBEDDINGS, ERROR, FOV_ID, KEYS, ROW, fov_id
from sdvae_ray.scores import read_scores
from sdvae_ray.storage import Storage
from sdvae_ray.tables import write_rows

SILENT = Console(quiet=True)
PLATES, CONTROLS, SITES, GROUPS, DEPTH, KEPT = ("P1", "P2"), 16, 2, 2, 6, 3
COMPOUNDS = ("strong", "null 1", "null 2", "null 3")


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with ray_session("local"):
        yield


def wells() -> list[dict[str, str | None]]:
    """Per plate: 16 controls and two wells of each compound; the second plate is another cell line's in `Metadata_Cell_type`."""
    rows = []
    for plate in PLATES:
        treatments = [None] * CONTROLS + [name for name in COMPOUNDS for _ in range(2)]
        for position, treatment in enumerate(treatments):
            keys = dict(zip(KEYS, ("s", "b", plate, f"{'ABCDEF'[position // 6]}{position % 6 + 1:02d}"), strict=False))
            control = None if treatment else "negcon"
            rows.append(keys | {"Metadata_broad_sample": treatment or "", "Metadata_control_type": control})
    return rows


def embeddings(seed: int) -> tuple[list[dict[str, str | None]], np.ndarray]:
    """Rows of FOVs and their (n, P, G, D) patch features: plate offsets, noise, and a shift for the strong compound."""
    random = np.random.default_rng(seed)
    rows, features = [], []
    offset = {plate: random.normal(0, 1, (GROUPS, DEPTH)) for plate in PLATES}
    for well in wells():
        shift = 6.0 * (well["Metadata_broad_sample"] == "strong") * np.eye(GROUPS, DEPTH)
        for site in range(1, SITES + 1):
            rows.append({**well, "Metadata_Site": str(site)})
            features.append(offset[str(well["Metadata_Plate"])] + shift + random.normal(0, 0.5, (KEPT, GROUPS, DEPTH)))
    return rows, np.asarray(features)


def store(config: RunConfig, sides: dict[str, np.ndarray], rows: list[dict[str, str | None]]) -> None:
    """Three files, one more FOV that failed."""
    import json

    ids = np.array([fov_id(row) for row in rows], object)
    for part, chosen in enumerate(np.array_split(np.arange(len(rows)), 3)):
        columns = {FOV_ID: ids[chosen], ERROR: np.full(len(chosen), "", object)}
        columns[ROW] = np.array([json.dumps(rows[i]) for i in chosen], object)
        for side, patches in sides.items():
            table = f"{EMBEDDINGS}/made/{side}"
            columns[f"{table}:embedding"] = patches[chosen].mean(1).astype(np.float16)
            columns[f"{table}:patches"] = patches[chosen].astype(np.float16)
        write_rows(config.output, f"part-{part}", columns, Storage())


@pytest.fixture
def config(small_run_config) -> RunConfig:
    extractors = {"latent": None, "intensity": None, "made": {"name": "intensity"}}
    return small_run_config(
        extractors=extractors, metrics=[], score={"normalise": "plate_standardise", "null_size": 2000}
    )


def test_the_strong_compound_is_retrieved_and_the_inactive_ones_are_not(local_ray, config):
    rows, patches = embeddings(0)
    noise = np.random.default_rng(1).normal(0, 3, patches.shape)
    store(config, {"image": patches, "same": patches, "noise": noise}, rows)
    scores = score(config, SILENT)
    table = scores.compounds.filter(pl.col("side") == "image")
    assert table.filter(pl.col("retrieved"))["compound"].to_list() == ["strong"]
    summary = {row["side"]: row for row in scores.summary.iter_rows(named=True)}
    assert summary["image"]["fraction_retrieved"] == 1 / len(COMPOUNDS)
    assert summary["image"]["reconstruction_recall"] is None
    assert summary["same"]["reconstruction_recall"] == 1.0
    assert summary["noise"]["reconstruction_recall"] < 0.5
    assert summary["noise"]["fraction_retrieved"] == 0
    for name in ("mean_map", "fraction_retrieved", "replicate_recall_at_1"):
        assert summary["same"][name] == summary["image"][name]


def test_profiles_are_means_of_fovs_and_the_scores_are_the_libraries(local_ray, config):
    """The straight line: mean over FOVs in numpy, then the functions of retrieval and distributions called directly."""
    rows, patches = embeddings(0)
    other = patches + np.random.default_rng(2).normal(0, 0.3, patches.shape)
    store(config, {"image": patches, "other": other}, rows)
    scores = score(config, SILENT)

    stored = pl.read_parquet(f"{config.output}/profiles/made/other.parquet")
    of_well: dict[str, list[np.ndarray]] = {}
    for row, values in zip(rows, other.mean(1).astype(np.float16), strict=True):
        of_well.setdefault(f"{row['Metadata_Plate']}/{row['Metadata_Well']}", []).append(values.astype(np.float64))
    expected = {well: np.mean(values, 0).ravel() for well, values in of_well.items()}
    features = stored.select(pl.col("^made_.*$")).to_numpy()
    for key, profile in zip(
        stored.select(pl.concat_str("Metadata_Plate", "Metadata_Well", separator="/")).to_series(),
        features,
        strict=True,
    ):
        np.testing.assert_allclose(profile, expected[key], rtol=1e-6)

    roles = stored.with_columns(
        pl.col("Metadata_broad_sample").alias("compound"),
        (pl.col("Metadata_control_type") == "negcon").fill_null(False).alias("is_control"),
        pl.col("Metadata_Plate").alias("plate"),
        pl.lit("all").alias("group"),
    )
    normalised = normalise(features, roles["is_control"], roles["plate"], "plate_standardise").features
    direct = phenotypic_activity(normalised, roles, key=("Metadata_Plate", "Metadata_Well"), null_size=2000)
    ours = scores.compounds.filter(pl.col("side") == "other").sort("compound")
    assert ours["map"].to_list() == pytest.approx(direct.compounds.sort("compound")["map"].to_list())

    flat = [values.astype(np.float16).astype(np.float64)[:, :, 1].reshape(-1, DEPTH) for values in (patches, other)]
    part = scores.fid.filter(pl.col("part") == 1).row(0, named=True)
    assert part["fid"] == pytest.approx(frechet_distance_from_samples(*flat), rel=1e-6)
    assert part["n_image"] == len(flat[0])


def test_an_index_is_read_back_by_faiss_with_its_wells(local_ray, config):
    rows, patches = embeddings(0)
    store(config, {"image": patches}, rows)
    score(config, SILENT)
    stem = Path(config.output) / "index" / "made" / "image" / "all"
    index, names = faiss.read_index(f"{stem}.faiss"), pl.read_parquet(f"{stem}.parquet")
    assert index.ntotal == names.height == len(wells())
    assert names["id"].to_list() == list(range(names.height))
    vector = index.reconstruct(5)
    assert index.search(vector[None], 1)[1][0, 0] == 5


def test_groups_are_scored_apart_and_one_without_controls_says_why(local_ray, config):
    rows, patches = embeddings(0)
    for row in rows:
        row["Metadata_Cell_type"] = "U2OS" if row["Metadata_Plate"] == "P1" else "A549"
        if row["Metadata_Plate"] == "P2":
            row["Metadata_control_type"] = None
    store(config, {"image": patches}, rows)
    grouped = config.model_copy(update={"score": config.score.model_copy(update={"group": ("Metadata_Cell_type",)})})
    scores = score(grouped, SILENT)
    status = dict(scores.summary.select("group", "status").iter_rows())
    assert status["U2OS"] == "ok"
    assert status["A549"].startswith("not scored: ")
    assert "control" in status["A549"]
    again = read_scores(config.output, Storage())
    assert again.summary.equals(scores.summary)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"control": "Metadata_controltype == 'negcon'"}, "did you mean 'Metadata_control_type'"),
        ({"control": "import os"}, "cannot read"),
        ({"control": "__import__('os').system('true')"}, "is not a comparison"),
        ({"perturbation": "Metadata_broad_sampel"}, "did you mean 'Metadata_broad_sample'"),
        ({"group": ("Metadata_Celltype",)}, "there is no column 'Metadata_Celltype'"),
        ({"normalise": "publishd"}, "published"),
    ],
)
def test_a_mistake_in_the_score_section_is_one_line(config, change, words):
    rows, patches = embeddings(0)
    store(config, {"image": patches}, rows)
    with pytest.raises(ConfigError, match="(?s).*") as caught:
        score(config.model_copy(update={"score": config.score.model_copy(update=change)}), SILENT, "local")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_to_score_is_said(config):
    with pytest.raises(DataError, match="sdvae-ray encode"):
        score(config, SILENT)
