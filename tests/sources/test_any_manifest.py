"""Kind 9: a manifest that another program made or edited is checked by the same rules, types included, in one line."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdvae_ray.errors import DataError
from sdvae_ray.schema import KEYS, SOURCE_DIGEST, uri_column
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.sources.manifest.manifest import STAINS, read_manifest
from sdvae_ray.sources.manifest.rules import check_manifest
from sdvae_ray.sources.manifest.scan import annotation_hash, identity_hash, scan_manifest, source_digests
from sdvae_ray.sources.manifest.schema import row_schema
from sdvae_ray.storage import Storage

STORAGE, IMAGE = Storage(), ImageConfig()
DOCS = Path(__file__).resolve().parents[2] / "docs"


def rows(count: int = 4) -> list[dict[str, Any]]:
    made = []
    for number in range(count):
        keys = dict(zip(KEYS, ("s1", "b1", "P1", f"A{number + 1:02d}", "1"), strict=True))
        images = {uri_column(stain): f"s3://b/{number}-{stain}.tiff" for stain in STAINS}
        made.append({"fov_id": "/".join(keys.values()), **keys, "Metadata_moa": None, **images})
    return made


def table() -> pl.DataFrame:
    return pl.DataFrame(rows(), schema_overrides={"Metadata_moa": pl.String})


WELL, SITE = pl.col("Metadata_Well"), pl.col("Metadata_Site")
SECOND = pl.int_range(pl.len()) == 1
EDITS = {  # what pandas, a spreadsheet or a hand makes of a manifest -> the one line
    "an integer site (case 25)": (SITE.cast(pl.Int64), ": the column Metadata_Site is Int64, not text"),
    "a float site": (SITE.cast(pl.Float64), ": the column Metadata_Site is Float64, not text"),
    "a categorical plate": (
        pl.col("Metadata_Plate").cast(pl.Categorical),
        ": the column Metadata_Plate is categorical, not text",
    ),
    "an enumerated well": (
        WELL.cast(pl.Enum(["A01", "A02", "A03", "A04"])),
        ": the column Metadata_Well is categorical, not text",
    ),
    "a null key": (pl.when(~SECOND).then(WELL).alias("Metadata_Well"), ", row 2: Metadata_Well is empty"),
    "a blank key": (pl.when(SECOND).then(pl.lit("  ")).otherwise(WELL).alias("Metadata_Well"), ", row 2: Metadata_Well is empty"),
    "a number as annotation": (pl.lit(0.5).alias("Metadata_dose"), ": the column Metadata_dose is Float64, not text"),
    "a plane below 0": (pl.lit(-1).alias("channel_ER"), ", row 1: channel_ER is -1, and planes count from 0"),
    "a plane with a fraction": (pl.lit(0.0).alias("channel_ER"), ": the column channel_ER is Float64, not a whole number"),
    "a divisor as text": (pl.lit("256").alias("scale_divisor_ER"), ": the column scale_divisor_ER is String, not a number"),
    "a fov_id of its own": (pl.lit("x").alias("fov_id"), ", row 1: fov_id is 'x', not 's1/b1/P1/A01/1'"),
    "no image": (pl.lit(None, pl.String).alias("uri_DNA"), ", row 1: no image of the stain 'DNA'"),
    "a slash": (pl.lit("a/b").alias("Metadata_Batch"), ", row 1: Metadata_Batch is 'a/b'; a key may not contain '/'"),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_a_manifest_that_was_edited_is_refused_in_one_line_by_every_reader(tmp_path, edit):
    change, problem = EDITS[edit]
    uri = str(tmp_path / "m.parquet")
    table().with_columns(change).write_parquet(uri, row_group_size=2)
    for read in (lambda: read_manifest(uri, STORAGE), lambda: scan_manifest(uri, IMAGE, STORAGE)):
        with pytest.raises(DataError) as caught:
            read()
        assert str(caught.value) == f"{uri}{problem}"


@pytest.mark.parametrize(("well", "said"), [("A02", ""), ("A2", ", as s1/b1/P1/A02/1"), ("a02", ", as s1/b1/P1/A02/1")])
def test_one_field_twice_is_refused_with_both_rows_in_whatever_form(tmp_path, well, said):
    uri = str(tmp_path / "m.parquet")
    twice = table().with_columns(Metadata_Well=pl.when(pl.int_range(pl.len()) == 3).then(pl.lit(well)).otherwise(WELL))
    twice.with_columns(fov_id=pl.concat_str(KEYS, separator="/")).write_parquet(uri, row_group_size=2)
    for read in (lambda: read_manifest(uri, STORAGE), lambda: scan_manifest(uri, IMAGE, STORAGE)):
        with pytest.raises(DataError) as caught:
            read()
        assert str(caught.value) == f"{uri}, row 4: the FOV s1/b1/P1/{well}/1 is already in {uri}, row 2{said}"


def test_other_forms_are_taken_as_they_are_and_shared_images_are_said(tmp_path):
    uri = str(tmp_path / "m.parquet")
    odd = table().with_columns(Metadata_Well=WELL.str.replace("A0", "a"), uri_ER=pl.lit("s3://b/one.tiff"))
    odd = odd.with_columns(fov_id=pl.concat_str(KEYS, separator="/"), index=1)
    odd.write_parquet(uri)
    fovs, notes = scan_manifest(uri, IMAGE, STORAGE)
    assert fovs["fov_id"].to_list() == [f"s1/b1/P1/a{number}/1" for number in range(1, 5)]
    assert notes == ["4 FOVs share their image of ER with another, such as s1/b1/P1/a1/1 and s1/b1/P1/a2/1"]


def test_identity_is_the_pixels_and_annotation_the_rest(tmp_path):
    uri = str(tmp_path / "m.parquet")

    def hashes(frame: pl.DataFrame) -> tuple[str, str]:
        frame.write_parquet(uri)
        return identity_hash(scan_manifest(uri, IMAGE, STORAGE)[0][SOURCE_DIGEST]), annotation_hash(uri, STORAGE)

    identity, annotation = hashes(table())
    assert hashes(table().with_columns(channel_ER=0, illum_ER=pl.lit(None, pl.String))) == (identity, annotation)
    assert hashes(table().reverse())[0] == identity
    relabelled = hashes(table().with_columns(Metadata_moa=pl.lit("kinase")))
    assert relabelled[0] == identity
    assert relabelled[1] != annotation
    for change in ({"channel_ER": 1}, {"illum_ER": pl.lit("s3://b/f.npy")}, {"uri_ER": pl.lit("s3://b/x.tiff")}):
        assert hashes(table().with_columns(**change))[0] != identity
    scaled = table().with_columns(
        pl.lit(2.0).alias(f"scale_{what}_{s}") for s in STAINS for what in ("offset", "divisor")
    )
    by_column = ImageConfig.model_validate({"scaling": {"method": "manifest"}})
    assert source_digests(scaled, IMAGE).to_list() == source_digests(table(), IMAGE).to_list()
    half = scaled.with_columns(scale_divisor_ER=0.5)
    assert source_digests(half, by_column).to_list() != source_digests(scaled, by_column).to_list()


# The schema


def test_the_published_schema_is_the_one_of_the_code():
    assert json.loads((DOCS / "manifest.schema.json").read_text()) == json.loads(json.dumps(row_schema()))
    jsonschema.Draft202012Validator.check_schema(row_schema())


VALUES = st.sampled_from([None, "", " ", "x", "a/b", 0, 3, -1, 0.5, True])
COLUMNS = st.sampled_from(["fov_id", *KEYS, "Metadata_moa", "uri_ER", "channel_ER", "illum_ER", "scale_offset_ER"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(column=COLUMNS, value=VALUES)
def test_the_schema_refuses_a_row_that_the_code_refuses_and_no_other(column, value):
    """One value of one row is changed; fov_id follows the keys, since a schema cannot compare columns."""
    row = {**rows(1)[0], column: value}
    if column in KEYS and isinstance(value, str):
        row["fov_id"] = "/".join(str(row[key]) for key in KEYS)
    frame = pl.DataFrame([row], schema_overrides={"Metadata_moa": pl.String} if column != "Metadata_moa" else None)
    try:
        check_manifest(frame, STAINS, "m")
        sound = True
    except DataError:
        sound = False
    if column == "fov_id":
        assert not sound
    else:
        assert jsonschema.Draft202012Validator(row_schema()).is_valid(row) == sound
