"""Image policies: what a run file may say, what the loader makes of a field, and tables of several numbers of patches."""

import io
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tifffile
import torch
from mixed_screen import mixed_run, write_screen
from straight_line import engine, expected_values, stored_values
from torch.nn.functional import interpolate

from sdvae_ray.config import RunConfig, StorageConfig
from sdvae_ray.encoding.pending import pending
from sdvae_ray.encoding.start import checked_manifest, probe
from sdvae_ray.encoding.survey import survey
from sdvae_ray.engine.compress import Compressor
from sdvae_ray.engine.encode import auto_micro_batch
from sdvae_ray.engine.files.load import IMAGE, Batch, Loader
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.images.header import read_header
from sdvae_ray.images.prepare import resample
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.compaction import delete_old, plan, rewrite
from sdvae_ray.run.stored.field_values import joined, of_patches, per_field
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.run.stored.verify import verify
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import CROP, ERROR, FOV_ID
from sdvae_ray.settings.image import ImageConfig

SOURCES = 4  # one of every geometry
RUN = {"manifest": "m.parquet", "output": "run", "autoencoders": {"pca": {"name": "patch_pca"}}}


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    write_screen(folder, SOURCES, plates=2, bad=2)
    return folder


@pytest.fixture
def config(screen: Path, tmp_path: Path) -> RunConfig:
    return mixed_run(screen, SOURCES, output=str(tmp_path / "run"))


def rows_of_source(config: RunConfig, name: str) -> Batch:
    table = pl.read_parquet(config.manifest).filter(pl.col("Metadata_Source") == name)
    return {column: np.array(table[column].to_list(), object) for column in table.columns}


def image_of(**image: object) -> dict[str, object]:
    return {**RUN, "image": image}


@pytest.mark.parametrize(
    ("image", "line"),
    [
        (
            {"policies": {"values": {"s": {"crop": 1000}}}},
            "policies.values.s: crop 1000 is not a multiple of image.patch 256",
        ),
        (
            {"policies": {"values": {"s": {"pixel_um": 0.6}}}},
            "policies.values.s: pixel_um: image.pixel_um is wanted too",
        ),
        (
            {"pixel_um": 0.5, "policies": {"values": {"s": {}}}},
            "policies.values.s: pixel_um is missing: what is resampled to image.pixel_um 0.5?",
        ),
        ({"pixel_um": 0.5}, "pixel_um: policies are wanted too"),
        (
            {"pixel_um": 0.5, "resize": 1024, "policies": {"values": {"s": {"pixel_um": 1}}}},
            "pixel_um and resize do not go",
        ),
        (
            {"scaling": {"method": "manifest"}, "policies": {"values": {"s": {"divisor": 2}}}},
            "policies.values.s: divisor: image.scaling.method manifest takes the constants of the manifest",
        ),
        ({"policies": {"values": {"s": {"patch": 128}}}}, "unknown key 'image.policies.values.s.patch'"),
        ({"policies": {"values": {}}}, "image.policies.values: Dictionary should have at least 1 item"),
        ({"policies": {"column": "Source", "values": {"s": {}}}}, "image.policies.column: String should match pattern"),
    ],
)
def test_a_mistake_in_policies_is_one_line(image, line):
    with pytest.raises(ConfigError) as error:
        parse_run(image_of(**image))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_policies_are_part_of_the_digest_and_their_absence_is_not():
    plain = parse_run(RUN)
    assert "policies" not in plain.identity()["image"]
    assert "pixel_um" not in plain.identity()["image"]
    mixed = [parse_run(image_of(policies={"values": {"s": {"crop": crop}}})) for crop in (512, 768)]
    assert len({run.digest() for run in (plain, *mixed)}) == 3
    assert mixed[0].image.patches == 4
    assert mixed[0].image.policy_of({"Metadata_Source": "s"}).patches == 4


def test_the_micro_batch_is_of_the_policy_with_the_fewest_patches():
    values = {"a": {"crop": 1024}, "b": {"crop": 768}}
    run = parse_run(image_of(policies={"values": values}))
    assert auto_micro_batch(run, on_gpu=True) == 9 * 2
    assert auto_micro_batch(parse_run(RUN), on_gpu=True) == 16 * 2


def test_a_value_without_a_policy_names_its_row(screen, config):
    values = {f"source_{number}": {"pixel_um": 1.2} for number in (1, 2, 3, 9)}
    image = ImageConfig(
        stains=("DNA", "ER"), packing="grey", crop=64, patch=64, pixel_um=1, policies={"values": values}
    )
    run = Run(config.model_copy(update={"image": image}))
    with pytest.raises(
        DataError, match=r"row 49: Metadata_Source is 'source_4', for which image.policies has no policy; did you"
    ):
        checked_manifest(run)
    table = pl.read_parquet(config.manifest).with_columns(Metadata_Scope=pl.lit(None, pl.String))
    table.write_parquet(config.manifest + ".scope")
    by_scope = image.model_copy(update={"policies": image.policies.model_copy(update={"column": "Metadata_Scope"})})
    run = Run(config.model_copy(update={"image": by_scope, "manifest": config.manifest + ".scope"}))
    with pytest.raises(DataError, match="row 1: Metadata_Scope is empty"):
        checked_manifest(run)
    run = Run(config.model_copy(update={"image": by_scope}))
    with pytest.raises(DataError, match="has no column Metadata_Scope, by which image.policies chooses"):
        checked_manifest(run)


def test_a_policy_that_no_field_has_is_a_note(config):
    image = config.image.model_dump()
    image["policies"]["values"]["source_77"] = {"pixel_um": 1}
    notes: list[str] = []
    checked_manifest(Run(config.model_copy(update={"image": ImageConfig(**image)})), notes.append)
    assert "note: image.policies.values.source_77: no FOV of the manifest has this Metadata_Source" in notes


def test_a_source_by_its_policy_has_the_bytes_of_a_run_with_a_plain_section(config):
    by_policy = Loader(config.image, StorageConfig())(rows_of_source(config, "source_3"))
    plain_image = ImageConfig(stains=("DNA", "ER"), packing="grey", crop=128, patch=64)
    plain = Loader(plain_image, StorageConfig())(rows_of_source(config, "source_3"))
    assert (plain[ERROR] == "").sum() == 8  # the bad plate has reasons
    for name, values in plain.items():
        if name not in ("seconds_load", "load_node"):
            np.testing.assert_array_equal(by_policy[name], values)


def test_a_divisor_of_a_policy_is_that_of_a_plain_section(config):
    image = config.image.model_dump()
    image["policies"]["values"]["source_1"]["divisor"] = 100
    rows = rows_of_source(config, "source_1")
    by_policy = Loader(ImageConfig(**image), StorageConfig())(rows)
    plain_image = ImageConfig(stains=("DNA", "ER"), packing="grey", crop=128, patch=64, scaling={"divisor": 100})
    np.testing.assert_array_equal(by_policy[IMAGE], Loader(plain_image, StorageConfig())(rows)[IMAGE])


def test_a_resampled_field_is_corrected_resampled_cropped_and_scaled(config):
    rows = rows_of_source(config, "source_4")  # 128 x 128 at 1.3, to 138 x 138 at 1.2 micrometres
    loaded = Loader(config.image, StorageConfig())(rows)
    plane, function = tifffile.imread(rows["uri_ER"][0]), np.load(rows["illum_ER"][0])
    zoom, pixels = 1.3 / 1.2, (plane / function).astype(np.float64)
    places = 63.5 + (np.arange(138) - 68.5) / zoom  # of the new pixels in the old plane: middle on middle
    weights = np.clip(1 - np.abs(places[:, None] - np.arange(128)), 0, None)  # a plane that grows: of two neighbours
    weights /= weights.sum(1, keepdims=True)
    slow = weights @ pixels @ weights.T
    expected = np.clip(slow[5:133, 5:133] / 256, 0, 255).astype(np.uint8)
    patches = loaded[IMAGE][0][:, 1]
    field = np.block([[patches[0], patches[1]], [patches[2], patches[3]]])
    assert np.abs(field.astype(int) - expected).max() <= 1  # float32 before the truncation
    assert (field == expected).mean() > 0.99


def test_shrinking_averages_as_torch_does_with_antialias():
    plane = np.random.default_rng(0).integers(0, 4000, (120, 90)).astype(np.uint16)
    shrunk = resample(plane, 0.5)
    reference = interpolate(
        torch.from_numpy(plane.astype(np.float32))[None, None], (60, 45), mode="bilinear", antialias=True
    )[0, 0].numpy()
    assert shrunk.dtype == np.float32
    np.testing.assert_allclose(shrunk, reference, atol=0.01)


@pytest.mark.parametrize("zoom", [0.31, 0.77, 1.083, 1.9])
def test_a_ramp_keeps_its_middle_and_gets_the_slope_of_the_new_pixels(zoom):
    ramp = np.arange(101, dtype=np.float32)[None].repeat(101, 0)
    line = resample(ramp, zoom)[50 % int(101 * zoom)]
    inner = line[4:-4]
    np.testing.assert_allclose((inner[-1] - inner[0]) / (len(inner) - 1), 1 / zoom, rtol=2e-3)
    np.testing.assert_allclose((line[0] + line[-1]) / 2, 50, atol=0.3)
    np.testing.assert_allclose(inner.mean(), 50, atol=1e-2)


def test_a_header_is_that_of_the_pixels(tmp_path):
    for dtype in (np.uint8, np.uint16):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.zeros((30, 20), dtype))
        buffer.seek(0)
        assert read_header(buffer, "here") == (30, 20, dtype.__name__)
    with pytest.raises(ValueError, match="no image by its header: there"):
        read_header(io.BytesIO(b"nothing of the kind"), "there")


def test_the_survey_finds_every_size_of_every_source(config):
    seen, lines = survey(Run(config), checked_manifest(Run(config)))
    sizes = {(group.value, group.header[:2]) for group in seen}
    assert sizes == {
        ("source_1", (135, 135)),
        ("source_2", (121, 121)),
        ("source_3", (135, 160)),
        ("source_3", (40, 40)),
        ("source_4", (128, 128)),
    }
    assert [group.fits for group in seen if group.header[:2] == (40, 40)] == [False]
    assert lines[0] == "fields    8 headers read, of 8 plates one field at most"
    assert any("source_2: 121 x 121 uint16, 90 x 90 as resampled" in line for line in lines)
    (note,) = [line for line in lines if line.startswith("note")]
    assert "crop 128 does not fit 40 x 40, the size of fields of source_3/batch_2" in note


def test_a_crop_that_fits_no_field_of_a_source_is_refused_before_the_start(config):
    image = config.image.model_dump()
    image["policies"]["values"]["source_2"]["crop"] = 128
    run = Run(config.model_copy(update={"image": ImageConfig(**image)}))
    keys = checked_manifest(run)
    for check in (survey, probe):
        with pytest.raises(ConfigError, match=r"image.policies.values.source_2.crop: crop 128 does not fit .*90 x 90"):
            check(run, keys)


def test_a_stream_has_fields_of_one_crop(config):
    works = pending(Run(config), checked_manifest(Run(config)))
    assert [(work.keys[CROP].unique().to_list(), work.keys.height) for work in works] == [([128], 48), ([64], 16)]
    assert len({work.wanted for work in works}) == 1


@pytest.fixture(scope="module")
def first_written(screen: Path) -> RunConfig:
    """The screen through the engine without Ray: files of one crop, in batches of five."""
    config = mixed_run(screen, SOURCES, output=str(screen / "first"))
    run, encoder, compressor = Run(config), engine(config), Compressor.of(config)
    loader = Loader(config.image, config.storage)
    table = pl.read_parquet(config.manifest)
    for number, work in enumerate(pending(run, checked_manifest(run))):
        rows = table.join(work.keys.select(FOV_ID), on=FOV_ID, how="semi", maintain_order="left")
        for start in range(0, rows.height, 5):
            part = rows.slice(start, 5)
            batch = {name: np.array(part[name].to_list(), object) for name in part.columns}
            write_rows(config.output, f"first-{number}-{start}", encoder(compressor(loader(batch))), run.storage)
    return config


def test_tables_of_two_shapes_are_read_compacted_and_verified(first_written, config):
    shutil.copytree(first_written.output, config.output)
    run = Run(config)
    ids, latents = run.latents("pca")
    assert (len(ids), latents.dtype) == (56, object)
    assert {field.shape for field in latents} == {(4, 2, 4, 8, 8), (1, 2, 4, 8, 8)}
    assert run.embeddings("intensity").values.shape[0] == 56  # means over patches have one shape
    before = stored_values(config)
    todo = plan(run)
    assert [chunk.fovs.height for chunk in todo.chunks] == [48, 16]  # the failed fields go with the many
    for number, chunk in enumerate(todo.chunks):
        rewrite(run, chunk, f"compact-{number}")
    delete_old(run, todo.old)
    assert stored_values(config) == before
    assert not plan(run).chunks
    verified = verify(run, print)
    assert (verified.fovs, verified.usable, verified.is_whole) == (64, 56, True)


def test_the_embedding_of_a_field_is_the_mean_over_its_own_patches(first_written):
    run = Run(first_written)
    means, patches = run.embeddings("intensity"), run.read("embeddings/intensity/image", "patches")
    kept = dict(zip(patches.fov_ids, patches.values, strict=True))
    assert {len(of_field) for of_field in kept.values()} == {1, 4}
    for fov_id, mean in zip(*means, strict=True):
        np.testing.assert_allclose(mean, kept[fov_id].astype(np.float32).mean(0), rtol=2e-3, atol=2e-3)  # float16


def test_rows_do_not_depend_on_the_batch_or_on_the_other_sources(first_written, tmp_path):
    stored = stored_values(first_written)
    rows = pl.read_parquet(first_written.manifest).filter(pl.col("Metadata_Source") == "source_2")
    rows.write_parquet(tmp_path / "alone.parquet")
    alone = first_written.model_copy(update={"manifest": str(tmp_path / "alone.parquet")})
    for name, values in expected_values(alone).items():  # in one batch
        assert values == {fov: data for fov, data in stored[name].items() if fov.startswith("source_2/")}


def test_values_of_two_numbers_of_patches_are_joined_and_reduced_as_one_by_one():
    random = np.random.default_rng(0)
    parts = [random.random((3, 4, 2)), random.random((2, 9, 2)), random.random((1, 4, 2))]
    values = joined(parts)
    fields = [field for part in parts for field in part]
    assert [field.shape for field in values] == [field.shape for field in fields]
    np.testing.assert_array_equal(of_patches(values), np.concatenate(fields))
    np.testing.assert_array_equal(
        per_field(values, lambda patches: patches.mean(1)), np.stack([field.mean(0) for field in fields])
    )
    same = joined([parts[0], parts[2]])
    np.testing.assert_array_equal(same, np.concatenate([parts[0], parts[2]]))
    np.testing.assert_array_equal(of_patches(same), same.reshape(-1, 2))
