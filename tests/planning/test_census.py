"""The counts of a manifest by source, beside counts that hold it whole."""

from pathlib import Path

import polars as pl
import pytest
from field_files import STAINS

from sdvae_ray.errors import DataError
from sdvae_ray.planning import census as module
from sdvae_ray.planning.census import assumed_census, census
from sdvae_ray.schema import FOV_ID, KEYS, WELL_KEY, illum_column, uri_column
from sdvae_ray.settings.plan import SourceCounts
from sdvae_ray.sources.manifest.manifest import write_manifest
from sdvae_ray.storage import Storage


def screen(fovs: int) -> pl.DataFrame:
    """Rows of two sources; the second has plates of the first's names, all stains in one file, and no functions for DNA."""
    number = pl.int_range(fovs, eager=True)
    second = number % 3 == 0
    keys = [
        pl.when(second).then(pl.lit("source_2")).otherwise(pl.lit("source_1")),
        pl.lit("batch"),
        pl.format("P{}", number // 30),
        pl.format("W{}", number // 6 % 5),
        number.cast(pl.String),
    ]
    table = pl.select(key.alias(name) for key, name in zip(keys, KEYS, strict=True))
    table = table.with_columns(pl.concat_str(KEYS, separator="/").alias(FOV_ID), second=second)
    one_file = pl.concat_str(pl.lit("s3://b/"), pl.col(FOV_ID))
    uris = [
        pl.when("second").then(one_file).otherwise(pl.concat_str(one_file, pl.lit(stain))).alias(uri_column(stain))
        for stain in STAINS
    ]
    functions = [
        pl.when(pl.col("second") & pl.lit(stain == "DNA"))
        .then(None)
        .otherwise(pl.concat_str(KEYS[0], KEYS[2], pl.lit(stain), separator="/"))
        .alias(illum_column(stain))
        for stain in STAINS
    ]
    channels = [pl.when("second").then(number).alias(f"channel_{stain}") for number, stain in enumerate(STAINS)]
    return (
        table.with_columns(uris)
        .with_columns(functions)
        .with_columns(channels)
        .select(FOV_ID, pl.exclude(FOV_ID, "second"))
    )


@pytest.mark.parametrize("batch", [1 << 15, 7])
def test_counts_in_batches_are_those_of_the_whole_table(tmp_path: Path, monkeypatch, batch):
    monkeypatch.setattr(module, "_BATCH", batch)
    table = screen(100)
    uri = str(tmp_path / "manifest.parquet")
    write_manifest(table, uri, Storage())
    counted = census(uri, STAINS, Storage(), sample=4)
    for source in counted.sources:
        rows = table.filter(pl.col(KEYS[0]) == source.name)
        functions = {value for stain in STAINS for value in rows[illum_column(stain)].drop_nulls()}
        files = sum(len({row[uri_column(stain)] for stain in STAINS}) for row in rows.iter_rows(named=True))
        assert (source.fovs, source.files, source.functions) == (rows.height, files, len(functions))
        assert source.plates == rows[KEYS[2]].n_unique()
        assert source.wells == rows.select(WELL_KEY).n_unique()
    assert [source.name for source in counted.sources] == ["source_1", "source_2"]
    assert counted.total("fovs") == 100
    assert counted.total("bytes_in") is None
    taken = counted.sample.group_by(KEYS[0]).len()
    assert sorted(taken.rows()) == [("source_1", 4), ("source_2", 4)]
    assert set(counted.sample[FOV_ID]) == set(census(uri, STAINS, Storage(), sample=4).sample[FOV_ID])


def test_a_manifest_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no manifest at"):
        census(str(tmp_path / "absent.parquet"), STAINS, Storage(), sample=1)


def test_assumed_counts_have_a_file_per_stain_and_a_function_per_plate_and_stain():
    sources = {
        "a": SourceCounts(fovs=640, plates=5, bytes_in=10.0, function_bytes=2.0),
        "b": SourceCounts(fovs=10, plates=5, wells=3),
    }
    counted = assumed_census(sources, stains=5)
    assert (counted.total("files"), counted.total("functions")) == (3250, 50)
    assert (counted.sources[0].bytes_in, counted.sources[0].function_bytes) == (6400, 50)
    assert counted.total("bytes_in") is counted.total("wells") is None
