"""A manifest of many files: made of load_data files, by globs, on a disk and in a bucket; and what every reader makes of it."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from sdvae_ray import read_manifest
from sdvae_ray.cli.main import main
from sdvae_ray.config import StorageConfig
from sdvae_ray.encoding.calibration.sample import sampled_fovs
from sdvae_ray.encoding.manifest_folder import BUILDING, Built, build_folder
from sdvae_ray.encoding.start import checked_manifest
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.planning.census import census
from sdvae_ray.run.run import Run
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import FOV_ID, KEYS, PLATE_KEY, SOURCE_COLUMN
from sdvae_ray.settings.load_data import LoadDataConfig
from sdvae_ray.sources.manifest.describe import describe_manifest
from sdvae_ray.sources.manifest.index import INDEX
from sdvae_ray.sources.manifest.manifest import STAINS, build_manifest, write_manifest
from sdvae_ray.sources.manifest.plate import Recipe
from sdvae_ray.sources.manifest.reader import (
    group_reader,
    iterate_metadata,
    iterate_row_groups,
    read_rows,
    row_groups,
)
from sdvae_ray.sources.manifest.scan import scan_manifest, sealed_keys
from sdvae_ray.sources.manifest.writer import cut
from sdvae_ray.sources.planes import check_locations
from sdvae_ray.storage import Storage

SILENT, STORAGE = Console(quiet=True), Storage()
PLATES = {"source_1": ("P1", "P2"), "source_2": ("P3",)}
WELLS, SITES = ("A01", "A02", "B01"), ("1", "2")
NAME = "load_data_with_illum"
GLOB = f"source_*/workspace/load_data_csv/*/*/{NAME}.*"


def load_data(source: str, plate: str) -> pl.DataFrame:
    """The older header for the second source, with whole URLs for the first, and a column that the other lacks."""
    rows = []
    for well in WELLS:
        for site in SITES:
            row = dict(zip(KEYS, (source, "batch", plate, well, site), strict=True))
            for stain in STAINS:
                folder, file = (
                    f"s3://b/cpg0016-jump/{source}/images/batch/images/{plate}",
                    f"{well}-{site} {stain}.tiff",
                )
                illum = f"s3://b/cpg0016-jump/{source}/images/batch/illum/{plate}"
                if source == "source_1":
                    row |= {f"URL_Orig{stain}": f"{folder}/{file}", f"URL_Illum{stain}": f"{illum}/{stain}.npy"}
                else:
                    row |= {f"FileName_Orig{stain}": file, f"PathName_Orig{stain}": folder}
            row["Metadata_PositionX" if source == "source_1" else "Metadata_Row"] = site
            rows.append(row)
    return pl.DataFrame(rows)


def write_screen(folder: Path) -> Path:
    """Load_data files of three plates in two forms, tables of metadata, and folders of images beside them."""
    for source, plates in PLATES.items():
        for plate in plates:
            place = folder / source / "workspace/load_data_csv/batch" / plate
            place.mkdir(parents=True)
            if source == "source_1":
                load_data(source, plate).write_parquet(place / f"{NAME}.parquet")
            else:
                (place / f"{NAME}.csv.gz").write_bytes(gzip.compress(load_data(source, plate).write_csv().encode()))
            (folder / source / "images/batch/images" / plate).mkdir(parents=True)
    tables = {
        "plate": [(*key, "COMPOUND") for key in plate_keys()] + [("source_2", "batch", "P9", "COMPOUND")],
        "well": [(k[0], k[2], well, f"JCP_{n}") for k in plate_keys() for n, well in enumerate(WELLS) if well != "B01"],
        "control": [("JCP_0", "negcon", "DMSO")],
        "orf": [("JCP_1", "trt", "ORF1", "GENE")],
    }
    columns = {
        "plate": [*PLATE_KEY, "Metadata_PlateType"],
        "well": [SOURCE_COLUMN, "Metadata_Plate", "Metadata_Well", "Metadata_JCP2022"],
        "control": ["Metadata_JCP2022", "Metadata_pert_type", "Metadata_Name"],
        "orf": ["Metadata_JCP2022", "Metadata_pert_type", "Metadata_Name", "Metadata_Symbol"],
    }
    for name, rows in tables.items():
        pl.DataFrame(rows, schema=columns[name], orient="row").write_csv(folder / f"{name}.csv")
    return folder


def plate_keys() -> list[tuple[str, str, str]]:
    return [(source, "batch", plate) for source, plates in PLATES.items() for plate in plates]


def recipe(
    folder: Path, output: Path | str | None = None, storage: StorageConfig | None = None, **changes: Any
) -> Recipe:
    section = {"files": [str(folder / GLOB)], **changes}
    return Recipe.of(LoadDataConfig(**section), STAINS, str(output or folder / "manifest"), storage or StorageConfig())


def build(folder: Path, **changes: Any) -> Built:
    return build_folder(recipe(folder, **changes), SILENT)


@pytest.fixture
def screen(tmp_path: Path) -> Path:
    return write_screen(tmp_path / "screen")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The same manifest in one file, and in many."""
    folder = write_screen(tmp_path_factory.mktemp("both"))
    files = [str(path) for path in sorted(folder.glob(GLOB))]
    made = build_manifest(files, metadata=[str(folder / "well.csv")], storage=STORAGE)
    write_manifest(made.table, str(folder / "one.parquet"), STORAGE)
    build(folder, metadata=[str(folder / "well.csv")])
    return str(folder / "one.parquet"), str(folder / "manifest")


# Made


def test_many_files_have_the_rows_of_one(both):
    one, many = (read_manifest(uri) for uri in both)
    assert {*one.columns} == {*many.columns}
    assert many.select(one.columns).equals(one)
    assert row_groups(both[1], STORAGE)[0] == [6, 6, 6]


def test_tables_are_joined_and_what_is_missing_is_counted(screen):
    chosen = {
        "file": str(screen / "orf.csv"),
        "columns": {"Metadata_Symbol": "Metadata_Symbol", "Metadata_Name": "Metadata_ORF"},
    }
    tables = [*(str(screen / f"{name}.csv") for name in ("plate", "well", "control")), chosen]
    told = build(screen, metadata=tables, keep=["Metadata_Row"])
    rows = read_manifest(str(screen / "manifest"))
    of_well = {well: rows.filter(pl.col("Metadata_Well") == well).row(0, named=True) for well in WELLS}
    assert of_well["A01"]["Metadata_pert_type"] == "negcon"
    assert of_well["A01"]["Metadata_Symbol"] is None
    assert of_well["A02"]["Metadata_Symbol"] == "GENE"
    assert of_well["A02"]["Metadata_ORF"] == "ORF1"
    assert of_well["B01"]["Metadata_JCP2022"] is None
    assert of_well["B01"]["Metadata_PlateType"] == "COMPOUND"
    assert "Metadata_PositionX" not in rows.columns
    assert rows["Metadata_Row"].null_count() == 12
    assert [note for note in told.notes if "well.csv: 12 of 18 FOVs have a row" in note]
    assert [note for note in told.notes if "1 of its plates of these sources have no FOV: source_2/batch/P9" in note]
    assert [note for note in told.notes if "no illumination function" in note and "P3" in note]


def test_fields_that_are_known_to_be_bad_are_left_out_by_reason(screen):
    told = build(
        screen,
        exclude=[
            {"where": {"Metadata_Plate": "P1", "Metadata_Well": ["A01", "A02"]}, "reason": "wells"},
            {"images": ["P2/B01-1 DNA.tiff", "P2/B01-2 ER.tiff"], "reason": "images"},
            {"files": [f"P3/{NAME}.csv.gz"], "reason": "file"},
            {"where": {"Metadata_Nothing": "x"}, "reason": "nothing"},
        ],
    )
    assert told.excluded == {"wells": 4, "images": 2, "file": 1, "nothing": 0}
    assert (told.fovs, told.plates, told.load_data) == (6, 2, 2)
    assert set(read_manifest(str(screen / "manifest")).filter(pl.col("Metadata_Plate") == "P1")["Metadata_Well"]) == {
        "B01"
    }


def test_a_damaged_load_data_file_is_a_named_line_and_the_others_are_not_made_again(screen, capsys):
    bad = screen / f"source_1/workspace/load_data_csv/batch/P2/{NAME}.parquet"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=f"{bad} cannot be read"):
        build_folder(recipe(screen), Console(width=500))
    assert f"refused: {bad}" in capsys.readouterr().out
    with pytest.raises(DataError, match="no index.parquet: it is no manifest, or is not finished"):
        read_manifest(str(screen / "manifest"))
    bad.write_bytes(whole)
    told = build(screen)
    assert (told.resumed, told.fovs) == (2, 18)
    assert not (screen / "manifest" / BUILDING).exists()


def test_another_recipe_or_another_load_data_file_begins_anew(screen):
    bad = screen / f"source_2/workspace/load_data_csv/batch/P3/{NAME}.csv.gz"
    whole = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        build(screen)
    with pytest.raises(DataError, match="is empty"):
        build(screen, keep=[])
    bad.write_bytes(whole)
    load_data("source_1", "P1").head(4).write_parquet(
        screen / f"source_1/workspace/load_data_csv/batch/P1/{NAME}.parquet"
    )
    told = build(screen, keep=[])
    assert (told.resumed, told.fovs) == (1, 16)  # P2 was made by the same recipe


def test_a_new_manifest_takes_the_place_of_an_old_one_whole(screen):
    build(screen)
    before = {path.name for path in (screen / "manifest/parts").rglob("*.parquet")}
    told = build(screen, keep=[])
    after = {path.name for path in (screen / "manifest/parts").rglob("*.parquet")}
    assert told.fovs == 18
    assert len(after) == 3
    assert not before & after
    assert read_manifest(str(screen / "manifest")).height == 18


def test_two_load_data_files_of_a_plate_are_refused_with_both(screen):
    other = screen / "source_1/workspace/load_data_csv/batch/P1/load_data_with_illum.csv"
    load_data("source_1", "P1").write_csv(other)
    with pytest.raises(DataError, match=rf"the plate source_1/batch/P1 is in .*{NAME}.csv and in .*{NAME}.parquet"):
        build(screen)
    told = build(screen, files=[f"{screen}/source_1/workspace/load_data_csv/"])  # a folder: the best of each plate
    assert (told.load_data, told.plates) == (2, 2)


def test_a_glob_that_matches_nothing_and_a_missing_table_are_one_line(screen):
    with pytest.raises(DataError, match="no load_data file at"):
        build(screen, files=[str(screen / "source_9/*.csv")])
    with pytest.raises(DataError, match="absent.csv does not exist"):
        build(screen, metadata=[str(screen / "absent.csv")])
    with pytest.raises(ConfigError, match="is a folder, and its name does not end in .parquet"):
        build_folder(recipe(screen, screen / "m.parquet"), SILENT)


def test_in_a_bucket_the_folders_of_images_are_never_listed(screen, s3, monkeypatch):
    for path in sorted(screen.rglob("*load_data*.*")):
        s3.storage.write_bytes(f"{s3.prefix}/{path.relative_to(screen)}", path.read_bytes())
    s3.storage.write_bytes(f"{s3.prefix}/source_1/images/batch/images/P1/A01.tiff", b"")
    listed: list[str] = []
    children = Storage.children
    monkeypatch.setattr(Storage, "children", lambda self, uri: listed.append(uri) or children(self, uri))
    section = LoadDataConfig(files=(f"{s3.prefix}/{GLOB}",))
    told = build_folder(Recipe.of(section, STAINS, f"{s3.prefix}/manifest", s3.config), SILENT)
    assert (told.fovs, told.plates) == (18, 3)
    assert listed
    assert not [uri for uri in listed if "images" in uri]
    keys = sealed_keys(f"{s3.prefix}/manifest", parse_run(run_of("x")).image, s3.storage)
    assert keys is not None
    assert keys.height == 18


# Read


def run_of(manifest: str, **changes: Any) -> dict[str, Any]:
    raw = {"manifest": manifest, "output": "/nowhere/run", "autoencoders": {"pca": {"name": "patch_pca"}}}
    return {**raw, **changes}


def test_every_reader_gives_the_same_of_both_forms(both):
    image = parse_run(run_of("x")).image
    one, many = both
    assert pl.DataFrame(*iterate_row_groups(one, STORAGE)).height == 18
    stacked = pl.concat(pl.DataFrame(table) for table in iterate_row_groups(many, STORAGE))
    assert stacked[FOV_ID].to_list() == read_manifest(one)[FOV_ID].to_list()
    keys = [pl.concat(iterate_metadata(uri, KEYS, STORAGE)) for uri in both]
    assert keys[0].equals(keys[1])
    assert scan_manifest(one, image, STORAGE)[0].equals(scan_manifest(many, image, STORAGE)[0])
    counted = [census(uri, STAINS, STORAGE, 4) for uri in both]
    assert counted[0].sources == counted[1].sources
    assert check_locations(one, STAINS, STORAGE) == check_locations(many, STAINS, STORAGE)
    samples = [sampled_fovs(uri, SOURCE_COLUMN, 2, 0, STORAGE) for uri in both]
    assert samples[0][FOV_ID].equals(samples[1][FOV_ID])
    taken = [pl.DataFrame(read_rows(uri, part, STORAGE)) for uri, part in zip(both, samples, strict=True)]
    assert taken[0][FOV_ID].to_list() == taken[1][FOV_ID].to_list()


def test_the_keys_of_a_run_lead_to_their_rows(both):
    for uri in both:
        keys = checked_manifest(Run(parse_run(run_of(uri))))
        read = group_reader(uri, STORAGE)
        for row in keys.iter_rows(named=True):
            assert read(row["row_group"])[FOV_ID][row["row"]].as_py() == row[FOV_ID]


def test_a_policy_of_a_value_that_is_not_there_is_refused_with_the_file(both):
    policies = {"values": {"source_1": {"crop": 512}}}
    with pytest.raises(DataError, match=r"row 13: Metadata_Source is 'source_2'"):
        checked_manifest(Run(parse_run(run_of(both[1], image={"policies": policies}))))


def test_a_file_that_was_changed_or_is_gone_is_refused(screen):
    build(screen)
    part = next((screen / "manifest/parts").rglob("P2*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + b"x")
    with pytest.raises(DataError, match="is not the file that index.parquet lists"):
        read_manifest(str(screen / "manifest"))
    part.unlink()
    with pytest.raises(DataError, match="is gone, though index.parquet lists it"):
        read_manifest(str(screen / "manifest"))
    (screen / "manifest" / INDEX).write_bytes(whole)
    with pytest.raises(DataError, match="is no index of a manifest"):
        read_manifest(str(screen / "manifest"))
    with pytest.raises(DataError, match="no manifest at"):
        read_manifest(str(screen / "absent"))


def test_a_manifest_of_one_file_is_cut_by_its_plates(both, tmp_path):
    assert cut(both[0], str(tmp_path / "cut"), STORAGE) == (18, 3)
    assert read_manifest(str(tmp_path / "cut")).equals(read_manifest(both[0]))
    shuffled = read_manifest(both[0]).sort("Metadata_Site", maintain_order=True)
    write_manifest(shuffled, str(tmp_path / "shuffled.parquet"), STORAGE)
    with pytest.raises(DataError, match="do not lie together"):
        cut(str(tmp_path / "shuffled.parquet"), str(tmp_path / "again"), STORAGE)
    assert not (tmp_path / "again" / INDEX).exists()


def test_the_description_changes_with_the_annotation_and_the_identity_does_not(screen):
    images = parse_run(run_of("x")).image
    build(screen)
    before = describe_manifest(str(screen / "manifest"), 18, STORAGE)
    first = sealed_keys(str(screen / "manifest"), images, STORAGE)
    build(screen, metadata=[str(screen / "well.csv")])
    after = describe_manifest(str(screen / "manifest"), 18, STORAGE)
    assert before["sha256"] != after["sha256"]
    assert first is not None
    assert first.equals(sealed_keys(str(screen / "manifest"), images, STORAGE))


# Commands


def test_the_command_takes_a_run_file_globs_and_a_manifest(screen, capsys, monkeypatch):
    section = {"files": [str(screen / GLOB)], "exclude": [{"where": {"Metadata_Plate": "P3"}, "reason": "bad plate"}]}
    raw = run_of(str(screen / "by_run"), load_data=section)
    (screen / "run.yaml").write_text(json.dumps(raw))

    def told(*arguments: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as ended:
            main(["manifest", *arguments, "--json"])
        assert ended.value.code == 0
        return json.loads(capsys.readouterr().out)

    assert told(str(screen / "run.yaml"))["excluded"] == {"bad plate": 6}
    assert told(str(screen / GLOB), "-o", str(screen / "by_glob"))["fovs"] == 18
    assert told(str(screen / GLOB), "-o", str(screen / "one.parquet"))["fovs"] == 18
    assert told(str(screen / "one.parquet"), "-o", str(screen / "cut"))["plates"] == 3
    assert pq.read_table(screen / "by_run" / INDEX)["rows"].to_pylist() == [6, 6]


def test_a_run_file_without_the_section_or_with_a_file_for_a_manifest_is_refused(screen, capsys):
    def refusal(raw: dict[str, Any]) -> str:
        (screen / "run.yaml").write_text(json.dumps(raw))
        with pytest.raises(SystemExit) as ended:
            main(["manifest", str(screen / "run.yaml")])
        assert ended.value.code == 2
        return capsys.readouterr().err

    assert "no section load_data" in refusal(run_of(str(screen / "m")))
    section = {"files": [str(screen / GLOB)]}
    assert "load_data makes a folder of files" in refusal(run_of(str(screen / "m.parquet"), load_data=section))
    bad = {**section, "exclude": [{"reason": "x"}]}
    assert "where (columns and values) or images is wanted" in refusal(run_of(str(screen / "m"), load_data=bad))
