"""Searching with a new image, and over patches: what is in the run finds itself; what cannot be done is said in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tifffile
import torch
from field_files import STAINS, Batch, write_fields
from run_files import copied, small_run

from sdvae_ray.commands.questions import Asked, search
from sdvae_ray.config import RunConfig
from sdvae_ray.engine.columns import kept_patches
from sdvae_ray.engine.encode import Encoder
from sdvae_ray.engine.files.load import Loader
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import autoencoder_engines, load_models, resolve_weights
from sdvae_ray.errors import ConfigError, DataError, SdvaeRayError
from sdvae_ray.queries.new_image import embed_field, image_query, manifest_query, search_image
from sdvae_ray.queries.search import nearest_profiles, search_row
from sdvae_ray.run import record as provenance
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.commits import read_fovs
from sdvae_ray.run.stored.table_files import write_wide_table
from sdvae_ray.run.stored.tables import read_column, write_rows
from sdvae_ray.schema import (
    COLOUR,
    EMBEDDING,
    FOV_ID,
    METADATA,
    PATCHES,
    WELL_COLUMN,
    embeddings_table,
    uri_column,
)
from sdvae_ray.scoring.indices.fov_index import build_fov_index
from sdvae_ray.sources.manifest.manifest import write_manifest
from sdvae_ray.storage import Storage, join

STORAGE = Storage()
CPU = torch.device("cpu")
COUNT, KEPT = 24, 2

Encoded = tuple[RunConfig, Batch]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    """24 fields through `intensity`, and `latent` of an autoencoder of random weights; their manifest and record written."""
    folder = tmp_path_factory.mktemp("encoded")
    config = small_run(folder, metrics=["mae"], autoencoders={"identity": None}, score={"fov_index": {}})
    fields = write_fields(folder / "images", COUNT, illumination=True)
    fields[COLOUR] = np.array([None] * COUNT, object)
    write_manifest(pl.DataFrame({name: values.tolist() for name, values in fields.items()}), config.manifest, STORAGE)
    resolved = resolve_weights(config, STORAGE)
    encoder = Encoder(config, load_models(config, resolved, CPU), Forward(CPU, "float32"), 8)
    write_rows(config.output, "all", encoder(Loader(config.image, config.storage)(fields)), STORAGE)
    weights = {name: found.record() for name, found in resolved.items()}
    manifest = {"uri": config.manifest, "fovs": COUNT, "sha256": "0" * 64}
    provenance.write_record(
        config.output,
        provenance.new_record(
            config, manifest, weights, 8, "float32", engines=autoencoder_engines(config, resolved, None)
        ),
        STORAGE,
    )
    return config, fields


@pytest.fixture
def run(encoded: Encoded, tmp_path: Path) -> Encoded:
    """A copy of the run whose output the test may change; its pixels are the shared ones."""
    return copied(encoded, tmp_path)


@pytest.fixture(scope="module")
def indexed(local_ray: None, encoded: Encoded, tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    """A copy of the run with indices of FOVs and of patches, which no test changes."""
    config, fields = copied(encoded, tmp_path_factory.mktemp("indexed"))
    fovs = read_fovs(config.output, STORAGE)
    build_fov_index(Run(config), fovs, "intensity", "image")
    build_fov_index(Run(config), fovs, "latent", "tiny")
    build_fov_index(Run(config), fovs, "intensity", "image", level="patch")
    return config, fields


def profiles(config: RunConfig) -> str:
    """The folder of profiles as `score` writes them, of one FOV per well, three files."""
    fovs = read_fovs(config.output, STORAGE)
    ids, values = read_column(config.output, embeddings_table("intensity", "image"), EMBEDDING, fovs, STORAGE)
    flat = values.reshape(len(ids), -1).astype(np.float32)
    names = [f"intensity_{number}" for number in range(flat.shape[1])]
    metadata = pl.DataFrame({FOV_ID: ids}).join(fovs, on=FOV_ID).select(f"^{METADATA}.*$")
    table = pl.concat([metadata, pl.DataFrame(flat, schema=names)], how="horizontal")
    folder = join(config.output, "profiles", "intensity", "image")
    for part in range(3):
        write_wide_table(join(folder, "s", "b", f"P{part}.parquet"), table[part::3].to_arrow(), STORAGE)
    return folder


# A new image


@pytest.mark.parametrize(("extractor", "side"), [("intensity", "image"), ("latent", "tiny")])
def test_a_field_of_the_run_gets_the_embedding_that_the_run_stored(run, extractor, side):
    config, fields = run
    fovs = read_fovs(config.output, STORAGE)
    for column, patches in ((EMBEDDING, False), (PATCHES, True)):
        name = fields[FOV_ID][3]
        row = fovs.filter(pl.col(FOV_ID) == name)
        _, stored = read_column(config.output, embeddings_table(extractor, side), column, row, STORAGE)
        query = manifest_query(Run(config), config.manifest, name)
        made = embed_field(Run(config), query.row, extractor, side, patches=patches)
        if patches:
            assert len(made) == config.image.patches
            made = made[kept_patches(config, extractor, name, config.image.patches)]
        np.testing.assert_array_equal(made.astype(np.float16), stored[0])


def test_a_field_of_the_run_finds_itself_first(indexed):
    config, fields = indexed
    for extractor, side, note in (
        ("intensity", "image", False),
        ("latent", "tiny", True),
    ):
        query = manifest_query(Run(config), config.manifest, fields[FOV_ID][7])
        found, about = search_image(Run(config), query, extractor, side, 3)
        assert found[FOV_ID][0] == fields[FOV_ID][7]
        assert found["similarity"][0] == pytest.approx(1, abs=1e-5)
        assert found["similarity"][1] < found["similarity"][0]
        assert found["Metadata_broad_sample"][0] == "BRD-8"
        assert ("note" in about) == note  # random weights say so
    assert "tiny has random weights" in about["note"]


def test_files_named_by_stain_are_the_row_of_a_manifest_without_illumination(indexed):
    config, fields = indexed
    files = [f"{stain}={fields[uri_column(stain)][2]}" for stain in reversed(STAINS)]
    query = image_query(Run(config), files)
    bare = dict(manifest_query(Run(config), config.manifest, fields[FOV_ID][2]).row)
    bare |= {name: np.array([None], object) for name in bare if name.startswith("illum_")}
    one, other = (embed_field(Run(config), row, "intensity", "image") for row in (query.row, bare))
    np.testing.assert_array_equal(one, other)
    _, about = search_image(Run(config), query, None, None, 3)
    assert "no illumination function" in about["note"]
    assert (about["extractor"], about["side"]) == ("latent", "tiny")  # the first of the run


def test_one_file_with_the_planes_of_all_stains_is_the_same_image(indexed, tmp_path):
    config, fields = indexed
    files = [fields[uri_column(stain)][2] for stain in STAINS]
    stack = tmp_path / "a=b.tif"
    tifffile.imwrite(stack, np.stack([tifffile.imread(file) for file in files]))
    one = embed_field(Run(config), image_query(Run(config), [str(stack)]).row, "intensity", "image")
    named = [f"{stain}={file}" for stain, file in zip(STAINS, files, strict=True)]
    other = embed_field(Run(config), image_query(Run(config), named).row, "intensity", "image")
    np.testing.assert_array_equal(one, other)


def test_without_an_index_of_fovs_the_wells_are_searched_by_their_profiles(run):
    config, fields = run
    profiles(config)
    query = manifest_query(Run(config), config.manifest, fields[FOV_ID][7])
    found, about = search_image(Run(config), query, None, None, 5)
    assert (about["extractor"], about["side"]) == ("intensity", "image")
    assert found.height == 5
    assert found["Metadata_Well"][0] == fields[WELL_COLUMN][7]
    assert found["similarity"][0] == pytest.approx(1, abs=1e-5)
    assert "not normalised" in about["group"]
    assert about["well"].endswith(fields[FOV_ID][7])


def test_profiles_are_searched_plate_by_plate_as_brute_force_does(run):
    config, _ = run
    folder = profiles(config)
    table = pl.read_parquet(f"{folder}/**/*.parquet")
    x = table.select(pl.exclude(f"^{METADATA}.*$")).to_numpy().astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    vector = np.random.default_rng(0).normal(size=x.shape[1])
    cosine = x @ vector / np.linalg.norm(vector)
    found = nearest_profiles(folder, vector, 7, STORAGE)
    order = np.argsort(-cosine)[:7]
    assert found["Metadata_Well"].to_list() == [table["Metadata_Well"][int(at)] for at in order]
    np.testing.assert_allclose(found["similarity"], cosine[order], atol=1e-6)
    with pytest.raises(DataError, match="features, the image's embedding 3"):
        nearest_profiles(folder, vector[:3], 7, STORAGE)


# Patches


def test_the_numbers_of_the_kept_patches_are_those_of_the_engine(run):
    config, fields = run
    whole = embed_field(
        Run(config),
        manifest_query(Run(config), config.manifest, fields[FOV_ID][0]).row,
        "intensity",
        "image",
        patches=True,
    )
    row = read_fovs(config.output, STORAGE).filter(pl.col(FOV_ID) == fields[FOV_ID][0])
    _, stored = read_column(config.output, embeddings_table("intensity", "image"), PATCHES, row, STORAGE)
    numbers = [
        int(np.abs(whole.astype(np.float16) - patch).reshape(len(whole), -1).sum(axis=1).argmin())
        for patch in stored[0]
    ]
    assert numbers == kept_patches(config, "intensity", fields[FOV_ID][0], config.image.patches).tolist()


def test_a_patch_finds_what_brute_force_over_all_patches_finds_by_key(indexed):
    config, _ = indexed
    fovs = read_fovs(config.output, STORAGE)
    names, values = read_column(config.output, embeddings_table("intensity", "image"), PATCHES, fovs, STORAGE)
    keys = [
        (name, int(patch)) for name in names for patch in kept_patches(config, "intensity", name, config.image.patches)
    ]
    flat = values.reshape(len(keys), -1).astype(np.float64)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    asked = 9
    cosine = flat @ flat[asked]
    order = [at for at in np.argsort(-cosine) if at != asked][:5]
    found, about = search_row(Run(config), *keys[asked], None, None, 5)
    assert list(zip(found[FOV_ID], found["patch"], strict=True)) == [keys[at] for at in order]
    np.testing.assert_allclose(found["similarity"], cosine[order], atol=1e-5)
    assert (about["fov"], about["patch"]) == (keys[asked][0], str(keys[asked][1]))
    query = manifest_query(Run(config), config.manifest, keys[asked][0])
    same, _ = search_image(Run(config), query, "intensity", None, 5, patch=keys[asked][1])
    assert (same[FOV_ID][0], same["patch"][0]) == keys[asked]
    record = json.loads(STORAGE.read_bytes(join(config.output, "index/intensity/image/patches.json")))
    assert (record["level"], record["patches_per_fov"], record["queries"]) == ("patch", KEPT, COUNT * KEPT // 10 // 2)


# What cannot be done


def test_what_cannot_be_searched_is_said_in_one_line(indexed, tmp_path, write_tiff):
    config, fields = indexed
    uris = {stain: str(fields[uri_column(stain)][0]) for stain in STAINS}
    files = [f"{stain}={uri}" for stain, uri in uris.items()]
    small = write_tiff(tmp_path / "small.tif", np.zeros((99, 99), np.uint16))
    empty = config.model_copy(update={"output": str(tmp_path / "nothing")})
    manual = config.image.model_copy(update={"scaling": config.image.scaling.model_copy(update={"method": "manifest"})})
    transposed = config.model_copy(update={"image": config.image.model_copy(update={"transpose": True})})
    patch = kept_patches(config, "intensity", fields[FOV_ID][0], config.image.patches)
    lost = next(number for number in range(config.image.patches) if number not in patch)

    def image(given: list[str], of: RunConfig = config, **more: Any) -> None:
        asked = {"extractor": None, "side": None, "count": 3, **more}
        search_image(Run(of), image_query(Run(of), given), **asked)

    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: image(files[1:]), "no file of the stain 'Mito'"),
        (lambda: image([*files, files[0]]), "Mito is there twice"),
        (lambda: image([f"Mitoo={uris['Mito']}", *files[1:]]), "did you mean 'Mito'"),
        (lambda: image([*files[1:], uris["Mito"]]), "STAIN=FILE is wanted"),
        (lambda: image([f"Mito={small}", *files[1:]]), "which is 99 x 99"),
        (lambda: image([f"Mito={tmp_path}/gone.tif", *files[1:]]), "gone.tif"),
        (lambda: image([uris["Mito"]]), "has 1 planes, plane 1 is wanted"),
        (lambda: image(files, extractor="intensty"), "did you mean 'intensity'"),
        (lambda: image(files, side="tinny"), "did you mean 'tiny'"),
        (lambda: image(files, extractor="intensity", patch=4), "the patches 0 to 3"),
        (lambda: image(files, extractor="latent", patch=1), "(allowed: intensity)"),
        (lambda: image(files, empty), "run `sdvae-ray score` first"),
        (lambda: image(files, transposed), "image.transpose = False"),
        (lambda: image(files, config.model_copy(update={"image": manual})), "constants of its manifest"),
        (lambda: manifest_query(Run(config), config.manifest, None), "24 rows: --fov ID"),
        (lambda: manifest_query(Run(config), config.manifest, "source_1/batch 1/P1/A01/2"), "did you mean"),
        (lambda: manifest_query(Run(config), str(tmp_path / "m.parquet"), None), "no manifest at"),
        (
            lambda: search_row(Run(config), fields[FOV_ID][0], lost, None, None, 3),
            "was not kept by intensity",
        ),
        (
            lambda: embed_field(Run(config), image_query(Run(config), files).row, "latent", "image"),
            "--side tiny",
        ),
        (
            lambda: build_fov_index(
                Run(
                    config.model_copy(
                        update={
                            "extractors": {"latent": config.extractors["latent"].model_copy(update={"keep_patches": 0})}
                        }
                    )
                ),
                read_fovs(config.output, STORAGE),
                "latent",
                "tiny",
                level="patch",
            ),
            "keep_patches is 0",
        ),
    ]
    for call, words in cases:
        with pytest.raises((ConfigError, DataError)) as caught:
            call()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "asked",
    [
        Asked(),
        Asked(well="P1/A01", fov="f"),
        Asked(images=["a.tif"], fov="f"),
        Asked(images=["a.tif"], manifest="m.parquet"),
        Asked(well="P1/A01", patch=1),
    ],
)
def test_one_thing_is_searched_for_at_a_time(run, asked):
    with pytest.raises(SdvaeRayError) as caught:
        search(run[0], asked, None, None, 3, console=None, as_json=True)
    assert "search: " in str(caught.value)


def test_the_command_answers_with_the_note(indexed, capsys):
    from rich.console import Console

    config, fields = indexed
    search(
        Run(config),
        Asked(manifest=config.manifest, fov=fields[FOV_ID][4]),
        "latent",
        "tiny",
        2,
        Console(),
        as_json=True,
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer["neighbours"][0][FOV_ID] == fields[FOV_ID][4]
    assert "random weights" in answer["note"]
    assert Path(config.output).is_dir()
