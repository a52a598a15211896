"""Saved indices: through S3 and back, read in place, and their table read where it is asked."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdvae_ray.errors import DataError
from sdvae_ray.queries.saved_index import PATCHES_PER_FOV, known_names, open_index, open_table, saved
from sdvae_ray.queries.search import search_well
from sdvae_ray.retrieval.index import approximate, faiss_index, tuning
from sdvae_ray.run.run import Run
from sdvae_ray.schema import FOV_ID, KEYS
from sdvae_ray.storage import Storage, join

N, D, WELLS = 3000, 16, 384


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SDVAE_RAY_CACHE", str(folder))
    return folder


def table(rows: int, step: int = 1) -> pl.DataFrame:
    """Rows of FOVs, ascending by id and by fov_id."""
    keys = [("s", "b", f"P{row // WELLS:02d}", f"W{row % WELLS:03d}", "1") for row in range(rows)]
    names = pl.DataFrame(keys, schema=list(KEYS), orient="row")
    return names.select(
        pl.int_range(0, rows * step, step).alias("id"),
        pl.concat_str(KEYS, separator="/").alias(FOV_ID),
        pl.Series("files", [["a.parquet"]] * rows),
        *KEYS,
    )


def write(uri: str, frame: pl.DataFrame, storage: Storage, rows: int = 100) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(frame.to_arrow(), sink, row_group_size=rows)
    storage.write_bytes(uri, sink.getvalue().to_pybytes())


@pytest.mark.parametrize("kind", ["flat", "ivf_sq8", "ivf_pq_refined"])
def test_an_index_its_ids_and_its_recall_survive_the_round_trip_through_s3(small_run_config, s3, kind):
    config = small_run_config(storage=s3.config.model_dump(), output=s3.prefix)
    x = np.random.default_rng(0).normal(size=(N + 100, D)).astype(np.float32)
    x, queries = x[100:], x[:100]
    empty, choice = approximate.train(x, approximate.plan(kind, N, D))
    ids = np.arange(N) * 7 + 2**35
    index = approximate.add(empty, x, ids)
    exact = faiss_index.search(faiss_index.build(x, ids), queries, 10)[1]
    record = tuning.record(index, choice, tuning.tune(index, queries, exact))
    stem = join(s3.prefix, "index/intensity/image/fovs")
    s3.storage.write_bytes(f"{stem}.faiss", faiss_index.to_bytes(index))
    write(f"{stem}.parquet", table(N).with_columns(pl.Series("id", ids)), s3.storage)
    s3.storage.write_bytes(f"{stem}.json", json.dumps(record).encode())
    opened = open_index(Run(config), "intensity/image/fovs")
    for one, other in zip(
        faiss_index.search(opened.index, queries, 10), faiss_index.search(index, queries, 10), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    again = tuning.measure_recall(opened.index, queries[1::2], exact[1::2])
    assert again.recall == json.loads(s3.storage.read_bytes(f"{stem}.json"))["recall"]
    found = opened.nearest(x[5], 3)
    assert found[FOV_ID][0] == table(N)[FOV_ID][5]
    assert not {"id", "files"} & set(found.columns)
    assert saved(Run(config), "fov") == ["intensity/image/fovs"]
    assert saved(Run(config)) == []


def test_a_query_reads_only_the_row_groups_that_can_hold_its_rows(small_run_config):
    """The data of all other row groups is destroyed, and the rows are found."""
    run, rows = Run(small_run_config()), 100
    frame = table(N, step=3)
    uri = run.uri("index/intensity/image/fovs.parquet")
    for row in (0, 1234, N - 1):
        write(uri, frame, Storage(), rows)
        metadata, data = pq.read_metadata(uri), bytearray(Path(uri).read_bytes())
        for group in {*range(metadata.num_row_groups)} - {row // rows}:
            for column in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(column)
                start = chunk.dictionary_page_offset or chunk.data_page_offset
                data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
        Path(uri).write_bytes(data)
        names, wanted = open_table(run, "intensity/image/fovs"), frame.row(row, named=True)
        assert names.filter(pl.col("id").is_in([3 * row])).collect().equals(frame[row])
        assert names.filter(pl.col(FOV_ID) == wanted[FOV_ID]).collect().equals(frame[row])
    write(uri, frame, Storage(), rows)
    assert known_names(open_table(run, "intensity/image/fovs"), FOV_ID) == frame[FOV_ID].to_list()


def test_ids_of_patches_carry_the_fov_and_the_number_of_the_patch(small_run_config, tmp_path):
    config = small_run_config()
    each, fovs = 3, 50
    x = np.random.default_rng(0).normal(size=(fovs * each, D))
    numbers = [sorted(np.random.default_rng(row).permutation(16)[:each].tolist()) for row in range(fovs)]
    stem = join(config.output, "index/intensity/image/patches")
    Storage().write_bytes(f"{stem}.faiss", faiss_index.to_bytes(faiss_index.build(x)))
    write(f"{stem}.parquet", table(fovs, step=each).with_columns(pl.Series("patches", numbers)), Storage())
    Storage().write_bytes(f"{stem}.json", json.dumps({PATCHES_PER_FOV: each}).encode())
    opened = open_index(Run(config), "intensity/image/patches")
    for vector in (0, 1, 77, fovs * each - 1):
        found = opened.nearest(x[vector], 4)
        assert found[FOV_ID][0] == table(fovs)[FOV_ID][vector // each]
        assert found["patch"][0] == numbers[vector // each][vector % each]
        without = opened.nearest(x[vector], 4, without=vector)
        assert without.select(FOV_ID, "patch").rows()[:3] == found.select(FOV_ID, "patch").rows()[1:]
        assert without.height == 4


def test_a_well_is_found_in_whichever_group_has_it_and_two_of_a_name_are_refused(small_run_config):
    config = small_run_config()
    random = np.random.default_rng(0)
    for group, first in (("a", 0), ("b", WELLS)):
        stem = join(config.output, "index/intensity/image", group)
        Storage().write_bytes(f"{stem}.faiss", faiss_index.to_bytes(faiss_index.build(random.normal(size=(WELLS, D)))))
        wells = table(2 * WELLS)[first : first + WELLS].with_columns(
            pl.int_range(0, WELLS).alias("id"), group=pl.lit(group)
        )
        write(f"{stem}.parquet", wells.drop(FOV_ID, "files"), Storage(), 64)
    found, about = search_well(Run(config), "P01/W003", None, None, 5)
    assert about["group"] == "b"
    assert set(found["Metadata_Plate"]) == {"P01"}
    assert found.height == 5
    with pytest.raises(DataError, match="did you mean 'P01/W003'"):
        search_well(Run(config), "P01/W0003", None, None, 5)
    twice = pl.concat([wells, wells.head(1)]).with_columns(pl.int_range(0, WELLS + 1).alias("id"))
    write(f"{stem}.parquet", twice, Storage(), 64)
    with pytest.raises(DataError, match="2 wells are P01/W000"):
        search_well(Run(config), "P01/W000", None, None, 5)
