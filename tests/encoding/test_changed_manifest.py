"""Kind 1, at encode: what of a manifest may change in a run that has begun."""

import shutil
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from straight_line import BROKEN, FOVS

from sdvae_ray.cluster.pools import Pool
from sdvae_ray.encoding.encode import encode
from sdvae_ray.encoding.start import checked_manifest, prepare_record
from sdvae_ray.engine.models import resolve_weights
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.run.record import CHANGES
from sdvae_ray.run.run import Run
from sdvae_ray.schema import ERROR, FOV_ID, SOURCE_DIGEST


def with_manifest(encoded, folder: Path, table: pl.DataFrame) -> Run:
    """The encoded run with another manifest."""
    manifest = folder / "other.parquet"
    table.write_parquet(manifest, row_group_size=4)
    return Run(encoded.model_copy(update={"manifest": str(manifest)}))


def prepared(run: Run) -> tuple[dict, list[str]]:
    """The record, and what is said."""
    said: list[str] = []
    keys, resolved = checked_manifest(run), resolve_weights(run.config, run.storage)
    return prepare_record(run, keys, resolved, Pool(1, 1, 1.0), say=said.append), said


@pytest.mark.slow
def test_a_failed_field_is_computed_from_its_new_place_and_no_other_field_is(local_ray, encoded, tmp_path):
    table = pl.read_parquet(encoded.manifest)
    mended = str(tmp_path / "mended.tiff")
    shutil.copy(table["uri_ER"][0], mended)
    broken = pl.int_range(pl.len()) == BROKEN
    run = with_manifest(
        encoded, tmp_path, table.with_columns(uri_ER=pl.when(broken).then(pl.lit(mended)).otherwise("uri_ER"))
    )
    lines = Console(record=True, width=200, quiet=False, file=(tmp_path / "lines").open("w"))
    done = encode(run, lines)
    assert (done.fovs, done.before, done.computed, done.errors) == (FOVS, FOVS - 1, 1, 0)
    assert "1 FOVs without a usable row have another image, and are computed from it" in lines.export_text()
    fovs = run.fovs()
    assert fovs[ERROR].null_count() == FOVS
    scanned = checked_manifest(run)
    assert dict(fovs.select(FOV_ID, SOURCE_DIGEST).iter_rows()) == dict(
        scanned.select(FOV_ID, SOURCE_DIGEST).iter_rows()
    )
    (before,) = run.record[CHANGES]
    assert before["uri"] == encoded.manifest
    assert run.record["manifest"]["identity"] != before["identity"]
    assert run.record["manifest"]["annotation"] == before["annotation"]


def test_annotation_may_change_and_rows_may_come_in_another_order(encoded, tmp_path):
    table = pl.read_parquet(encoded.manifest).reverse()
    record, said = prepared(with_manifest(encoded, tmp_path, table.with_columns(Metadata_moa=pl.lit("corrected"))))
    assert said == [
        "note: the metadata of the manifest has changed; no field is encoded again, and `score` joins the new metadata"
    ]
    assert record["manifest"]["identity"] == record[CHANGES][0]["identity"]
    assert record["manifest"]["annotation"] != record[CHANGES][0]["annotation"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda t: t.with_columns(uri_ER="uri_DNA"),
            "10 FOVs that are encoded have another image, plane, illumination function",
        ),
        (
            lambda t: t.with_columns(channel_ER=1),
            "such as source_1/batch 1/P1/A01/1; only FOVs that failed may change their place",
        ),
        (lambda t: t.with_columns(illum_ER=pl.lit("/f.npy")), "10 FOVs that are encoded"),
        (lambda t: t.head(8), "this one lists 8; choose another output"),
        (
            lambda t: t.with_columns(Metadata_Batch=pl.lit("b"), fov_id=pl.col(FOV_ID).str.replace("batch 1", "b")),
            "this one lacks 11 of its FOVs, such as",
        ),
    ],
)
def test_other_pixels_of_an_encoded_field_are_another_run(encoded, tmp_path, change, problem):
    run = with_manifest(encoded, tmp_path, change(pl.read_parquet(encoded.manifest)))
    with pytest.raises(ConfigError) as caught:
        prepared(run)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_edited_with_pandas_is_one_line_at_encode(encoded, tmp_path):
    """Case 25: the site is an integer."""
    table = pl.read_parquet(encoded.manifest).with_columns(pl.col("Metadata_Site").cast(pl.Int64))
    run = with_manifest(encoded, tmp_path, table)
    with pytest.raises(DataError, match=r"other\.parquet: the column Metadata_Site is Int64, not text$"):
        encode(run, Console(quiet=True))
