"""The synthetic screen: same seed, same bytes; the gallery's layout; phenotypes that do what they say.

Also the packaged weights that were trained on such screens: the network and its closed-form rival.
"""

import csv
import gzip
import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file
from scipy import ndimage

from sdvae_ray.errors import ConfigError
from sdvae_ray.randomness import generator
from sdvae_ray.sources.synthetic.anatomy import texture
from sdvae_ray.sources.synthetic.field import render_field
from sdvae_ray.sources.synthetic.microscope import STAINS, batch_effect, correction, illumination
from sdvae_ray.sources.synthetic.phenotypes import PHENOTYPES, UNTREATED, look_of
from sdvae_ray.sources.synthetic.screen import COMPOUNDS, ScreenFiles, lay_out, write_screen

ROOT = Path(__file__).parents[2]
ASSETS, SCRIPTS = ROOT / "sdvae_ray" / "assets", ROOT / "scripts"
MITO, AGP, RNA, ER, DNA = range(5)


def tiny(output: Path, seed: int = 3, workers: int = 1, position_effect: float = 0.0) -> ScreenFiles:
    """Two plates of two DMSO wells and three compounds."""
    return write_screen(
        output,
        seed=seed,
        size=64,
        controls=2,
        replicates_per_plate=1,
        position_effect=position_effect,
        compounds=COMPOUNDS[:3],
        workers=workers,
    )


def fingerprint(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def load_data(path: Path) -> list[dict[str, str]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(data.decode().splitlines()))


def tab_separated(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines(), delimiter="\t"))


def location(row: dict[str, str], column: str, files: ScreenFiles) -> Path:
    """Where an image or function is after the screen's own rewrites."""
    uri = (
        row[f"URL_{column}"] if f"URL_{column}" in row else row[f"PathName_{column}"] + "/" + row[f"FileName_{column}"]
    )
    for start, to in files.rewrites:
        uri = to + uri.removeprefix(start) if uri.startswith(start) else uri
    return Path(uri)


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> ScreenFiles:
    return tiny(tmp_path_factory.mktemp("screen"))


def test_the_same_seed_writes_the_same_bytes_in_any_number_of_threads(screen: ScreenFiles, tmp_path: Path) -> None:
    tiny(tmp_path / "again", workers=2)
    assert fingerprint(tmp_path / "again") == fingerprint(screen.root)


def test_another_seed_writes_other_pixels_and_another_layout(screen: ScreenFiles, tmp_path: Path) -> None:
    other = tiny(tmp_path, seed=4)
    mine, theirs = (set(fingerprint(files.root).values()) for files in (screen, other))
    shared_tables = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (screen.barcode_platemap, screen.compound_metadata, screen.experiment_metadata)
    }
    assert mine & theirs == shared_tables


def test_a_field_can_be_rendered_alone(screen: ScreenFiles) -> None:
    wells = lay_out(3, 2, 2, 1, COMPOUNDS[:3])
    plate, well = next((plate, well) for plate in wells for well in wells[plate] if well.compound == COMPOUNDS[2])
    effect = batch_effect(generator(3, plate, "microscope"))
    alone = render_field(generator(3, plate, well.name, "1"), 64, COMPOUNDS[2].phenotype, COMPOUNDS[2].strength, effect)
    row = next(
        r
        for path in screen.load_data
        for r in load_data(path)
        if (r["Metadata_Plate"], r["Metadata_Well"]) == (plate, well.name)
    )
    written = [tifffile.imread(location(row, f"Orig{stain}", screen)) for stain in STAINS]
    np.testing.assert_array_equal(alone, written)


def test_every_location_of_the_load_data_files_exists_after_the_rewrite(screen: ScreenFiles) -> None:
    tables = [load_data(path) for path in screen.load_data]
    assert [len(rows) for rows in tables] == [5, 5]
    assert "PathName_OrigDNA" in tables[0][0]
    assert "URL_OrigDNA" in tables[1][0]
    for row in (row for rows in tables for row in rows):
        for stain in STAINS:
            image = tifffile.imread(location(row, f"Orig{stain}", screen))
            illum = np.load(location(row, f"Illum{stain}", screen))
            assert (image.shape, image.dtype) == ((64, 64), np.uint16)
            assert illum.shape == (64, 64)
            assert illum.min() == pytest.approx(1.0)
            assert illum.max() < 2


def test_images_are_lzw_and_named_as_the_phenix_does(screen: ScreenFiles) -> None:
    row = load_data(screen.load_data[0])[0]
    path = location(row, "OrigDNA", screen)
    line, column = ord(row["Metadata_Well"][0]) - ord("A") + 1, int(row["Metadata_Well"][1:])
    assert path.name == f"r{line:02d}c{column:02d}f01p01-ch5sk1fk1fl1.tiff"
    assert path.parts[-3].startswith(f"{row['Metadata_Plate']}__")
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].compression == tifffile.COMPRESSION.LZW


def test_platemaps_and_compounds_agree_with_the_truth(screen: ScreenFiles) -> None:
    truth = {(r["Assay_Plate_Barcode"], r["well_position"]): r for r in tab_separated(screen.truth)}
    compounds = {r["broad_sample"]: r for r in tab_separated(screen.compound_metadata)}
    assert compounds[""]["control_type"] == "negcon"
    for line in list(csv.DictReader(screen.barcode_platemap.read_text().splitlines())):
        platemap = tab_separated(screen.barcode_platemap.parent / "platemap" / f"{line['Plate_Map_Name']}.txt")
        assert sum(row["broad_sample"] == "" for row in platemap) == 2
        for row in platemap:
            known = truth.pop((line["Assay_Plate_Barcode"], row["well_position"]))
            assert known["broad_sample"] == row["broad_sample"]
            assert {key: known[key] for key in compounds[""]} == compounds[row["broad_sample"]]
            assert known["position_effect"] == row["position_effect"]
    assert not truth


def test_a_position_effect_is_brightness_that_rises_over_every_plate_and_is_written_with_the_truth(
    screen: ScreenFiles, tmp_path: Path
) -> None:
    files = tiny(tmp_path, position_effect=0.5)
    plain = {(r["Assay_Plate_Barcode"], r["well_position"]): r["position_effect"] for r in tab_separated(screen.truth)}
    drawn = {(r["Assay_Plate_Barcode"], r["well_position"]): r["position_effect"] for r in tab_separated(files.truth)}
    assert {float(effect) for effect in plain.values()} == {0.0}
    wells = {(well.plate, well.name): well for wells in lay_out(3, 2, 2, 1, COMPOUNDS[:3]).values() for well in wells}
    for key, effect in drawn.items():
        slope = wells[key].column / 23 - wells[key].row / 15
        assert float(effect) == pytest.approx(0.5 * slope, abs=6e-5)
    for path, path_without in zip(files.load_data, screen.load_data, strict=True):
        for row, row_without in zip(load_data(path), load_data(path_without), strict=True):
            effect = float(drawn[row["Metadata_Plate"], row["Metadata_Well"]])
            counts, without = (
                tifffile.imread(location(line, "OrigMito", written)).astype(float)
                for line, written in ((row, files), (row_without, screen))
            )
            dark = batch_effect(generator(3, row["Metadata_Plate"], "microscope")).offset[0]
            light = illumination(64, batch_effect(generator(3, row["Metadata_Plate"], "microscope")))[0]
            bright = without > dark * light + 2000  # the noise of dark pixels is not small
            if bright.any():
                ratio = (counts - dark * light)[bright].sum() / (without - dark * light)[bright].sum()
                assert np.log(ratio) == pytest.approx(effect, abs=0.05)


def test_the_default_screen_has_graded_weak_and_inactive_compounds_in_one_layout_on_every_plate() -> None:
    plates = list(lay_out(0, 2, 16, 2).values())
    assert [len(wells) for wells in plates] == [58, 58]
    assert all(len({well.name for well in wells}) == 58 for wells in plates)
    assert [c.truth for c in COMPOUNDS].count("inactive") == 6
    assert {c.phenotype for c in COMPOUNDS if c.strength == 1} == set(PHENOTYPES) - {"none"}
    places = [{(well.name, well.compound) for well in wells if well.compound} for wells in plates]
    assert places[0] == places[1]
    assert len(places[0]) == 42


def test_a_plate_that_is_too_full_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="384 wells"):
        write_screen(tmp_path, controls=385, compounds=())


def test_strength_zero_is_untreated_and_full_strength_is_the_phenotype() -> None:
    for name, look in PHENOTYPES.items():
        assert look_of(name, 0.0) == UNTREATED
        assert look_of(name, 1.0) == look
    one, other = (render_field(generator(0, "p", "A01", "1"), 64, name, 0.0) for name in ("none", "er_stress"))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [64, 97])
def test_a_texture_has_mean_0_and_variance_1(size: int) -> None:
    noise = np.stack([texture(generator(0, str(i)), size, 7.0) for i in range(20)])
    assert abs(noise.mean()) < 1e-3
    assert noise.var() == pytest.approx(1, abs=0.05)


def scaled(phenotype: str, size: int = 256, count: int = 6) -> np.ndarray:
    """(count, 5, size, size) grey levels, as the published scaling gives them: corrected, divided by 256."""
    fields = []
    for i in range(count):
        effect = batch_effect(generator(1, "plate", str(i)))
        counts = render_field(generator(1, "plate", f"A{i:02d}", "1"), size, phenotype, 1.0, effect)
        fields.append(counts / correction(size, effect) / 256)
    return np.minimum(np.stack(fields), 255)


def nuclei(fields: np.ndarray) -> tuple[float, float, float]:
    """Number per field, median area in pixels, and median brightness in grey levels, of what Otsu would call nuclei."""
    areas, levels, number = [], [], 0
    for field in fields[:, DNA]:
        label, found = ndimage.label(ndimage.gaussian_filter(field, 1) > 30)
        index = np.arange(1, found + 1)
        areas += ndimage.sum_labels(np.ones_like(field), label, index).tolist()
        levels += ndimage.mean(field, label, index).tolist()
        number += found
    return number / len(fields), float(np.median(areas)), float(np.median(levels))


def grains_concentration(fields: np.ndarray) -> float:
    """How unevenly the fine structure of AGP is spread: its power in the densest hundredth over its mean power."""
    fine = fields[:, AGP] - ndimage.gaussian_filter(fields[:, AGP], (0, 2, 2))
    power = ndimage.uniform_filter(fine**2, (0, 12, 12))
    return float(np.percentile(power, 99) / power.mean())


@pytest.fixture(scope="module")
def untreated() -> np.ndarray:
    return scaled("none")


def test_untreated_fields_fill_the_eight_bit_range_and_have_nuclei_of_real_size(untreated: np.ndarray) -> None:
    foreground = np.percentile(untreated, 99, axis=(0, 2, 3))
    assert (foreground > 60).all()
    assert (np.mean(untreated >= 255, axis=(0, 2, 3)) < 0.01).all()
    assert (np.percentile(untreated, 2, axis=(0, 2, 3)) < 8).all()
    number, area, _ = nuclei(untreated)
    assert 5 < number < 20
    assert 24 < 2 * np.sqrt(area / np.pi) < 42  # pixels across


def test_phenotypes_do_what_they_say(untreated: np.ndarray) -> None:
    number, area, level = nuclei(untreated)
    fewer, smaller, brighter = nuclei(scaled("nuclear_shrinkage"))
    assert fewer < number
    assert smaller < 0.7 * area
    assert brighter > 1.2 * level
    assert nuclei(scaled("cell_loss"))[0] < 0.6 * number
    assert scaled("er_stress")[:, ER].mean() > 1.05 * untreated[:, ER].mean()
    assert np.percentile(scaled("nucleolar_loss")[:, RNA], 99.5) < 0.85 * np.percentile(untreated[:, RNA], 99.5)
    assert np.percentile(scaled("actin_edge")[:, AGP], 95) > 1.15 * np.percentile(untreated[:, AGP], 95)
    assert grains_concentration(scaled("golgi_dispersal")) < 0.6 * grains_concentration(untreated)


def test_fragmented_mitochondria_keep_their_light_and_change_only_their_fine_texture(untreated: np.ndarray) -> None:
    broken = scaled("mito_fragmentation")
    np.testing.assert_array_equal(broken[:, AGP], untreated[:, AGP])
    assert broken[:, MITO].mean() == pytest.approx(untreated[:, MITO].mean(), rel=0.1)
    coarse = [ndimage.uniform_filter(x[:, MITO], (0, 16, 16)) for x in (broken, untreated)]
    assert np.corrcoef(coarse[0].ravel(), coarse[1].ravel())[0, 1] > 0.9
    fine = [x[:, MITO] - ndimage.uniform_filter(x[:, MITO], (0, 16, 16)) for x in (broken, untreated)]
    assert np.corrcoef(fine[0].ravel(), fine[1].ravel())[0, 1] < 0.6


@pytest.fixture(scope="module")
def trainer() -> Iterator[ModuleType]:
    """The training script, which renders held-out fields and scores reconstructions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield importlib.import_module("train_demo_autoencoder")


def test_the_untrained_network_is_a_linear_autoencoder(trainer: ModuleType) -> None:
    held_out = trainer.render(trainer.HELD_OUT_SEED, 2)
    start = trainer.evaluate(held_out, trainer.network(trainer.build().eval()))["mean"]
    assert start > trainer.evaluate(held_out, trainer.bicubic)["mean"] - 2  # dB


def test_the_packaged_network_beats_bicubic_on_held_out_seeds(trainer: ModuleType) -> None:
    held_out = trainer.render(trainer.HELD_OUT_SEED, 4)
    model = trainer.load(ASSETS / "demo_kl")
    network = trainer.evaluate(held_out, trainer.network(model))["mean"]
    assert network > trainer.evaluate(held_out, trainer.bicubic)["mean"] + 3  # dB


def test_the_packaged_networks_scaled_latents_have_unit_scale(trainer: ModuleType) -> None:
    model = trainer.load(ASSETS / "demo_kl")
    x = torch.from_numpy(trainer.render(trainer.HELD_OUT_SEED, 4)[:, :3]).float() / 255
    with torch.no_grad():
        latent = model.encode(2 * x - 1).latent_dist.mean * model.config.scaling_factor
    assert latent.shape == (4, 4, 32, 32)
    assert 0.8 < latent.std() < 1.25


def test_the_packaged_basis_is_orthonormal_and_its_projection_is_idempotent(trainer: ModuleType) -> None:
    basis = load_file(ASSETS / "patch_pca" / "patch_pca.safetensors")
    assert (basis["mean"].shape, basis["components"].shape) == ((192,), (4, 192))
    torch.testing.assert_close(basis["components"] @ basis["components"].T, torch.eye(4), atol=1e-5, rtol=0)
    x = 0.4 + 0.01 * torch.rand(1, 3, 16, 16)
    project = trainer.pca(trainer.patch_pca.load(ASSETS / "patch_pca"))
    once = project(x)
    torch.testing.assert_close(project(once), once, atol=1e-5, rtol=0)
