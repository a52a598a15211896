"""A real field of the Cell Painting Gallery, by the road that a user takes: an S3 server, its own load_data, a manifest, a run.

The field stands at its true keys and is read without credentials. The autoencoder has the layers of Stable Diffusion's, with random
weights: at its full width in the slow tests, at a quarter of it otherwise. What is stored is compared with an independent
computation in a straight line: tifffile, numpy, scipy, scikit-image and diffusers, called directly.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tifffile
import torch
from scipy.stats import wasserstein_distance
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sdvae_ray.cli.main import main
from sdvae_ray.run.stored.commits import read_fovs
from sdvae_ray.run.stored.tables import read_column
from sdvae_ray.storage import Storage

GALLERY = "s3://cellpainting-gallery/"
FULL_WIDTH = (128, 256, 512, 512)  # channels of the blocks


@dataclass(frozen=True)
class SavedVae:
    """folder: with `vae/`, Stable Diffusion 1.x at random, as diffusers saves it. crop: pixels of the field that it is given."""

    folder: Path
    crop: int


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((tuple(channels // 4 for channels in FULL_WIDTH), 128), id="quarter width"),
        pytest.param((FULL_WIDTH, 256), id="full width", marks=pytest.mark.slow),
    ],
)
def saved_vae(request, tmp_path_factory) -> SavedVae:
    from diffusers import AutoencoderKL

    channels, crop = request.param

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(14)
        model = AutoencoderKL(  # vae/config.json of CompVis/stable-diffusion-v1-4
            act_fn="silu",
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * 4,
            in_channels=3,
            latent_channels=4,
            layers_per_block=2,
            norm_num_groups=32,
            out_channels=3,
            sample_size=512,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    if channels == FULL_WIDTH:
        assert sum(weight.numel() for weight in model.parameters()) == 83_653_863
    folder = tmp_path_factory.mktemp("stable-diffusion")
    model.save_pretrained(folder / "vae")
    return SavedVae(folder, crop)


@pytest.fixture(scope="module")
def straight_line(real_field, saved_vae) -> dict[str, np.ndarray]:
    """stains and recon (5, S, S), latent (2, 4, s, s) float16, mean and logvar, of the centre of the field."""
    from diffusers import AutoencoderKL

    centre = slice((1080 - saved_vae.crop) // 2, (1080 + saved_vae.crop) // 2)
    planes = [tifffile.imread(path)[centre, centre] for path in real_field.values()]
    stains = np.clip(np.stack(planes).astype(np.float64) / 256, 0, 255).astype(np.uint8) / 255.0
    rgb = torch.from_numpy(np.stack([stains[[0, 1, 2]], stains[[2, 3, 4]]])).float()
    vae = AutoencoderKL.from_pretrained(saved_vae.folder, subfolder="vae").eval()
    with torch.inference_mode():
        posterior = vae.encode(2 * rgb - 1).latent_dist
        latent = posterior.mode().half()
        decoded = (vae.decode(latent.float()).sample / 2 + 0.5).clamp(0, 1).double().numpy()
    recon = np.stack([*decoded[0], *decoded[1, 1:]])  # RNA of the first triple
    assert recon.std() > 0.01  # random weights paint something
    numbers = {"latent": latent, "mean": posterior.mean.double(), "logvar": posterior.logvar.double()}
    return {"stains": stains, "recon": recon, **{name: value.numpy() for name, value in numbers.items()}}


@pytest.fixture
def run_file(s3, shared, real_field, saved_vae, tmp_path) -> Path:
    """The field and illumination functions of ones at their keys in the bucket, a manifest from its load_data, a run file."""
    load_data = shared / "data/metadata/nfcore_BR00117035/load_data_with_illum.csv"
    row = pl.read_csv(load_data, infer_schema=False).row(0, named=True)
    ones = io.BytesIO()
    np.save(ones, np.ones((1080, 1080)))
    here = f"{s3.prefix}/"
    for stain, path in real_field.items():
        s3.storage.write_bytes(row[f"URL_Orig{stain}"].replace(GALLERY, here), path.read_bytes())
        s3.storage.write_bytes(row[f"URL_Illum{stain}"].replace(GALLERY, here), ones.getvalue())
    server = ["--anonymous", "--endpoint-url", s3.endpoint, "--region", "us-east-1"]
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "manifest",
                str(load_data),
                "--rewrite",
                f"{GALLERY}={here}",
                "--output",
                f"{here}manifest.parquet",
                *server,
            ]
        )
    assert ended.value.code == 0
    run = {
        "manifest": f"{here}manifest.parquet",
        "output": f"{here}run",
        "storage": {"anonymous": True, "endpoint_url": s3.endpoint, "region": "us-east-1"},
        "image": {"crop": saved_vae.crop, "patch": saved_vae.crop},
        "autoencoders": {"sd": {"name": "diffusers_kl", "source": str(saved_vae.folder), "subfolder": "vae"}},
        "extractors": {"latent": {"name": "latent"}},
        "encode": {"actors": 1, "cpus": 1, "batch_fovs": 1, "micro_batch": 2},
        "load": {"actors": 1, "cpus": 0.25},
    }
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(run))
    return path


def test_a_real_field_from_s3_gives_the_numbers_of_a_straight_line_computation(
    local_ray, s3, run_file, straight_line, capsys
):
    with pytest.raises(SystemExit) as ended:
        main(["encode", str(run_file), "--address", "local"])
    assert ended.value.code == 0, capsys.readouterr().err
    storage, output = Storage(s3.config), f"{s3.prefix}/run"
    fovs = read_fovs(output, storage)
    assert fovs["fov_id"].to_list() == ["source_4/2021_04_26_Batch1/BR00117035/A01/1"]
    assert fovs["error"].to_list() == [None]
    assert fovs["Metadata_ImageResolutionX"].to_list() == ["5.979760809567617e-07"]  # text, to the last digit

    stored = read_column(output, "latents/sd", "latent", fovs, storage)[1]
    assert (stored.shape[1:], stored.dtype) == ((1, *straight_line["latent"].shape), np.float16)
    expected = straight_line["latent"].astype(np.float32)
    step = np.maximum(np.spacing(np.abs(straight_line["latent"])), np.spacing(np.abs(stored[0, 0]))).astype(np.float32)
    noise = 1e-5 * np.abs(expected).max()  # of float32 convolutions in another memory format; a step near zero is finer
    differences = np.abs(stored[0, 0].astype(np.float32) - expected)
    assert (differences <= step + noise).all(), (
        f"latents differ by up to {(differences / (step + noise)).max():.1f} of what they may"
    )

    def metric(name: str) -> np.ndarray:
        return read_column(output, "metrics/sd", name, fovs, storage)[1][0, 0]

    mean, logvar = straight_line["mean"], straight_line["logvar"]
    np.testing.assert_allclose(metric("kld"), 0.5 * (mean**2 + np.exp(logvar) - logvar - 1).sum((1, 2, 3)), rtol=1e-5)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    for stain, (x, y) in enumerate(zip(straight_line["stains"], straight_line["recon"], strict=True)):
        similarity = structural_similarity(x, y, full=True, **options)[1][5:-5, 5:-5].mean()
        assert metric("mae")[stain] == pytest.approx(np.abs(x - y).mean(), abs=1e-5)
        assert metric("emd")[stain] == pytest.approx(wasserstein_distance(x.ravel(), y.ravel()), abs=1e-5)
        assert metric("ssim")[stain] == pytest.approx(similarity, abs=1e-5)
        assert metric("psnr")[stain] == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1), abs=1e-3)

    moments = read_column(output, "embeddings/latent/sd", "embedding", fovs, storage)[1][0]
    for triple in range(2):
        channels = mean[triple].reshape(4, -1)
        covariance = np.cov(channels, bias=True)[np.triu_indices(4, 1)]
        by_hand = [*channels.mean(1), *channels.std(1), *covariance]
        np.testing.assert_allclose(moments[triple], by_hand, rtol=2e-3, atol=1e-5)
