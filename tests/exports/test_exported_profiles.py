"""Tables of profiles, opened by the libraries they are for: the values are the run's, under names that say what they are."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from sdvae_ray.schema import EMBEDDING, FOV_ID, embeddings_table


def test_anndata_has_a_layer_per_side_and_says_what_a_feature_is(shared_run, exported, tmp_path):
    anndata = pytest.importorskip("anndata")
    said = exported("anndata", tmp_path / "x.h5ad", "--extractor", "intensity")
    table = anndata.read_h5ad(tmp_path / "x.h5ad")
    assert said["rows"] == table.n_obs == 4
    assert table.obs_names.tolist()[0] == "source_1:batch 1:P1:A01"
    assert set(table.layers) == {"tiny", "pca", "identity", "jpeg"}
    wells = shared_run.profiles("intensity")
    names = shared_run.features("intensity")["feature"].to_list()
    assert table.var_names.tolist() == names
    np.testing.assert_array_equal(table.X, wells.select(names).to_numpy())
    np.testing.assert_array_equal(
        table.layers["jpeg"], shared_run.profiles("intensity", "jpeg").select(names).to_numpy()
    )
    assert table.obs["control_type"].tolist()[1] == "negcon"
    assert table.obs["control_type"].isna().tolist() == [True, False, True, True]
    row = table.var.loc["intensity_ER_2"]
    assert (row["extractor"], row["part"], row["dimension"], row["channel"], row["n_channels"]) == (
        "intensity",
        "ER",
        2,
        "er",
        1,
    )
    facts = table.uns["sdvae_ray"]
    assert (facts["x_side"], facts["normalisation"], facts["level"]) == ("image", "none", "well")
    assert json.loads(facts["random_weights"]) == ["tiny"]


def test_an_rgb_pass_is_no_channel_and_an_extractor_of_latents_has_no_originals(exported, tmp_path):
    anndata = pytest.importorskip("anndata")
    exported("anndata", tmp_path / "x.h5ad", "--extractor", "latent", "--side", "tiny")
    table = anndata.read_h5ad(tmp_path / "x.h5ad")
    assert table.uns["sdvae_ray"]["x_side"] == "tiny"
    row = table.var.iloc[0]
    assert row.name == "latent_Mito+AGP+RNA_0"
    assert pd.isna(row["channel"])
    assert row["n_channels"] == 3


def test_a_well_that_a_side_lacks_is_nan_in_its_layer(run, exported, tmp_path):
    anndata = pytest.importorskip("anndata")
    file = Path(run.output) / "profiles/intensity/jpeg/source_1/batch 1/P2.parquet"
    file.unlink()
    exported("anndata", tmp_path / "x.h5ad", "--extractor", "intensity", of=run)
    table = anndata.read_h5ad(tmp_path / "x.h5ad")
    assert np.isnan(table.layers["jpeg"]).all(1).tolist() == [False, False, False, True]
    assert np.isfinite(table.X).all()


def test_fields_of_view_are_the_embeddings_themselves(shared_run, exported, tmp_path):
    anndata = pytest.importorskip("anndata")
    exported("anndata", tmp_path / "x.h5ad", "--level", "fov", "--extractor", "intensity")
    table = anndata.read_h5ad(tmp_path / "x.h5ad")
    ids, values = shared_run.read(embeddings_table("intensity", "tiny"), EMBEDDING)
    rows = [ids.index(name) for name in table.obs_names]
    assert table.n_obs == len(ids) == 5
    np.testing.assert_array_equal(table.layers["tiny"], values[rows].reshape(5, -1).astype(np.float32))
    assert table.obs["Site"].tolist() == ["1", "2", "1", "1", "1"]


def test_pycytominer_copairs_duckdb_pandas_and_polars_read_one_file(exported, tmp_path):
    pycytominer = pytest.importorskip("pycytominer")
    from copairs.map import average_precision

    path = tmp_path / "x.parquet"
    said = exported("pycytominer", path, "--extractor", "intensity", "--side", "image", "--side", "tiny")
    table = pd.read_parquet(path)
    names = [name for name in table.columns if not name.startswith("Metadata_")]
    assert (len(table), len(names), said["rows"]) == (8, 85, 8)
    assert names[:2] == ["intensity_Mito_0", "intensity_Mito_1"]
    normal = pycytominer.normalize(table, features=names, meta_features="infer", samples="all", method="standardize")
    np.testing.assert_allclose(normal["intensity_Mito_0"].mean(), 0, atol=1e-6)
    meta = table.filter(like="Metadata_").fillna("")
    ranked = average_precision(
        meta, table[names].to_numpy(), ["Metadata_broad_sample"], [], [], ["Metadata_broad_sample"], progress_bar=False
    )
    assert ranked["average_precision"].between(0, 1).any()
    duckdb = pytest.importorskip("duckdb")
    counts = duckdb.sql(f"select Metadata_Side, count(*) from '{path}' group by all order by all").fetchall()
    assert counts == [("image", 4), ("tiny", 4)]
    assert pl.read_parquet(path)["Metadata_Extractor"].unique().to_list() == ["intensity"]
    facts = json.loads(pl.read_parquet_metadata(path)["sdvae_ray"])
    assert facts["aggregation"].startswith("mean of the embeddings")


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_csv_has_one_header_and_the_numbers_of_the_parquet_file(exported, tmp_path, name):
    options = ("--level", "fov", "--extractor", "intensity", "--side", "image", "--side", "pca")
    exported("csv", tmp_path / name, *options)
    exported("pycytominer", tmp_path / "x.parquet", *options)
    text, binary = pd.read_csv(tmp_path / name), pd.read_parquet(tmp_path / "x.parquet")
    assert text.columns.tolist() == binary.columns.tolist()
    assert text["Metadata_Side"].tolist() == ["image"] * 5 + ["pca"] * 5
    numbers = [column for column in text.columns if column.startswith("intensity_")]
    np.testing.assert_allclose(text[numbers], binary[numbers], rtol=1e-6)


def test_plates_are_chosen_by_name_or_by_key(exported, tmp_path):
    for plate, rows in (("P1", 3), ("source_1/batch 1/P2", 1)):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert exported("csv", tmp_path / "out/x.csv", "--extractor", "intensity", "--plate", plate)["rows"] == rows
        assert pl.read_csv(tmp_path / "out/x.csv")["Metadata_Plate"].unique().to_list() == [plate[-2:]]


def test_a_side_is_named_by_the_column_that_its_profiles_have_in_a_notebook(shared_run):
    names = shared_run.features("latent", "tiny")["feature"].to_list()
    assert names[0] == "latent_Mito+AGP+RNA_0"
    assert [name for name in shared_run.profiles("latent", "tiny").columns if not name.startswith("Metadata_")] == names
    assert shared_run.fovs()[FOV_ID].n_unique() == 5
