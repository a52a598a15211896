"""The manifest, from the gallery's own files and from small ones made here; every refusal names its file and row."""

import gzip
import random
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.schema import KEYS, channel_column, illum_column, uri_column
from sdvae_ray.sources.manifest.manifest import (
    STAINS,
    Manifest,
    build_manifest,
    check_manifest,
    read_manifest,
    write_manifest,
)
from sdvae_ray.storage import Storage

STORAGE = Storage()
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "metadata"
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the gallery's own metadata files are not at {REAL}")
BUCKET = ("/home/ubuntu/bucket/", "s3://cellpainting-gallery/")
IMAGES = "s3://b/cpg0016-jump/s1/images/b1"


def build(*load_data: Path, **options) -> Manifest:
    for name in ("platemaps", "metadata"):
        options[name] = [str(path) for path in options.get(name, ())]
    return build_manifest([str(path) for path in load_data], storage=STORAGE, **options)


def refusal(*load_data: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        build(*load_data, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def urls(well: str = "A01", site: str = "1", plate: str = "P1", batch: str = "b1", **more: str) -> dict[str, str]:
    """One row of the newer form."""
    keys = dict(zip(KEYS, ("s1", batch, plate, well, site), strict=True))
    images = {f"URL_Orig{stain}": f"{IMAGES}/images/{plate}/{well}-{site}-{stain}.tiff" for stain in STAINS}
    return {**images, **keys, **more}


def paths(well: str = "A01", site: str = "1", folder: str = "/data/cpg1/s1/images/b1/images/P1", **more: str) -> dict:
    """One row of the older form, without source and batch."""
    row = {"Metadata_Plate": "P1", "Metadata_Well": well, "Metadata_Site": site}
    for stain in STAINS:
        row |= {f"FileName_Orig{stain}": f"{well} {site}-{stain}.tiff", f"PathName_Orig{stain}": folder}
    return {**row, **more}


def write(path: Path, rows: list[dict], separator: str = ",") -> Path:
    """A CSV or TSV with the rows in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, infer_schema_length=None).write_csv(path, separator=separator)
    return path


def platemap(folder: Path, wells: dict[str, str], plates: tuple[str, ...] = ("P1",), name: str = "map") -> Path:
    rows = [{"well_position": well, "broad_sample": sample} for well, sample in wells.items()]
    write(folder / "platemap" / f"{name}.txt", rows, "\t")
    barcodes = [{"Assay_Plate_Barcode": plate, "Plate_Map_Name": name} for plate in plates]
    return write(folder / "barcode_platemap.csv", barcodes)


# The gallery's own files


@real
def test_the_newer_form_of_a_real_plate_keeps_every_cell_as_text():
    made = build(REAL / "nfcore_BR00117035/load_data_with_illum.csv", metadata=[REAL / "jump_datasets/plate.csv.gz"])
    row = made.table.row(0, named=True)
    assert made.table.height == 1
    assert made.notes == []
    assert row["fov_id"] == "source_4/2021_04_26_Batch1/BR00117035/A01/1"
    assert row["Metadata_PositionZ"] == "-4.00E-06"
    assert row["Metadata_ImageResolutionX"] == "5.979760809567617e-07"
    assert row["Metadata_PlateType"] == "ORF"
    assert row["uri_DNA"].endswith(
        "/BR00117035__2021-05-02T16_02_51-Measurement1/Images/r01c01f01p01-ch5sk1fk1fl1.tiff"
    )
    assert row["illum_DNA"].endswith("/illum/BR00117035/BR00117035_IllumDNA.npy")
    assert not [name for name in made.table.columns if "Brightfield" in name and not name.startswith("Metadata_")]


@real
def test_a_real_plate_without_illumination_says_so_and_means_ones():
    made = build(REAL / "nfcore_BR00117035/load_data.csv")
    assert all(made.table[illum_column(stain)].null_count() == 1 for stain in STAINS)
    assert made.notes == ["no illumination function, so ones: Mito, AGP, RNA, ER, DNA of plate BR00117035"]


@real
def test_the_older_form_of_a_real_plate_takes_source_and_batch_from_its_paths():
    file = REAL / "cpg0014/BR00136505_load_data_with_illum.csv.gz"
    made = build(file, rewrites=[BUCKET])
    assert made.table.height == 384 * 9
    assert made.table["Metadata_Site"][:10].to_list() == [*"123456789", "1"]
    row = made.table.row(0, named=True)
    assert row["fov_id"] == "broad/2022_11_28_Batch3/BR00136505/A01/1"
    assert (row["Metadata_Row"], row["Metadata_Column"]) == ("A", "01")
    folder = "s3://cellpainting-gallery/cpg0014-jump-adipocyte/broad/images/2022_11_28_Batch3"
    measurement = "BR00136505__2022-10-03T21_27_55-Measurement1"
    assert row["uri_DNA"] == f"{folder}/images/{measurement}/Images/r01c01f01p01-ch5sk1fk1fl1.tiff"
    assert row["illum_Mito"] == f"{folder}/illum/BR00136505/BR00136505_IllumMito.npy"
    assert made.notes == [
        f"{file}: Metadata_Source is not in the file; read from the image paths: broad",
        f"{file}: Metadata_Batch is not in the file; read from the image paths: 2022_11_28_Batch3",
    ]


@real
def test_a_real_barcode_map_with_a_byte_order_mark_that_lacks_the_plate_is_refused():
    barcodes = REAL / "cpg0014/barcode_platemap.csv"
    file = REAL / "cpg0014/BR00136505_load_data.csv.gz"
    assert refusal(file, platemaps=[barcodes]) == f"{barcodes}: the plate 'BR00136505' of {file} is not listed"


@real
def test_a_real_plate_meets_its_platemap_and_an_empty_sample_is_missing(tmp_path):
    barcodes = (REAL / "cpg0014/barcode_platemap.csv").read_bytes() + b"\r\nBR00136505,JUMP-Target-2_compound_platemap"
    (tmp_path / "platemap").mkdir()
    (tmp_path / "barcode_platemap.csv").write_bytes(barcodes)
    name = "JUMP-Target-2_compound_platemap.txt"
    (tmp_path / "platemap" / name).write_bytes((REAL / "cpg0014" / name).read_bytes())
    compounds = REAL / "cpjump1/JUMP-Target-1_compound_metadata_additional_annotations.tsv"
    made = build(REAL / "cpg0014/BR00136505_load_data.csv.gz", platemaps=[tmp_path], metadata=[compounds])
    table = made.table
    assert set(table["Metadata_Plate_Map_Name"]) == {"JUMP-Target-2_compound_platemap"}
    dmso = table.filter(pl.col("Metadata_broad_sample").is_null())
    assert dmso.height == 64 * 9
    assert set(dmso["Metadata_control_type"]) == {"negcon"}
    assert set(dmso["Metadata_pert_iname"]) == {"DMSO"}
    assert "negcon" not in set(table.filter(pl.col("Metadata_broad_sample").is_not_null())["Metadata_control_type"])
    assert table.filter(pl.col("Metadata_Well") == "A01")["Metadata_broad_sample"][0] == "BRD-K09338665-001-07-1"


@real
def test_real_cpjump1_plates_meet_experiment_and_compound_metadata_but_empty_crispr_wells_are_no_dmso(tmp_path):
    plates = {"BR00116991": "compound", "BR00118041": "crispr"}
    rows = [urls(well, "1", plate, "2020_11_04_CPJUMP1") for plate in plates for well in _wells()]
    file = write(tmp_path / "load_data.csv", rows)
    maps = [
        {"Assay_Plate_Barcode": p, "Plate_Map_Name": f"JUMP-Target-1_{kind}_platemap"} for p, kind in plates.items()
    ]
    write(tmp_path / "barcode_platemap.csv", maps)
    (tmp_path / "platemap").mkdir()
    for kind in plates.values():  # the folder has these as .tsv
        name = f"JUMP-Target-1_{kind}_platemap.tsv"
        (tmp_path / "platemap" / name).write_bytes((REAL / "JUMP-Target" / name).read_bytes())
    tables = [
        REAL / "cpjump1/experiment-metadata.tsv",
        REAL / "cpjump1/JUMP-Target-1_compound_metadata_additional_annotations.tsv",
        REAL / "JUMP-Target/JUMP-Target-1_crispr_metadata.tsv",
    ]
    table = build(file, platemaps=[tmp_path], metadata=tables).table
    assert table.height == 2 * 384
    compound, crispr = (table.filter(pl.col("Metadata_Plate") == plate) for plate in plates)
    assert set(compound["Metadata_Cell_type"]) == {"A549"}
    assert set(compound["Metadata_Time"]) == {"24"}
    assert (compound["Metadata_control_type"] == "negcon").sum() == 64
    untreated = crispr.filter(pl.col("Metadata_broad_sample").is_null())
    assert untreated.height == 4
    assert untreated["Metadata_control_type"].to_list() == [None] * 4
    assert (crispr["Metadata_control_type"] == "negcon").sum() > 0
    assert set(crispr["Metadata_Perturbation"]) == {"crispr"}


def _wells() -> list[str]:
    return [f"{row}{column:02}" for row in "ABCDEFGHIJKLMNOP" for column in range(1, 25)]


# Reading load_data


def test_file_and_path_names_join_with_one_slash_and_keep_their_spaces(tmp_path):
    folder = "/data/Plate 1__-Measurement 1/Images//"
    defaults = {"Metadata_Source": "s", "Metadata_Batch": "b"}
    table = build(write(tmp_path / "l.csv", [paths(folder=folder)]), defaults=defaults).table
    assert table["uri_RNA"][0] == "/data/Plate 1__-Measurement 1/Images/A01 1-RNA.tiff"
    assert table["fov_id"][0] == "s/b/P1/A01/1"


def test_text_stays_text(tmp_path):
    row = urls("A01", "01", "0042", Metadata_Dose="4.0E-06", Metadata_Empty="", Metadata_Flag="true", Metadata_Row="01")
    table = build(write(tmp_path / "l.csv", [row])).table
    assert table["fov_id"][0] == "s1/b1/0042/A01/1"
    assert table.select("Metadata_Dose", "Metadata_Empty", "Metadata_Flag", "Metadata_Row").row(0) == (
        "4.0E-06",
        None,
        "true",
        "01",
    )
    assert table.schema["channel_DNA"] == pl.Int32
    assert {dtype for name, dtype in table.schema.items() if not name.startswith("channel_")} == {pl.String}


def test_csv_gzip_byte_order_mark_windows_lines_and_parquet_give_the_same_manifest(tmp_path):
    rows = [urls(site=str(site)) for site in range(1, 4)]
    plain = write(tmp_path / "l.csv", rows)
    (tmp_path / "l.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n"))
    numbers = pl.DataFrame(rows).with_columns(pl.col("Metadata_Site").cast(pl.Int64))
    numbers.write_parquet(tmp_path / "l.parquet")
    numbers.with_columns(pl.col("Metadata_Site").cast(pl.Float64)).write_parquet(tmp_path / "pandas.parquet")
    expected = build(plain).table
    for name in ("l.csv.gz", "bom.csv", "l.parquet", "pandas.parquet"):
        assert build(tmp_path / name).table.equals(expected), name


def test_an_empty_illumination_cell_means_ones_and_is_counted(tmp_path):
    rows = [
        urls("A01", URL_IllumDNA="s3://b/dna.npy", URL_IllumER="s3://b/er.npy"),
        urls("A02", URL_IllumDNA="", URL_IllumER="s3://b/er.npy"),
    ]
    made = build(write(tmp_path / "l.csv", rows))
    assert made.table["illum_DNA"].to_list() == ["s3://b/dna.npy", None]
    assert made.notes == ["no illumination function, so ones: Mito, AGP, RNA, DNA (1 of 2 FOVs) of plate P1"]


def test_stains_other_than_the_wanted_are_left_out_and_named_unless_brightfield(tmp_path):
    file = write(tmp_path / "l.csv", [urls(URL_OrigActin="a.tiff", URL_OrigBrightfield_H="b.tiff")])
    made = build(file)
    assert "uri_Actin" not in made.table.columns
    assert made.notes[0] == f"{file}: stains that were not asked for are left out: Actin"
    assert build(file, stains=("Actin",), rewrites=[("a", "s3://x/a")]).table["uri_Actin"][0] == "s3://x/a.tiff"


def test_given_source_and_batch_come_before_the_path_and_after_the_file(tmp_path):
    given = {"Metadata_Source": "mine", "Metadata_Batch": "week1"}
    assert build(write(tmp_path / "old.csv", [paths()]), defaults=given).table["fov_id"][0] == "mine/week1/P1/A01/1"
    made = build(write(tmp_path / "new.csv", [urls()]), defaults=given)
    assert made.table["fov_id"][0] == "s1/b1/P1/A01/1"
    assert made.notes[0] == f"{tmp_path}/new.csv: Metadata_Source is in the file and stays; 'mine' is not used"
    with pytest.raises(ConfigError, match="unknown key 'Metadata_Batsh'; did you mean 'Metadata_Batch'"):
        build(tmp_path / "new.csv", defaults={"Metadata_Batsh": "b"})


def test_a_path_that_does_not_tell_source_and_batch_is_refused(tmp_path):
    file = write(tmp_path / "l.csv", [paths(), paths("A02", folder="/scratch/images")])
    assert refusal(file) == (
        f"{file}, row 3: no column Metadata_Source, and /scratch/images/A02 1-Mito.tiff has no "
        "<project>/<source>/images/<batch>/ to read it from; give it with --source"
    )


# Rewrites


def test_the_first_rewrite_that_matches_counts_and_an_idle_one_is_noted(tmp_path):
    file = write(tmp_path / "l.csv", [urls(URL_IllumDNA="/old/dna.npy"), urls("A02", URL_IllumDNA="s3://b/x.npy")])
    rules = [("s3://b/cpg0016-jump/", "/local/jump"), ("s3://b/", "/rest/"), ("s3://b/cpg", "no"), ("/old", "/new")]
    made = build(file, rewrites=rules)
    assert made.table["uri_DNA"][0] == "/local/jump/s1/images/b1/images/P1/A01-1-DNA.tiff"
    assert made.table["illum_DNA"].to_list() == ["/new/dna.npy", "/rest/x.npy"]
    assert "the rewrite s3://b/cpg=no matched nothing" in made.notes


def test_a_rewrite_never_doubles_a_slash_and_makes_a_local_folder_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "l.csv", [urls()])
    rest = "cpg0016-jump/s1/images/b1/images/P1/A01-1-DNA.tiff"
    for start, to, expected in [
        ("s3://b", "s3://c/", f"s3://c/{rest}"),
        ("s3://b/", "images", f"{tmp_path}/images/{rest}"),
        ("s3://b/", "images/", f"{tmp_path}/images/{rest}"),
        ("s3://b/cpg0016-", "s3://b/copy-", f"s3://b/copy-{rest.removeprefix('cpg0016-')}"),
    ]:
        assert build(file, rewrites=[(start, to)]).table["uri_DNA"][0] == expected


def test_a_rewrite_without_a_prefix_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="FROM=TO"):
        build(write(tmp_path / "l.csv", [urls()]), rewrites=[("", "x")])


def test_relative_image_paths_are_noted(tmp_path):
    file = write(tmp_path / "l.csv", [paths(folder="here/cpg0001/s/images/b")])
    assert any("1 image paths are relative" in note for note in build(file).notes)


# Refusals of load_data


def test_an_empty_cell_for_a_stain_is_refused_with_its_row(tmp_path):
    file = write(tmp_path / "l.csv", [urls("A01"), urls("A02"), urls("A03", URL_OrigER=" ")])
    assert refusal(file) == f"{file}, row 4: no image of the stain 'ER'"
    file = write(tmp_path / "old.csv", [paths(), paths("A02", FileName_OrigRNA="")])
    assert refusal(file) == f"{file}, row 3: no image of the stain 'RNA'"


def test_blank_lines_are_no_rows_but_count(tmp_path):
    header, first, *_ = write(tmp_path / "l.csv", [urls()]).read_text().splitlines()
    (tmp_path / "l.csv").write_text(f"{header}\n{first}\n\n{first.replace('A01-1-ER.tiff', 'x')}\n\n")
    assert refusal(tmp_path / "l.csv").startswith(f"{tmp_path}/l.csv, row 4: the FOV s1/b1/P1/A01/1 is already in")


def test_a_missing_stain_column_is_refused(tmp_path):
    row = urls()
    del row["URL_OrigER"]
    file = write(tmp_path / "l.csv", [row])
    assert refusal(file) == (
        f"{file}, row 1 (the header): no images of the stain 'ER' (URL_OrigER, or FileName_OrigER with "
        "PathName_OrigER); its stains are AGP, DNA, Mito, RNA"
    )
    row = paths()
    del row["PathName_OrigER"]
    file = write(tmp_path / "old.csv", [row])
    assert refusal(file) == f"{file}, row 1 (the header): FileName_OrigER without PathName_OrigER"


def test_a_parquet_row_counts_from_one(tmp_path):
    pl.DataFrame([urls(), urls("A02", URL_OrigER=None)]).write_parquet(tmp_path / "l.parquet")
    assert refusal(tmp_path / "l.parquet") == f"{tmp_path}/l.parquet, row 2: no image of the stain 'ER'"


def test_a_field_of_view_twice_is_refused_with_both_rows(tmp_path):
    one = write(tmp_path / "a.csv", [urls("A01"), urls("A02"), urls("A01")])
    assert refusal(one) == f"{one}, row 4: the FOV s1/b1/P1/A01/1 is already in {one}, row 2"
    first, second = write(tmp_path / "b.csv", [urls("A01"), urls("A02")]), write(tmp_path / "c.csv", [urls("A02")])
    assert refusal(second, first) == f"{second}, row 2: the FOV s1/b1/P1/A02/1 is already in {first}, row 3"


@pytest.mark.parametrize(
    ("key", "value", "problem"), [("Well", "", "is empty"), ("Plate", "a/b", "may not contain '/'")]
)
def test_an_empty_key_or_one_with_a_slash_is_refused(tmp_path, key, value, problem):
    file = write(tmp_path / "l.csv", [urls(), urls("A02", **{f"Metadata_{key}": value})])
    message = refusal(file)
    assert message.startswith(f"{file}, row 3: Metadata_{key} is")
    assert message.endswith(problem)


def test_a_missing_key_column_is_refused_with_the_nearest(tmp_path):
    row = urls(Metadata_Wells="A01")
    del row["Metadata_Well"]
    message = refusal(write(tmp_path / "l.csv", [row]))
    assert "row 1 (the header): no column Metadata_Well; did you mean 'Metadata_Wells'?" in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", " is empty"),
        (b"\xef\xbb\xbf", " is empty"),
        (b"\n \n", " is empty"),
        (b"a,b\n", " is empty: it has a header and no rows"),
        (b"a,b\n\n", " is empty: it has a header and no rows"),
        (b"a,b\n1,2\n3\n", ", row 3: 1 values where the header has 2 columns"),
        (b"a,b\n1,2\n\n1,2,3\n", ", row 4: 3 values where the header has 2 columns"),
        (b"a,b\n1,2\n\xe9,2\n", ", row 3: not UTF-8 text"),
        (b"\xe9,b\n1,2\n", ", row 1: the header is not UTF-8 text"),
        (bytes(range(256)), " is no table: it is neither text nor Parquet"),
        (b"PK\x03\x04 xlsx", " is a spreadsheet or a zip file; save it as CSV, TSV or Parquet"),
        (b"a,b\n1,2\na,b\n3,4\n", ", row 3: the header stands there again"),
        (
            b"Image,Image\na,b\n1,2\n",
            ", row 1: the column 'Image' stands twice in the header; its names seem to be in row 2: delete row 1",
        ),
        (b"a,,b\n1,2,3\n", ", row 1: column 2 has values and no name"),
        (b"sep=;\na;b\n1;2\n3\n", ", row 4: 1 values where the header has 2 columns"),
        (b"a,a\n1,2\n", ", row 1: the column 'a' stands twice in the header"),
        (b"\n\x01", ", row 1: the header is not one line of column names"),
        (b'"a\nb",c\n01,2\n', ", row 1: the header is not one line of column names"),
        (b'a,b\n"1,2\n', ", row 2: 1 values where the header has 2 columns"),
        (gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-9], " is damaged: its gzip stream ends early or is not gzip"),
        (b"PAR1 and no more", " cannot be read: "),
        (
            b"well_position,x\n1,2\n",
            " is not a load_data file: it looks like a barcode map, a platemap or a metadata table",
        ),
        (b"fov_id,x\n1,2\n", " is not a load_data file: it looks like a manifest"),
        (
            b"URL_DNA,x\n1,2\n",
            " is not a load_data file: no column such as URL_OrigMito or FileName_OrigMito; 'URL_DNA' is nearest to "
            "'URL_OrigDNA'; its columns are URL_DNA, x",
        ),
    ],
)
def test_a_file_that_is_no_load_data_is_refused_and_says_why(tmp_path, content, problem):
    (tmp_path / "l.csv").write_bytes(content)
    assert refusal(tmp_path / "l.csv").startswith(f"{tmp_path}/l.csv{problem}")


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    file = write(tmp_path / "l.csv", [urls()])
    gone = tmp_path / "gone.csv"
    assert refusal(gone) == f"{gone} does not exist"
    assert refusal(file, metadata=[gone]) == f"{gone} does not exist"
    assert refusal(file, platemaps=[tmp_path]) == f"{tmp_path}/barcode_platemap.csv does not exist"


# Platemaps


def test_wells_meet_however_they_are_written_and_have_one_form(tmp_path):
    file = write(tmp_path / "l.csv", [urls("A1"), urls("B02"), urls("c003")])
    folder = platemap(tmp_path, {"A01": "x", "b2": "y", "C3": "z"}).parent
    table = build(file, platemaps=[folder]).table
    assert table["Metadata_Well"].to_list() == ["A01", "B02", "C03"]
    assert table["Metadata_broad_sample"].to_list() == ["x", "y", "z"]
    assert table["Metadata_Plate_Map_Name"].to_list() == ["map"] * 3
    assert "Metadata_well_position" not in table.columns


def test_a_well_that_is_not_on_the_platemap_is_refused_or_dropped(tmp_path):
    file = write(tmp_path / "l.csv", [urls("A01"), urls("Z99"), urls("Z99", "2")])
    barcodes = platemap(tmp_path, {"A01": "x"})
    assert refusal(file, platemaps=[barcodes]) == (
        f"{file}, row 3: the well 'Z99' of plate 'P1' is not on its platemap 'map' (of {barcodes}); "
        "--drop-unmapped-wells leaves such wells out"
    )
    made = build(file, platemaps=[barcodes], drop_unmapped_wells=True)
    assert made.table["Metadata_Well"].to_list() == ["A01"]
    assert "2 FOVs of wells that are on no platemap are dropped: P1/Z99" in made.notes
    nothing = write(tmp_path / "n.csv", [urls("Z99")])
    assert refusal(nothing, platemaps=[barcodes], drop_unmapped_wells=True).startswith("no FOV is left")


def test_a_plate_that_is_in_no_barcode_map_is_refused(tmp_path):
    file = write(tmp_path / "l.csv", [urls(), urls(plate="P2")])
    barcodes = platemap(tmp_path, {"A01": "x"})
    assert refusal(file, platemaps=[barcodes]) == f"{barcodes}: the plate 'P2' of {file} is not listed"
    write(
        barcodes,
        [{"Assay_Plate_Barcode": "P1", "Plate_Map_Name": "m"}, {"Assay_Plate_Barcode": "P2", "Plate_Map_Name": ""}],
    )
    assert refusal(file, platemaps=[barcodes]) == f"{barcodes}: the plate 'P2' of {file} has no plate map"


def test_a_platemap_that_is_missing_or_says_two_things_of_a_well_is_refused(tmp_path):
    file = write(tmp_path / "l.csv", [urls()])
    barcodes = platemap(tmp_path, {"A01": "x", "A1": "y"})
    assert refusal(file, platemaps=[barcodes]) == (
        f"{tmp_path}/platemap/map.txt, rows 2 and 3: two different rows for Metadata_Well 'A01'"
    )
    (tmp_path / "platemap/map.txt").unlink()
    assert refusal(file, platemaps=[barcodes]) == (
        f"{tmp_path}/platemap/map.txt does not exist (nor as .tsv or .csv): {barcodes} names it for the plate 'P1'"
    )


def test_a_plate_imaged_in_two_batches_takes_the_map_of_its_own_batch(tmp_path):
    file = write(tmp_path / "l.csv", [urls(batch="b1"), urls(batch="b2")])
    maps = [platemap(tmp_path / batch, {"A01": f"sample of {batch}"}) for batch in ("b1", "b2")]
    table = build(file, platemaps=[*maps, tmp_path / "b1"]).table
    assert table["Metadata_broad_sample"].to_list() == ["sample of b1", "sample of b2"]
    other = write(tmp_path / "o.csv", [urls(batch="b3")])
    assert "stands in each, and no folder is named for its batch 'b3'" in refusal(other, platemaps=maps)


def test_platemap_columns_get_the_prefix_once(tmp_path):
    file = write(tmp_path / "l.csv", [urls()])
    barcodes = platemap(tmp_path, {"A01": "x"})
    write(
        tmp_path / "platemap/map.txt", [{"Metadata_Well": "A01", "Metadata_dose": "01", "plate_map_name": "map"}], "\t"
    )
    row = build(file, platemaps=[barcodes]).table.row(0, named=True)
    assert row["Metadata_dose"] == "01"
    assert "Metadata_Metadata_dose" not in row


# Metadata tables


def test_tables_join_on_what_they_share_by_any_of_its_names(tmp_path):
    file = write(tmp_path / "l.csv", [urls("A01", plate=plate) for plate in ("P1", "P2")])
    plates = write(tmp_path / "plates.tsv", [{"Batch": "b1", "Assay_Plate_Barcode": "P1", "Cell_type": "U2OS"}], "\t")
    sources = write(tmp_path / "sources.csv", [{"Metadata_Source": "s1", "Metadata_Pixel": "0.60"}])
    wells = write(
        tmp_path / "wells.csv", [{"Plate": p, "well_position": "a1", "JCP2022": f"J{p}"} for p in ("P1", "P2")]
    )
    names = write(
        tmp_path / "names.csv", [{"Metadata_JCP2022": "JP1", "Name": "one"}, {"Metadata_JCP2022": "JP2", "Name": "two"}]
    )
    made = build(file, metadata=[plates, sources, wells, names])
    columns = ["Metadata_Cell_type", "Metadata_Pixel", "Metadata_JCP2022", "Metadata_Name"]
    assert made.table.select(columns).rows() == [("U2OS", "0.60", "JP1", "one"), (None, "0.60", "JP2", "two")]
    assert made.notes[0] == (
        f"{plates}: 1 of 2 FOVs have a row in it (by Metadata_Batch, Metadata_Plate); "
        "its columns are null for the others"
    )


def test_a_table_that_matches_nothing_is_noted(tmp_path):
    file = write(tmp_path / "l.csv", [urls()])
    plates = write(tmp_path / "plates.csv", [{"Plate": "Q", "Cell_type": "U2OS"}])
    made = build(file, metadata=[plates])
    assert made.table["Metadata_Cell_type"].to_list() == [None]
    assert "none of 1 FOVs have a row in it" in made.notes[0]


def test_an_empty_sample_is_dmso_on_compound_plates_only(tmp_path):
    wells = {"A01": "drug", "A02": ""}
    folder = tmp_path / "maps"
    barcodes = platemap(folder, wells, ("P1",))
    write(
        folder / "platemap/genes.txt",
        [{"well_position": "A01", "broad_sample": "gene"}, {"well_position": "A02", "broad_sample": ""}],
        "\t",
    )
    rows = [("P1", "map"), ("P2", "genes"), ("P3", "map")]
    write(barcodes, [{"Assay_Plate_Barcode": plate, "Plate_Map_Name": name} for plate, name in rows])
    images = [urls(well, plate=plate) for plate in ("P1", "P2") for well in wells] + [urls("A02", plate="P3")]
    compounds = [{"broad_sample": "drug", "control_type": ""}, {"broad_sample": "", "control_type": "negcon"}]
    metadata = write(tmp_path / "compounds.csv", compounds)
    table = build(write(tmp_path / "l.csv", images), platemaps=[barcodes], metadata=[metadata]).table
    assert table["Metadata_control_type"].to_list() == [None, "negcon", None, None, "negcon"]
    assert table["Metadata_broad_sample"].to_list() == ["drug", None, "gene", None, None]


def test_a_table_without_a_shared_identifier_or_with_two_rows_for_one_is_refused(tmp_path):
    file = write(tmp_path / "l.csv", [urls()])
    stranger = write(tmp_path / "s.csv", [{"Metadata_JCP2022": "J", "Cell_type": "U2OS"}])
    assert refusal(file, metadata=[stranger]) == (
        f"{stranger} shares no identifier with the manifest, which has Source, Batch, Plate, Well, Site"
    )
    double = write(
        tmp_path / "d.csv", [{"Plate": "P1", "x": "1"}, {"Plate": "P1", "x": "1"}, {"Plate": "P1", "x": "2"}]
    )
    assert refusal(file, metadata=[double]) == f"{double}, rows 2 and 4: two different rows for Metadata_Plate 'P1'"
    both = write(tmp_path / "b.csv", [{"Plate": "P1", "Assay_Plate_Barcode": "P1"}])
    assert "the columns 'Plate' and 'Assay_Plate_Barcode' are both Metadata_Plate" in refusal(file, metadata=[both])


def test_two_tables_may_fill_one_column_but_not_disagree(tmp_path):
    file = write(tmp_path / "l.csv", [urls(plate="P1"), urls(plate="P2")])
    first = write(tmp_path / "1.csv", [{"Plate": "P1", "x": "one"}])
    second = write(tmp_path / "2.csv", [{"Plate": "P2", "x": "two"}, {"Plate": "P1", "x": "one"}])
    third = write(tmp_path / "3.csv", [{"Plate": "P2", "x": "three"}])
    assert build(file, metadata=[first, second]).table["Metadata_x"].to_list() == ["one", "two"]
    assert refusal(file, metadata=[second, third]) == (
        f"{file}, row 3: Metadata_x is 'two', but {third}, row 2 says 'three'"
    )


# The manifest as a whole


def test_rows_are_sorted_with_numeric_sites_in_numeric_order_and_columns_by_name(tmp_path):
    file = write(tmp_path / "l.csv", [urls(site=site, Metadata_b="", Metadata_a="") for site in ("10", "x", "9", "1")])
    table = build(file).table
    assert table["Metadata_Site"].to_list() == ["1", "9", "10", "x"]
    last = [column(stain) for stain in STAINS for column in (uri_column, channel_column, illum_column)]
    assert table.columns == ["fov_id", *KEYS, "Metadata_a", "Metadata_b", *last]


def test_the_order_of_rows_and_files_changes_no_byte(tmp_path):
    rows = [urls(well, str(site), plate) for plate in ("P1", "P2") for well in _wells() for site in range(1, 4)]
    shuffled = random.Random(0).sample(rows, len(rows))
    a, b = write(tmp_path / "a.csv", rows[:500]), write(tmp_path / "b.csv", rows[500:])
    c, d = write(tmp_path / "c.csv", shuffled[:900]), write(tmp_path / "d.csv", shuffled[900:])
    contents = set()
    for name, files in {"1": (a, b), "2": (b, a), "3": (c, d)}.items():
        write_manifest(build(*files).table, str(tmp_path / name), STORAGE)
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1
    file = pq.ParquetFile(tmp_path / "1")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [1024, 1024, 256]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_manifest_reads_back_as_it_was_written(tmp_path):
    table = build(write(tmp_path / "l.csv", [urls("A01"), urls("A02", URL_IllumDNA="")])).table
    uri = str(tmp_path / "deep" / "m.parquet")
    write_manifest(table, uri, STORAGE)
    assert read_manifest(uri, STORAGE).equals(table)
    assert pq.read_table(uri).to_pylist() == table.to_dicts()


def test_a_manifest_that_is_missing_or_none_is_refused(tmp_path):
    with pytest.raises(DataError, match="no manifest at"):
        read_manifest(str(tmp_path / "m.parquet"), STORAGE)
    (tmp_path / "m.parquet").write_bytes(b"text")
    with pytest.raises(DataError, match="not a whole Parquet file"):
        read_manifest(str(tmp_path / "m.parquet"), STORAGE)
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "m.parquet")
    with pytest.raises(DataError, match="is not a manifest: no column such as uri_Mito"):
        read_manifest(str(tmp_path / "m.parquet"), STORAGE)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (pl.lit("x").alias("fov_id"), "m, row 1: fov_id is 'x', not 's1/b1/P1/A01/1'"),
        (pl.lit(None, pl.String).alias("Metadata_Well"), "m, row 1: Metadata_Well is empty"),
        (pl.lit(1).alias("Metadata_Site"), "m: the column Metadata_Site is Int32, not text"),
        (pl.lit(1).alias("Metadata_Dose"), "m: the column Metadata_Dose is Int32, not text"),
        (pl.lit("0").alias("channel_DNA"), "m: the column channel_DNA is String, not a whole number"),
        (pl.lit("").alias("uri_DNA"), "m, row 1: no image of the stain 'DNA'"),
    ],
)
def test_a_manifest_that_was_changed_is_refused(tmp_path, change, problem):
    table = build(write(tmp_path / "l.csv", [urls("A01"), urls("A02")])).table
    check_manifest(table, STAINS, "m")
    check_manifest(table.drop("channel_DNA", "illum_DNA"), STAINS, "m")
    with pytest.raises(DataError) as caught:
        check_manifest(table.with_columns(change), STAINS, "m")
    assert str(caught.value) == problem


def test_a_manifest_without_rows_stains_or_keys_or_with_a_row_twice_is_refused(tmp_path):
    table = build(write(tmp_path / "l.csv", [urls()])).table
    for changed, problem in [
        (table.head(0), "m has no rows"),
        (table.drop("Metadata_Well"), "m has no column Metadata_Well"),
        (table.drop("uri_ER"), "m has no images of the stain 'ER'; it has Mito, AGP, RNA, DNA"),
        (pl.concat([table, table]), "m, row 2: the FOV s1/b1/P1/A01/1 is already in m, row 1"),
    ]:
        with pytest.raises(DataError) as caught:
            check_manifest(changed, STAINS, "m")
        assert str(caught.value) == problem
