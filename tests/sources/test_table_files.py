"""Kind 6 (one reader of tables), kind 3 (words for nothing) and kind 5 (identity): dialects, headers, wells and sites."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdvae_ray.errors import DataError
from sdvae_ray.schema import KEYS
from sdvae_ray.sources.gallery import read_table
from sdvae_ray.sources.keys import canonical, without_words
from sdvae_ray.sources.manifest.manifest import STAINS, build_manifest
from sdvae_ray.sources.profiles import read_profiles
from sdvae_ray.sources.tables import named_columns, read_columns
from sdvae_ray.storage import Storage

STORAGE = Storage()
HEADER = ("Metadata_Plate", "Well", "dose")
ROWS = [("P1", "A01", "4.0E-06"), ("P1", "B02", "a, b; c"), ("0042", "AA03", 'say "x"')]


def csv(separator: str = ",", end: str = "\n", index: bool = False) -> str:
    """ROWS as text; every value in quotes, so that any separator may stand in it."""
    lines = [(("",) if index else ()) + HEADER]
    lines += [((str(number),) if index else ()) + row for number, row in enumerate(ROWS)]
    return "".join(separator.join('"' + value.replace('"', '""') + '"' for value in line) + end for line in lines)


def parquet(folder: Path, change: Callable[[pl.DataFrame], pl.DataFrame] = lambda frame: frame) -> bytes:
    change(pl.DataFrame(ROWS, schema=list(HEADER), orient="row")).write_parquet(folder / "made.parquet")
    return (folder / "made.parquet").read_bytes()


DIALECTS: dict[str, Callable[[Path], bytes]] = {
    "commas": lambda folder: csv().encode(),
    "tabs": lambda folder: csv("\t").encode(),
    "semicolons": lambda folder: csv(";").encode(),
    "a line that names the separator": lambda folder: b"sep=;\r\n" + csv(";", "\r\n").encode(),
    "Windows lines and a byte order mark": lambda folder: b"\xef\xbb\xbf" + csv(end="\r\n").encode(),
    "old Mac lines": lambda folder: csv(end="\r").encode(),
    "UTF-16 with a mark": lambda folder: csv("\t").encode("utf-16"),
    "UTF-16, high byte first, without a mark": lambda folder: csv().encode("utf-16-be"),
    "gzip": lambda folder: gzip.compress(csv().encode()),
    "an index without a name": lambda folder: csv(index=True).encode(),
    "an index that pandas named": lambda folder: csv(index=True).replace('""', '"Unnamed: 0"', 1).encode(),
    "spaces around the names": lambda folder: csv().replace('"Well"', '" Well "').encode(),
    "empty columns after the last": lambda folder: csv(end=",,\n").encode(),
    "Parquet": parquet,
    "Parquet with categories": lambda folder: parquet(folder, lambda t: t.with_columns(pl.all().cast(pl.Categorical))),
    "Parquet with an index": lambda folder: parquet(folder, lambda t: t.with_row_index("__index_level_0__")),
    "Parquet, gzipped": lambda folder: gzip.compress(parquet(folder)),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_the_same_table(tmp_path, dialect):
    file = tmp_path / "table.txt"  # the content tells, not the name
    file.write_bytes(DIALECTS[dialect](tmp_path))
    table, notes = read_table(str(file), STORAGE)
    assert named_columns(table) == list(HEADER)
    assert table.select(HEADER).rows() == ROWS
    assert notes == []


@pytest.mark.parametrize("dialect", ["semicolons", "UTF-16 with a mark", "Parquet with categories"])
def test_a_platemap_a_metadata_table_and_profiles_take_the_same_dialects(tmp_path, dialect):
    """A second input of the kind, for every reader."""
    file = tmp_path / "x.csv"
    file.write_bytes(DIALECTS[dialect](tmp_path))
    load_data = tmp_path / "load_data.csv"
    pl.DataFrame([load_row("P1", "A1"), load_row("P1", "B02")]).write_csv(load_data, separator=";")
    table = build_manifest([str(load_data)], metadata=[str(file)], storage=STORAGE).table
    assert table["Metadata_dose"].to_list() == ["4.0E-06", "a, b; c"]
    profiles = pl.DataFrame({"Metadata_Well": ["A1", "A2"], "Cells_x": ["1,5", "2"], "Cells_y": ["-1e3", "NA"]})
    (tmp_path / "p.csv").write_bytes(profiles.write_csv(separator=";", quote_style="always").encode("utf-16"))
    read = read_profiles(str(tmp_path / "p.csv"), STORAGE)
    assert read.features.tolist() == [[1.5, -1000], [2, 0]]
    assert read.wells["Metadata_Well"].to_list() == ["A01", "A02"]


def load_row(plate: str, well: str, site: str = "1", **more: str) -> dict[str, str]:
    keys = dict(zip(KEYS, ("s1", "b1", plate, well, site), strict=True))
    images = {f"URL_Orig{stain}": f"s3://b/{plate}/{well}-{site}-{stain}.tiff" for stain in STAINS}
    return {**keys, **images, **more}


# Words for nothing


def test_words_for_nothing_are_missing_and_counted_and_spaces_go(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("a,b,c\nNA,none,x \nN/A, ,NaN\nnull,sodium Na,None\n")
    table, notes = read_table(str(file), STORAGE)
    assert table.select("a", "b", "c").rows() == [("", "none", "x"), ("", "", ""), ("", "sodium Na", "")]
    assert notes == [
        "5 cells hold N/A, NA, NaN, None, null and count as missing: a 3, c 2",
        "2 cells have spaces around their text, which are dropped: b 1, c 1",
    ]
    assert read_table(str(file), STORAGE, ["none"])[0]["a"].to_list() == ["NA", "N/A", "null"]


def test_the_real_compound_table_with_NA_gives_dmso_its_control_type(shared, tmp_path):  # noqa: N802 - the word itself
    """Case 01: 64 wells, as pandas reads them."""
    real, case = shared / "data/metadata/cpg0014", shared / "data/cases/01_JUMP-Target-2_compound_metadata.tsv"
    if not case.exists():
        pytest.skip("the awkward inputs are not there")
    name = "JUMP-Target-2_compound_platemap"
    (tmp_path / "platemap").mkdir()
    (tmp_path / "barcode_platemap.csv").write_text(f"Assay_Plate_Barcode,Plate_Map_Name\nBR00136505,{name}\n")
    (tmp_path / f"platemap/{name}.txt").write_bytes((real / f"{name}.txt").read_bytes())
    made = build_manifest(
        [str(real / "BR00136505_load_data.csv.gz")], platemaps=[str(tmp_path)], metadata=[str(case)], storage=STORAGE
    )
    wells = made.table.unique("Metadata_Well")
    assert (wells["Metadata_control_type"] == "negcon").sum() == 64
    assert "NA" not in set(wells["Metadata_control_type"].drop_nulls())
    assert any(note.startswith(f"{case}: 280 cells hold NA and count as missing: ") for note in made.notes)


def test_other_words_are_for_the_user_to_name(tmp_path):
    file = tmp_path / "l.csv"
    pl.DataFrame([load_row("P1", "A01", Metadata_dose="unknown", Metadata_gene="NA")]).write_csv(file)
    given = build_manifest([str(file)], missing=["unknown"], storage=STORAGE).table
    assert given.select("Metadata_dose", "Metadata_gene").row(0) == (None, "NA")


# Identity


@pytest.mark.parametrize(
    ("name", "forms", "form"),
    [
        ("Metadata_Well", ["A1", "a01", "A01", "A001"], "A01"),
        ("Metadata_Well", ["aa1", "AA01", "AA001"], "AA01"),
        ("Metadata_Well", ["P24", "p24"], "P24"),
        ("Metadata_Site", ["1", "01", "1.0", "001.00"], "1"),
        ("Metadata_Site", ["0", "00", "0.0"], "0"),
        ("Metadata_Plate", ["110000", "110000.0"], "110000"),
    ],
)
def test_a_key_has_one_form(name, forms, form):
    assert set(pl.DataFrame({"key": forms}).select(canonical("key", name)).to_series()) == {form}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("Metadata_Well", text) for text in ("r01c01", "A00", "AG01", "A49", "sample 1")),
        *(("Metadata_Site", text) for text in ("1.5", "x1", "-1")),
        ("Metadata_Plate", "0042"),
        ("Metadata_Batch", "1.0"),
    ],
)
def test_what_is_no_such_key_keeps_its_text(name, text):
    assert pl.DataFrame({"key": [text]}).select(canonical("key", name)).item() == text


@pytest.mark.parametrize("other", ["19_float.csv", "19_w.csv"])
def test_one_field_in_two_forms_is_one_field(shared, other):
    """Case 19."""
    folder = shared / "data/cases"
    if not folder.is_dir():
        pytest.skip("the awkward inputs are not there")
    sound, odd = str(folder / "19_ok.csv"), str(folder / other)
    with pytest.raises(DataError) as caught:
        build_manifest([odd] if other == "19_w.csv" else [sound, odd], storage=STORAGE)
    assert "the FOV s1/b1/P1/A01/1 is already in" in str(caught.value)
    if other == "19_float.csv":
        alone = build_manifest([odd], storage=STORAGE)
        assert alone.table["fov_id"].to_list() == build_manifest([sound], storage=STORAGE).table["fov_id"].to_list()
        assert f"{odd}: 4 values of Metadata_Site have another form, such as '1.0' for '1'" in alone.notes


def test_one_image_for_two_fields_is_said_with_both_rows(tmp_path):
    file = tmp_path / "l.csv"
    rows = [load_row("P1", "A01"), load_row("P1", "A02"), load_row("P1", "A03")]
    rows[2]["URL_OrigER"] = rows[0]["URL_OrigER"]
    pl.DataFrame(rows).write_csv(file)
    assert (
        f"2 FOVs share their image of ER with another, such as {file}, row 2 and {file}, row 4: s3://b/P1/A01-1-ER.tiff"
        in build_manifest([str(file)], storage=STORAGE).notes
    )


# Fuzz: any table is the right table, or one line


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=6)
WELLS = st.builds(
    lambda row, column, zeros, low: (row.lower() if low else row) + "0" * zeros + str(column),
    st.sampled_from([*"ABCP", "AA", "AF"]),
    st.integers(1, 48),
    st.integers(0, 2),
    st.booleans(),
)
SITES = st.builds(
    lambda site, zeros, end: "0" * zeros + str(site) + end,
    st.integers(0, 99),
    st.integers(0, 2),
    st.sampled_from(["", ".0"]),
)


def plain_well(text: str) -> str:
    """The one form of a well, by another road than the code's."""
    letters = "".join(char for char in text if char.isalpha())
    return letters.upper() + f"{int(text[len(letters) :]):02d}"


def check_any_dialect(folder: Path, data: Any) -> None:
    """A load_data file of any dialect gives its fields in the one form, or one line that names the file."""
    rows = data.draw(st.lists(st.tuples(WELLS, SITES, TEXTS), min_size=1, max_size=5), label="rows")
    separator, end = data.draw(st.sampled_from(",;\t")), data.draw(st.sampled_from(["\n", "\r\n"]))
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]))
    table = [load_row("P1", well, site, Metadata_text=text) for well, site, text in rows]
    lines = [list(table[0]), *(list(row.values()) for row in table)]
    text = "".join(separator.join('"' + v.replace('"', '""') + '"' for v in line) + end for line in lines)
    raw = text.encode(encoding)
    file = folder / "l.csv"
    file.write_bytes(gzip.compress(raw) if data.draw(st.booleans()) else raw)
    fields = [(plain_well(well), str(int(float(site)))) for well, site, _ in rows]
    if len(set(fields)) < len(fields):
        with pytest.raises(DataError, match="is already in") as caught:
            build_manifest([str(file)], storage=STORAGE)
        assert "\n" not in str(caught.value)
        return
    built = build_manifest([str(file)], storage=STORAGE).table
    expected = {(well, site): text.strip() or None for (well, site), (_, _, text) in zip(fields, rows, strict=True)}
    made = {
        (well, site): text
        for well, site, text in built.select("Metadata_Well", "Metadata_Site", "Metadata_text").rows()
    }
    words = {"NA", "N/A", "n/a", "NaN", "nan", "NULL", "Null", "null", "None", "<NA>", "#N/A"}
    assert made == {key: None if text in words else text for key, text in expected.items()}


def check_any_bytes(folder: Path, raw: bytes) -> None:
    """Any bytes are a table, or one line that names the file."""
    file = folder / "any"
    file.write_bytes(raw)
    said = ""
    for read in (read_columns, read_profiles):
        try:
            read(str(file), STORAGE)
        except DataError as error:
            said = str(error)
        assert not said or (str(file) in said and "\n" not in said)


CELL = st.one_of(TEXTS, st.sampled_from(["NA", "1", "1,5", "A1", '"', "", " ", "\ufeff", "\n"]))
BYTES = st.one_of(
    st.binary(max_size=60),
    st.lists(st.lists(CELL, max_size=4), max_size=5).map(
        lambda rows: "\n".join(",".join(row) for row in rows).encode()
    ),
    st.binary(max_size=12).map(lambda tail: b"PAR1" + tail),
    st.binary(max_size=30).map(gzip.compress),
)
SHORT = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LONG = settings(SHORT, max_examples=2500)


@SHORT
@given(data=st.data())
def test_a_load_data_file_of_any_dialect_gives_its_fields_or_one_line(tmp_path, data):
    check_any_dialect(tmp_path, data)


@SHORT
@given(raw=BYTES)
def test_any_bytes_are_a_table_or_one_line(tmp_path, raw):
    check_any_bytes(tmp_path, raw)


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_a_load_data_file_of_any_dialect_gives_its_fields_or_one_line_long(tmp_path, data):
    check_any_dialect(tmp_path, data)


@pytest.mark.slow
@LONG
@given(raw=BYTES)
def test_any_bytes_are_a_table_or_one_line_long(tmp_path, raw):
    check_any_bytes(tmp_path, raw)


@SHORT
@given(cells=st.lists(st.one_of(st.none(), CELL), max_size=6))
def test_words_for_nothing_leave_every_other_text(cells):
    table, _ = without_words(pl.DataFrame({"x": cells}, schema={"x": pl.String}), ["x"], ["NA"])
    polars_strips = pl.Series(cells, dtype=pl.String).str.strip_chars().to_list()
    assert table["x"].to_list() == ["" if text == "NA" else text for text in polars_strips]
