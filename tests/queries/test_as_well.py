"""A new image as a well of a plate of the run: it finds itself in the normalised index; what stands in the way is said."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from field_files import STAINS, Batch, write_fields
from rich.console import Console
from run_files import copied, small_run

from sdvae_ray.commands.questions import Asked, search
from sdvae_ray.config import RunConfig
from sdvae_ray.engine.encode import Encoder
from sdvae_ray.engine.files.load import Loader
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import load_models, resolve_weights
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.queries.as_well import nearest_wells, on_plate
from sdvae_ray.queries.new_image import image_query, manifest_query, search_image
from sdvae_ray.queries.saved_index import open_index, saved
from sdvae_ray.retrieval.index import faiss_index
from sdvae_ray.retrieval.normalisation import saved_fit
from sdvae_ray.retrieval.normalisation.contract import Corrected
from sdvae_ray.retrieval.normalisation.normalise import normalise
from sdvae_ray.retrieval.normalisation.steps.harmony import NO_FIT
from sdvae_ray.run import record as provenance
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.commits import read_fovs
from sdvae_ray.run.stored.table_files import write_table
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.schema import BATCH_COLUMN, COLOUR, FOV_ID, PLATE_COLUMN, WELL_COLUMN, WELL_KEY, fov_id, uri_column
from sdvae_ray.scoring.indices.fov_index import build_fov_index
from sdvae_ray.scoring.score import score
from sdvae_ray.settings.score import FovIndexConfig
from sdvae_ray.sources.manifest.manifest import write_manifest
from sdvae_ray.storage import Storage, join

STORAGE, SILENT = Storage(), Console(quiet=True)
CPU = torch.device("cpu")
COUNT, PLATES, CONTROLS = 32, 2, 8  # wells, plates, controls of a plate
INDEX = "index/intensity/image"
EACH = COUNT // PLATES
ASKED = 13  # a treated well of the first plate

Encoded = tuple[RunConfig, Batch]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    """Two plates of 16 wells of one field through `intensity`, 8 of each controls; `Metadata_lab` is one for a plate."""
    folder = tmp_path_factory.mktemp("encoded")
    config = small_run(
        folder,
        metrics=[],
        autoencoders={"tiny": None},
        extractors={"latent": None},
        score={"null_size": 100, "floor_repeats": 1, "tasks": []},
    )
    fields = write_fields(folder / "images", COUNT)
    rows = []
    for number in range(COUNT):
        row = {name: values[number] for name, values in fields.items()}
        row |= {PLATE_COLUMN: f"P{number // EACH + 1}", WELL_COLUMN: f"A{number % EACH + 1:02d}", COLOUR: None}
        control = number % EACH < CONTROLS
        treatment = None if control else f"BRD-{number % 4}"
        row |= {"Metadata_control_type": "negcon" if control else None, "Metadata_broad_sample": treatment}
        rows.append(row | {FOV_ID: fov_id(row), "Metadata_lab": f"lab {number // EACH}"})
    fields = {name: np.array([row[name] for row in rows], object) for name in rows[0]}
    write_manifest(pl.DataFrame({name: values.tolist() for name, values in fields.items()}), config.manifest, STORAGE)
    resolved = resolve_weights(config, STORAGE)
    encoder = Encoder(config, load_models(config, resolved, CPU), Forward(CPU, "float32"), 8)
    write_rows(config.output, "all", encoder(Loader(config.image, config.storage)(fields)), STORAGE)
    manifest = {"uri": config.manifest, "fovs": COUNT, "sha256": "0" * 64}
    provenance.write_record(config.output, provenance.new_record(config, manifest, {}, 8, "float32"), STORAGE)
    return config, fields


@pytest.fixture
def run(encoded: Encoded, tmp_path: Path) -> Encoded:
    """A copy of the run whose output the test may change; its pixels are the shared ones."""
    return copied(encoded, tmp_path)


@pytest.fixture(scope="module")
def published(local_ray: None, encoded: Encoded, tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    """A copy of the run, scored with the published normalisation."""
    config, fields = copied(encoded, tmp_path_factory.mktemp("published"))
    score(Run(config), SILENT)
    return config, fields


@pytest.fixture
def scored(published: Encoded, tmp_path: Path) -> Encoded:
    """A copy of the scored run whose output the test may change."""
    return copied(published, tmp_path)


def files_of(fields: Batch, number: int) -> list[str]:
    return [f"{stain}={fields[uri_column(stain)][number]}" for stain in STAINS]


TVN = ({"tvn": {"components": 5}},)


@pytest.mark.parametrize(
    ("steps", "batch"),
    [
        ("published", None),
        ("plate_standardise", None),
        (TVN, None),
        (TVN, "Metadata_lab"),
        (("mad_robustize", {"sphere": {"per": "plate"}}), None),
    ],
)
def test_an_image_of_the_run_finds_its_own_well_in_the_normalised_index(local_ray, run, steps, batch):
    config, fields = run
    asked = config.score.model_copy(update={"normalise": steps, "batch": batch})
    config = config.model_copy(update={"score": asked})
    score(Run(config), SILENT)
    assert saved(Run(config)) == ["intensity/identity/all", "intensity/image/all"]
    for number, side in ((ASKED, "image"), (COUNT - 1, "identity")):
        query = manifest_query(Run(config), config.manifest, fields[FOV_ID][number])
        found, about = search_image(Run(config), query, None, side, 5)
        assert found.select(PLATE_COLUMN, WELL_COLUMN).row(0) == (
            fields[PLATE_COLUMN][number],
            fields[WELL_COLUMN][number],
        )
        assert found["Metadata_broad_sample"][0] == fields["Metadata_broad_sample"][number]
        assert found["similarity"][0] == pytest.approx(1, abs=1e-5)
        index = open_index(Run(config), f"intensity/{side}/all")
        same = index.nearest(
            index.index.reconstruct(number), 5
        )  # a well's id is its row: wells are sorted by their keys
        np.testing.assert_allclose(found["similarity"], same["similarity"], atol=1e-5)
        assert found[WELL_COLUMN].to_list() == same[WELL_COLUMN].to_list()
        assert (about["side"], about["group"]) == (side, "all")
        assert about["as"] == f"normalised as a well of plate source_1/batch 1/{fields[PLATE_COLUMN][number]}"
        assert "note" not in about


def test_a_plate_is_named_for_an_image_of_files_and_preferred_to_the_index_of_fovs(scored):
    config, fields = scored
    query = image_query(Run(config), files_of(fields, ASKED))
    for name in ("P1", "source_1/batch 1/P1"):
        found, about = search_image(Run(config), query, None, None, 3, plate=name)
        assert found[WELL_COLUMN][0] == fields[WELL_COLUMN][ASKED]
        assert found["similarity"][0] == pytest.approx(1, abs=1e-5)  # this run has no illumination functions
    other, about = search_image(Run(config), query, None, None, 3, plate="P2")
    assert about["as"].endswith("batch 1/P2")
    assert other["similarity"][0] < 0.999
    asking = config.score.model_copy(update={"fov_index": FovIndexConfig()})
    config = config.model_copy(update={"score": asking})
    build_fov_index(Run(config), read_fovs(config.output, STORAGE), "intensity", "image")
    of_fovs, about = search_image(Run(config), query, None, None, 3)
    assert FOV_ID in of_fovs.columns
    again, about = search_image(Run(config), query, None, None, 3, plate="P1")
    assert again.equals(found)
    assert "well" in about


def test_without_a_plate_the_profiles_are_searched_and_the_note_says_what_would_do_better(scored):
    config, fields = scored
    query = image_query(Run(config), files_of(fields, ASKED))
    found, about = search_image(Run(config), query, None, None, 3)
    assert found["similarity"].min() > 0.9  # alike, all of them
    assert "not normalised: --plate NAME" in about["note"]
    strange = manifest_query(Run(config), config.manifest, fields[FOV_ID][ASKED])
    strange.row[PLATE_COLUMN][0] = "P9"
    _, about = search_image(Run(config), strange, None, None, 3)
    assert "its plate P9 is not of the run; --plate NAME" in about["note"]
    with pytest.raises(
        DataError, match=r"no plate 'P11' in the index of wells of intensity on image; did you mean 'P1'\?"
    ):
        search_image(Run(config), query, None, None, 3, plate="P11")
    with pytest.raises(DataError, match="did you mean 'image'"):
        search_image(Run(config), query, None, "imgae", 3, plate="P1")


def test_harmony_a_fit_that_is_damaged_and_a_run_scored_before_fits_were_stored_say_so(scored):
    config, fields = scored
    path = Path(join(config.output, INDEX, "all.fit.npz"))
    query = manifest_query(Run(config), config.manifest, fields[FOV_ID][ASKED])
    cases: list[tuple[bytes | None, str]] = [
        (saved_fit.to_bytes([Corrected(np.zeros((COUNT, 3)), NO_FIT)]), "harmony moves the wells it was given"),
        (b"rubbish", "7 bytes are no readable fit"),
        (None, "saved without the fit of its normalisation: run `sdvae-ray score` again"),
    ]
    for data, words in cases:
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        found, about = search_image(Run(config), query, None, None, 3)
        assert found[WELL_COLUMN][0] == fields[WELL_COLUMN][ASKED]
        assert about["group"] == "all wells, profiles not normalised"
        assert words in about["note"]
        with pytest.raises(DataError) as caught:
            search_image(Run(config), query, None, None, 3, plate="P1")
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        path.touch()


def test_several_groups_on_a_plate_and_several_plates_of_a_name_are_said(scored):
    config, fields = scored
    root = Path(join(config.output, INDEX))
    for end in ("faiss", "parquet", "fit.npz"):
        (root / f"b.{end}").write_bytes((root / f"all.{end}").read_bytes())
    table = pl.read_parquet(root / "b.parquet")
    table.with_columns(group=pl.lit("b")).write_parquet(root / "b.parquet")
    query = image_query(Run(config), files_of(fields, ASKED))
    _, about = search_image(Run(config), query, None, None, 3, plate="P1")
    assert about["group"] == "all"
    assert "wells of b are on plate P1 too, not searched" in about["note"]
    table.with_columns(pl.lit("batch 2").alias(BATCH_COLUMN)).write_parquet(root / "b.parquet")
    with pytest.raises(DataError, match="2 plates .* --plate source_1/batch 1/P1 or source_1/batch 2/P1"):
        search_image(Run(config), query, None, None, 3, plate="P1")
    _, about = search_image(Run(config), query, None, None, 3, plate="source_1/batch 1/P1")
    assert about["group"] == "all"
    own = manifest_query(Run(config), config.manifest, fields[FOV_ID][ASKED])
    assert search_image(Run(config), own, None, None, 3)[1]["as"].endswith("source_1/batch 1/P1")


def test_the_command_prints_it_and_gives_all_of_it_as_json(scored, capsys):
    config, fields = scored
    asked = Asked(images=files_of(fields, ASKED), plate="P1")
    search(Run(config), asked, None, None, 3, Console(width=120))
    said = capsys.readouterr().out
    assert "normalised as a well of plate source_1/batch 1/P1" in " ".join(said.split())
    assert "1.0000" in said
    search(Run(config), asked, None, None, 3, Console(width=120), as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert answer["as"] == "normalised as a well of plate source_1/batch 1/P1"
    assert answer["group"] == "all"
    assert "illumination" in answer["note"]
    assert answer["neighbours"][0][WELL_COLUMN] == fields[WELL_COLUMN][ASKED]
    for wrong in (Asked(well="P1/A01", plate="P1"), Asked(fov="f", plate="P1"), asked._replace(patch=1)):
        with pytest.raises(ConfigError, match="--plate names the plate of a whole new image"):
            search(Run(config), wrong, None, None, 3, SILENT)


def test_a_fit_in_a_bucket_is_read_and_its_absence_said(s3, small_run_config, tmp_path, monkeypatch):
    monkeypatch.setenv("SDVAE_RAY_CACHE", str(tmp_path / "cache"))
    config = small_run_config(storage=s3.config.model_dump(), output=s3.prefix)
    plate = np.repeat(["s/b/P1", "s/b/P2"], 20)
    x = np.random.default_rng(0).normal(size=(40, 6)) + 100
    made = normalise(x, np.ones(40, bool), plate, "plate_standardise")
    wells = pl.DataFrame([(*key.split("/"), f"W{row:02d}", "b") for row, key in enumerate(plate)], orient="row")
    wells.columns = [*WELL_KEY, "group"]
    stem = join(s3.prefix, INDEX, "b")
    write_table(f"{stem}.parquet", wells.with_row_index("id").to_arrow(), s3.storage)
    s3.storage.write_bytes(f"{stem}.faiss", faiss_index.to_bytes(faiss_index.build(made.features)))
    with pytest.raises(DataError, match="without the fit"):
        on_plate(Run(config), "P2", None, None)
    s3.storage.write_bytes(f"{stem}.fit.npz", saved_fit.to_bytes(made.chain))
    place = on_plate(Run(config), "P2", None, None)
    assert (place.name, place.group, place.plate, place.batch) == ("intensity/image/b", "b", "s/b/P2", "s/b/P2")
    found, _ = nearest_wells(Run(config), x[33].astype(np.float32), place, 3)
    assert found[WELL_COLUMN][0] == "W33"
    assert found["similarity"][0] == pytest.approx(1, abs=1e-5)
