"""Trains the autoencoder of the demo and fits the closed-form `patch_pca` on synthetic fields; scores both on held-out seeds.

    python scripts/train_demo_autoencoder.py --minutes 60 --seed 0 --output sdvae_ray/assets

    python scripts/train_demo_autoencoder.py --evaluate-only --output sdvae_ray/assets

The last lines of the first command, on one shared core (2,086,215 parameters, 12,846 steps). PSNR in dB, higher is better, on 48
held-out fields of 256 pixels in patches of 128: the mean over patches and stains, then the mean per stain:

    |                        | mean  | Mito  | AGP   | RNA   | ER    | DNA   |
    | demo_kl                | 36.60 | 31.97 | 34.48 | 38.29 | 37.32 | 40.96 |
    | patch_pca              | 29.72 | 28.47 | 30.32 | 30.23 | 30.41 | 29.16 |
    | 8x area mean + bicubic | 30.92 | 28.40 | 31.22 | 31.71 | 32.30 | 30.97 |

At that time a scattered Golgi was drawn fainter (0.3 instead of the 0.5 in `field`). The second command prints the scores of the
same weights on the fields as they are drawn now: 36.55, 29.68 and 30.88. These variants were worse (2026-11-22, three minutes
each):

* random weights instead of `linear_start` were still 3 dB below bicubic after five minutes; the linear start was 3.5 dB above
  bicubic after three;
* wider layers (16, 32, 96, 160) gained 0.5 dB less in the same time, and a learning rate of 2e-3 gained 0.2 dB less;
* crops of only 64 pixels cost random weights 1.3 dB on patches of 128.

bfloat16 autocast made a step 30 % faster.

The network is an `AutoencoderKL` as diffusers builds it: 8x down, 4 latent channels, RGB in and out, with few channels where the
images are large. The loss raises PSNR itself: it is the logarithm of the mean squared error of every image and channel. Half of
the time goes to small crops, the rest to crops of the size that the demo uses, because group normalisation makes the result
depend on the size of the image. The learning rate follows the clock, so every run ends annealed, and no two runs are equal to the
last bit.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from linear_start import start_linear
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from sdvae_ray.autoencoders import patch_pca
from sdvae_ray.randomness import generator
from sdvae_ray.sources.synthetic.field import render_field
from sdvae_ray.sources.synthetic.microscope import STAINS, batch_effect, correction
from sdvae_ray.sources.synthetic.phenotypes import PHENOTYPES

TRAIN_SEED, HELD_OUT_SEED = 1001, 2002  # the demo's own screen uses seed 0
TRIPLES = ((0, 1, 2), (2, 3, 4))  # (Mito, AGP, RNA) and (RNA, ER, DNA)
UNPACK = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2))  # stain -> (triple, place in it)
FIELD, PATCH = 256, 128  # pixels
PHASES = ((0.5, 64, 8), (1.0, 128, 2))  # until this share of the time: crop in pixels, batch
CHANNELS, GROUPS = (16, 32, 64, 112), 2
RATE, WARM_UP, KL_WEIGHT, EMA = 1e-3, 300, 1e-3, 0.999
HELD_OUT_FIELDS = 48

Roundtrip = Callable[[Tensor], Tensor]  # (N, 3, S, S) in [0, 1] -> the same


def render(seed: int, count: int) -> NDArray[np.uint8]:
    """(count, 5, FIELD, FIELD) uint8: fields of random plates, phenotypes and strengths; corrected, divided by 256, truncated."""
    out = np.empty((count, 5, FIELD, FIELD), np.uint8)
    names = list(PHENOTYPES)
    for i in range(count):
        rng = generator(seed, "field", str(i), "1")
        batch = batch_effect(rng)
        name, strength = names[int(rng.integers(len(names)))], float(rng.uniform(0, 1))
        counts = render_field(rng, FIELD, name, strength, batch)
        out[i] = np.clip(counts / correction(FIELD, batch) / 256, 0, 255).astype(np.uint8)
    return out


def crops(fields: Tensor, size: int, batch: int, draws: torch.Generator) -> Tensor:
    """(batch, 3, size, size) float32 in [0, 1]: crops of random places, triples, flips and quarter turns."""
    out = []
    for field, y, x, triple, turn, flip in torch.randint(0, 2**31, (batch, 6), generator=draws).tolist():
        y, x = y % (FIELD - size + 1), x % (FIELD - size + 1)
        crop = fields[field % len(fields), list(TRIPLES[triple % 2]), y : y + size, x : x + size]
        crop = torch.rot90(crop, turn % 4, (1, 2))
        out.append(crop.flip(2) if flip % 2 else crop)
    return torch.stack(out).float() / 255


def build() -> AutoencoderKL:
    """The network before training: a linear autoencoder; see `linear_start`."""
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=GROUPS,
        sample_size=PATCH,
        mid_block_add_attention=False,
    )
    return start_linear(model)


def psnr_loss(recon: Tensor, image: Tensor) -> Tensor:
    """The mean over images and channels of log MSE, as a mean PSNR takes it. The constant stops the reward above 45 dB."""
    return torch.log((recon - image).square().mean((2, 3)) + 3e-5).mean()


def train(
    fields: Tensor, minutes: float, seed: int, save: Callable[[AutoencoderKL, int], None]
) -> tuple[AutoencoderKL, int]:
    """The averaged weights after `minutes` of wall clock, and the number of steps. `save` gets both every five minutes."""
    model = build()
    ema = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-3, betas=(0.9, 0.98))
    draws = torch.Generator().manual_seed(seed)
    start, step, total, saved = time.monotonic(), 0, 0.0, 0.0
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM_UP) * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * done)))
        size, batch = next((s, b) for until, s, b in PHASES if done < until)
        x = crops(fields, size, batch, draws)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(2 * x - 1).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=draws)
            y = model.decode(posterior.mean + posterior.std * noise).sample.float() / 2 + 0.5
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
        loss = psnr_loss(y, x) + KL_WEIGHT * kl
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        keep = min(EMA, (1 + step) / (20 + step))
        with torch.no_grad():
            for average, value in zip(ema.parameters(), model.parameters(), strict=True):
                average.lerp_(value, 1 - keep)
        total += loss.item()
        if step % 200 == 0:
            print(
                f"step {step}, {done * minutes:.1f} min, crop {size}: loss {total / 200:.4f}, KL {kl.item():.2f}",
                flush=True,
            )
            total = 0.0
        if done * minutes - saved >= 5:
            saved = done * minutes
            save(ema, step)
    return ema, step


def fit_pca(fields: Tensor) -> dict[str, Tensor]:
    """`mean` (192,) and `components` (4, 192) of `patch_pca`, fitted on 8 x 8 RGB patches of both triples in [0, 1]."""
    some = fields[::8]
    rows = torch.cat([some[:, list(t)].unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5) for t in TRIPLES])
    fitted = patch_pca.fit(rows.reshape(-1, 192).double() / 255)
    return {"mean": fitted.mean.contiguous(), "components": fitted.components.contiguous()}


def bicubic(x: Tensor) -> Tensor:
    """The baseline: the area means of 8 x 8 pixels, interpolated back by bicubic interpolation."""
    small = functional.interpolate(x, scale_factor=1 / 8, mode="area")
    return functional.interpolate(small, size=x.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 1)


def pca(model: patch_pca.PatchPCA) -> Roundtrip:
    """The round trip of `patch_pca`: projects every 8 x 8 patch on the four components."""
    return lambda x: model.decode(model.encode(x).mean)


def network(model: AutoencoderKL) -> Roundtrip:
    """The round trip of the network: decodes the posterior mean."""
    return lambda x: (model.decode(model.encode(2 * x - 1).latent_dist.mean).sample / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def evaluate(fields: NDArray[np.uint8], roundtrip: Roundtrip) -> dict[str, Any]:
    """PSNR in dB over patches of PATCH pixels.

    mean       mean over patches and stains
    stains     mean per stain
    per_patch  mean over patches, of the MSE over all stains
    pooled     PSNR of the mean MSE
    """
    tiles = torch.from_numpy(fields).unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    errors = []
    for part in tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, 5, PATCH, PATCH).split(8):
        x = part.float() / 255
        triples = [roundtrip(x[:, list(t)]) for t in TRIPLES]
        recon = torch.stack([triples[t][:, k] for t, k in UNPACK], 1)
        errors.append((recon - x).square().mean((2, 3)))
    mse = torch.cat(errors)
    db = -10 * torch.log10(mse)
    return {
        "mean": db.mean().item(),
        "stains": dict(zip(STAINS, db.mean(0).tolist(), strict=True)),
        "per_patch": (-10 * torch.log10(mse.mean(1))).mean().item(),
        "pooled": -10 * math.log10(mse.mean().item()),
    }


@torch.no_grad()
def store(model: AutoencoderKL, fields: Tensor, folder: Path) -> None:
    """Writes the weights as float16, with the scaling factor that gives the latents unit variance."""
    sample = crops(fields, PATCH, 32, torch.Generator().manual_seed(7))
    factor = 1 / model.encode(2 * sample - 1).latent_dist.mean.std().item()
    packed = copy.deepcopy(model).half()
    packed.register_to_config(scaling_factor=round(factor, 4))
    packed.save_pretrained(folder)
    (folder / "diffusion_pytorch_model.safetensors").chmod(0o644)


def load(folder: Path) -> AutoencoderKL:
    """The packaged network, in float32."""
    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32, low_cpu_mem_usage=False).eval()


def table(output: Path, count: int) -> str:
    """A markdown table: PSNR of the packaged weights and of the baseline, on held-out seeds."""
    held = render(HELD_OUT_SEED, count)
    model = load(output / "demo_kl")
    basis = patch_pca.load(output / "patch_pca")
    rows = {"demo_kl": network(model), "patch_pca": pca(basis), "8x area mean + bicubic": bicubic}
    scores = {name: evaluate(held, roundtrip) for name, roundtrip in rows.items()}
    head = ["", "mean", *STAINS, "stains pooled per patch", "all pooled"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, s in scores.items():
        numbers = [s["mean"], *s["stains"].values(), s["per_patch"], s["pooled"]]
        lines.append("| " + " | ".join([name, *(f"{v:.2f}" for v in numbers)]) + " |")
    gain = scores["demo_kl"]["mean"] - scores["8x area mean + bicubic"]["mean"]
    return "\n".join(
        [*lines, "", f"Gain of demo_kl over bicubic: {gain:+.2f} dB ({count} fields, {count * 4} patches)."]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="wall clock of the training")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights and of the order of the crops")
    parser.add_argument("--fields", type=int, default=1200, help="training fields rendered")
    parser.add_argument("--output", type=Path, default=Path("sdvae_ray/assets"))
    parser.add_argument("--evaluate-only", action="store_true", help="print the table of the weights in --output")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)
    if args.evaluate_only:
        print(table(args.output, HELD_OUT_FIELDS))
        return
    fields = torch.from_numpy(render(TRAIN_SEED, args.fields))
    (args.output / "patch_pca").mkdir(parents=True, exist_ok=True)
    basis = args.output / "patch_pca" / "patch_pca.safetensors"
    save_file(fit_pca(fields), basis)
    basis.chmod(0o644)

    def checkpoint(model: AutoencoderKL, step: int) -> None:
        store(model, fields, args.output / "demo_kl")
        print(f"step {step}: weights written\n{table(args.output, 6)}", flush=True)

    model, steps = train(fields, args.minutes, args.seed, checkpoint)
    store(model, fields, args.output / "demo_kl")
    parameters = sum(p.numel() for p in model.parameters())
    print(table(args.output, HELD_OUT_FIELDS))
    facts = {"steps": steps, "minutes": args.minutes, "parameters": parameters, "seed": args.seed}
    print(json.dumps(facts | {"torch": torch.__version__, "machine": platform.machine()}))


if __name__ == "__main__":
    main()
