"""The explorer of wells: what the page's script is given is what the tables hold, and a large run fits the page."""

import base64
import json
from pathlib import Path

import imagecodecs
import numpy as np
import polars as pl
import pytest
from report_run import EVIL, page_of, scored
from sklearn.decomposition import PCA
from test_conclude import GROUP, with_wells

from sdvae_ray.config import RunConfig
from sdvae_ray.report.facts import wells as facts
from sdvae_ray.report.facts.wells import Measure, WellMap, Wells, nearest_rows, wells_of
from sdvae_ray.report.page.wells_data import wells_json
from sdvae_ray.report.pictures import thumbnails
from sdvae_ray.report.sections.explore import wells
from sdvae_ray.report.sections.explore.wells import Explorer, position_of
from sdvae_ray.retrieval.arrays import principal_components
from sdvae_ray.retrieval.index import faiss_index
from sdvae_ray.schema import PLATE_COLUMN, WELL_COLUMN, WELL_KEY


def write_index(config: RunConfig, side: str = "image") -> np.ndarray:
    """Save an index of seven wells as `score` does; return the vectors."""
    vectors = np.random.default_rng(3).normal(size=(7, 5)).astype(np.float32)
    rows = [dict(zip(WELL_KEY, ("source_1", "batch", "P1", f"A{n + 1:02d}"), strict=True)) for n in range(7)]
    folder = Path(config.output, "index", "intensity", side)
    folder.mkdir(parents=True)
    (folder / "group.faiss").write_bytes(faiss_index.to_bytes(faiss_index.build(vectors)))
    pl.DataFrame(rows).with_columns(id=pl.int_range(7, dtype=pl.UInt32)).write_parquet(folder / "group.parquet")
    return vectors


def column(data: dict, name: str, kind: type) -> np.ndarray:
    return np.frombuffer(base64.b64decode(data[name]), kind)


def test_a_map_is_scikit_learns_pca_up_to_the_sign_of_an_axis():
    vectors = (np.random.default_rng(1).normal(size=(50, 6)) @ np.diag([9, 5, 3, 1, 1, 1])).astype(np.float32)
    ours, theirs = principal_components(vectors), PCA(2, svd_solver="full").fit_transform(vectors.astype(float))
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-4, atol=1e-5)
    assert principal_components(vectors[:, :1]).shape == (50, 2)


def test_the_nearest_wells_are_those_of_highest_cosine():
    vectors = np.random.default_rng(2).normal(size=(30, 4)).astype(np.float32)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, nearest in enumerate(nearest_rows(vectors, 3)):
        cosines = units @ units[row]
        cosines[row] = -np.inf
        assert nearest.tolist() == np.argsort(-cosines)[:3].tolist()


@pytest.mark.parametrize(
    ("well", "place"),
    [("A01", (0, 0)), ("P24", (15, 23)), ("b7", (1, 6)), ("AF48", (31, 47)), ("AG01", None), ("r01c02", None)],
)
def test_a_well_has_its_row_and_column(well, place):
    assert position_of(well) == place


def test_the_page_has_every_well_with_its_numbers_map_and_neighbours(run):
    vectors = write_index(run)
    known = scored(run, with_wells(run, {"identity": 0.0, "pca": 0.4}))
    section = wells.section(known)
    data = json.loads(wells_json(section.content))
    assert data["count"] == 8
    assert data["plates"] == ["P1"]
    assert data["shapes"] == [[8, 12]]
    assert column(data, "column", np.uint8).tolist() == list(range(8))
    compounds = [data["compounds"][number] for number in column(data, "compound", np.uint32)]
    assert compounds == ["", "strong", EVIL, "inactive"] * 2
    assert [data["roles"][number] for number in column(data, "role", np.uint8)] == [
        "control",
        "treated",
        "treated",
        "treated",
    ] * 2
    measures = {one["label"]: one for one in data["measures"]}
    failed = measures["fields of view that failed"]
    assert np.frombuffer(base64.b64decode(failed["codes"]), np.uint8).tolist() == [0] * 7 + [254]
    means = dict(known.usable.select(WELL_COLUMN, pl.col("qc_mean").arr.get(4)).iter_rows())
    dna = measures["mean intensity, DNA"]
    codes = np.frombuffer(base64.b64decode(dna["codes"]), np.uint8)
    assert codes[7] == 255  # the field failed
    drawn = dna["low"] + codes[:7] / 254 * (dna["high"] - dna["low"])
    np.testing.assert_allclose(drawn, [means[f"A{n:02d}"] for n in range(1, 8)], atol=(dna["high"] - dna["low"]) / 254)
    assert {"ssim, pca", "ssim, jpeg"} <= set(measures)
    (only,) = data["maps"]
    places = np.frombuffer(base64.b64decode(only["places"]), np.uint16).reshape(8, 2)
    assert only["label"] == "intensity, originals"
    assert places[7].tolist() == [65_535, 65_535]
    assert places[:7].min() == 0
    assert places[:7].max() == 65_534
    neighbours = np.frombuffer(base64.b64decode(data["neighbours"]), np.int32).reshape(8, 5)
    assert neighbours[:7].tolist() == nearest_rows(vectors, 5).tolist()
    assert neighbours[7].tolist() == [-1] * 5


def test_text_of_the_wells_cannot_end_their_element(run):
    html = page_of(run, with_wells(run, {"pca": 0.4}))
    data = html.partition('id="wells-data">')[2].partition("</script>")[0]
    assert "<" not in data
    assert EVIL in json.loads(data)["compounds"]


def test_of_many_wells_a_sample_by_hash_is_shown_and_the_page_says_so(run, monkeypatch):
    known = scored(run)
    whole = wells_of(known)
    monkeypatch.setattr(facts, "MOST", 5)
    monkeypatch.setattr(wells, "MOST", 5)
    fewer = wells.section(known)
    assert "5 of 8 wells are here, chosen by hash" in fewer.lead
    assert fewer.content.wells.table.height == 5
    assert set(fewer.content.wells.table[WELL_COLUMN]) < set(whole.table[WELL_COLUMN])
    again = wells_of(scored(run))
    assert again.table.equals(fewer.content.wells.table)


def large(count: int = 100_000) -> Explorer:
    """An explorer of as many wells as a page holds, with all the numbers and maps that such a page has."""
    random = np.random.default_rng(0)
    per_plate = 384
    plates = [f"BR{number:08d}" for number in range(-(-count // per_plate))]
    number = np.arange(count)
    table = pl.DataFrame({PLATE_COLUMN: [plates[at] for at in number // per_plate]}).with_columns(
        compound=pl.Series([f"JCP2022_{at:06d}" for at in number % 30_000]),
        name=pl.Series([f"a compound's name ({at})" for at in number % 30_000]),
        role=pl.lit("treated"),
        group=pl.lit(GROUP),
    )
    codes = [Measure(f"measure {at}", 0.0, 1.0, random.integers(0, 256, count).astype(np.uint8)) for at in range(20)]
    maps = [WellMap(f"map {at}", random.integers(0, 65_535, (count, 2)).astype(np.uint16)) for at in range(3)]
    positions = [(int(at) // 24, int(at) % 24) for at in number % per_plate]
    everything = Wells(table, count, codes, maps, None, "")
    return Explorer(
        everything, plates, [(16, 24)] * len(plates), (number // per_plate).tolist(), positions, ["batch"] * count
    )


def test_a_hundred_thousand_wells_take_less_than_nine_megabytes():
    assert len(wells_json(large())) < 9_000_000  # of the 15 of a page: pictures take about 4


def test_every_well_has_a_thumbnail_of_its_first_usable_field(run: RunConfig, tmp_path: Path) -> None:
    study = scored(run)
    explorer = wells.with_thumbnails(study).content
    table = explorer.wells.table
    keys = [name for name in WELL_KEY if name in table.columns]
    known = study.usable.select(pl.col(keys).cast(pl.String)).unique()
    assert len(explorer.pictures) == known.height > 1
    for number, picture in explorer.pictures.items():
        assert table[number].select(keys).row(0) in known.rows()
        height, width, colours = imagecodecs.png_decode(picture).shape
        assert max(height, width) <= thumbnails.SIZE
        assert colours == 3
    data = json.loads(wells_json(explorer))
    assert {int(number): base64.b64decode(text) for number, text in data["pictures"].items()} == explorer.pictures
    gone = scored(run.model_copy(update={"manifest": str(tmp_path / "none.parquet")}))
    assert wells.with_thumbnails(gone).content.pictures == {}
    assert "Thumbnails" not in wells.with_thumbnails(gone).lead


def test_of_many_wells_a_sample_has_thumbnails_and_the_page_says_how_many(run: RunConfig, monkeypatch) -> None:
    monkeypatch.setattr(thumbnails, "MOST", 1)
    section = wells.with_thumbnails(scored(run))
    assert len(section.content.pictures) == 1
    assert f"Thumbnails (1 of {section.content.wells.table.height} wells)" in section.lead
