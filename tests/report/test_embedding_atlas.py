"""The export for Embedding Atlas, opened by three readers: rows, places, neighbours by row number, texts."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from report_run import EVIL
from test_wells import write_index

from sdvae_ray.cli.main import main
from sdvae_ray.config import RunConfig
from sdvae_ray.exports.formats.embedding_atlas import _OPTIONS
from sdvae_ray.schema import METADATA


def with_metadata(config: RunConfig, side: str) -> np.ndarray:
    """An index of a side, with the metadata and group that `score` saves beside it; its vectors of length 1."""
    vectors = write_index(config, side)
    file = Path(config.output, "index", "intensity", side, "group.parquet")
    known = pl.read_parquet(config.manifest).select(f"^{METADATA}.*$").drop("Metadata_Site")
    table = pl.read_parquet(file)
    keys = [name for name in table.columns if name.startswith(METADATA)]
    table.join(known, on=keys, maintain_order="left").with_columns(group=pl.lit("U2OS / 48")).write_parquet(file)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def exported(capsys: pytest.CaptureFixture[str], config: RunConfig, *options: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["export", config.output, "--to", "embedding-atlas", *options])
    said = capsys.readouterr()
    return int(ended.value.code), " ".join((said.out + said.err).split())


def test_the_file_is_what_the_explorer_reads(run, tmp_path, capsys):
    duckdb = pytest.importorskip("duckdb")
    file = tmp_path / "wells.parquet"
    sides = {side: with_metadata(run, side) for side in ("image", "pca")}
    code, said = exported(capsys, run, "--side", "image", "--side", "pca", "-o", str(file))
    assert code == 0, said
    assert f"uvx embedding-atlas {file} {_OPTIONS}" in said
    table = pl.read_parquet(file)
    assert table.height == 14
    assert table["Metadata_Side"].to_list() == ["image"] * 7 + ["pca"] * 7
    assert table["well"][1] == "source_1/batch/P1/A02"
    assert table["text"].to_list()[:4] == ["untreated", "strong", EVIL, "inactive"]
    assert table["role"].to_list()[:2] == ["control", "treated"]
    for start, vectors in zip((0, 7), sides.values(), strict=True):
        cosines = vectors @ vectors.T
        for row in range(7):
            neighbours = table["neighbors"][start + row]
            order = [other for other in np.argsort(-cosines[row], kind="stable") if other != row]
            assert neighbours["ids"] == [start + other for other in order]
            np.testing.assert_allclose(neighbours["distances"], 1 - cosines[row][order], atol=1e-6)
        np.testing.assert_allclose(np.stack(table["vector"][start : start + 7].to_list()), vectors, atol=1e-6)
        centred = vectors - vectors.mean(0)
        axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
        places = centred @ axes.T
        shown = table.select("projection_x", "projection_y")[start : start + 7].to_numpy()
        shown = shown - shown.mean(0)
        assert abs(np.corrcoef(shown[:, 0], places[:, 0])[0, 1]) == pytest.approx(1, abs=1e-5)
        assert abs(np.corrcoef(shown[:, 1], places[:, 1])[0, 1]) == pytest.approx(1, abs=1e-5)
    first, second = (table["projection_x"][part] for part in (slice(0, 7), slice(7, 14)))
    assert first.max() < second.min()  # the maps do not overlap
    query = f"select projection_x, neighbors.ids, text from '{file}' where role = 'control'"
    assert len(duckdb.sql(query).fetchall()) == 4
    schema = pq.read_schema(file)
    assert str(schema.field("neighbors").type) == "struct<ids: list<element: int64>, distances: list<element: float>>"
    facts = json.loads(schema.metadata[b"sdvae_ray"])
    assert (facts["sides"], facts["extractor"]) == (["image", "pca"], "intensity")


def test_a_plate_and_a_text_are_chosen_and_what_is_lacking_is_said(run, tmp_path, capsys):
    file = tmp_path / "wells.parquet"
    assert exported(capsys, run, "-o", str(file))[1].endswith("run `sdvae-ray score` first")
    with_metadata(run, "image")
    code, said = exported(capsys, run, "-o", str(file), "--plate", "P1", "--text", "{phenotype} on {Well}")
    assert code == 0, said
    assert pl.read_parquet(file)["text"][1] == "er_stress on A02"
    code, said = exported(capsys, run, "-o", str(file), "--plate", "P2")
    assert (code, "no plate 'P2'" in said) == (2, True), said
    code, said = exported(capsys, run, "-o", str(file), "--level", "fov")
    assert (code, "takes no --level" in said) == (2, True)
