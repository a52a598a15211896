"""Real patch embeddings for benchmarks/index.py: overlapping crops of real fields, embedded by models that need no download.

    python benchmarks/crops.py --field Mito.tiff AGP.tiff RNA.tiff ER.tiff DNA.tiff --output crops --embedding latent
    python benchmarks/index.py --embeddings crops/vectors.npy --held-out crops/region.npy

`--embedding intensity` is the extractor `intensity`. `--embedding latent` is every value of the posterior mean of the demo
autoencoder, for both published RGB passes. Pixels are divided by 256 into 8 bits, as in the published protocol.

vectors.npy   (N, D) float32, crops of the left three quarters of the field, a few pixels apart, at `--turns` quarter turns.
              Neighbouring crops are near-duplicates, much more so than the patches of a screen
region.npy    (Q, D) float32, crops of the right quarter: queries from the same field that share no pixel with any vector
field.npy     (Q, D) float32, crops of `--other`, one stack (C, Y, X) per field: queries from other plates
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from sdvae_ray import weights
from sdvae_ray.autoencoders import diffusers_kl
from sdvae_ray.config import AutoencoderConfig
from sdvae_ray.extractors import intensity
from sdvae_ray.images.packing import Packing
from sdvae_ray.images.prepare import scale
from sdvae_ray.settings.packing import PUBLISHED_TRIPLES
from sdvae_ray.storage import Storage

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")
SHARE = 3 / 4  # of the width of the field, from the left: the part whose crops are indexed
Embed = Callable[[Tensor], Tensor]
Stains = NDArray[np.uint8]


def field(files: Sequence[str], channels: Sequence[int]) -> Stains:
    """(C, Y, X) uint8, from one file per stain, or from the planes `channels` of one stack."""
    planes = [tifffile.imread(file) for file in files]
    stack = planes[0][list(channels)] if len(planes) == 1 else np.stack(planes)
    return scale(stack.astype(np.float64), 0.0, 256.0, 8)


def by_intensity() -> Embed:
    """A function (N, C, S, S) in [0, 1] -> (N, 85), of the extractor `intensity`."""
    extractor = intensity.load(None)
    return lambda stains: extractor(stains).flatten(1)


def by_latent() -> Embed:
    """A function (N, C, S, S) in [0, 1] -> (N, T * Z * S / 8 * S / 8), of the demo autoencoder."""
    demo = weights.resolve(AutoencoderConfig(name="diffusers_kl", source="asset:demo_kl"), None, Storage())
    autoencoder = diffusers_kl.load(Path(str(demo.path)))
    packing = Packing(STAINS, PUBLISHED_TRIPLES)

    def embed(stains: Tensor) -> Tensor:
        rgb = packing.pack(stains).flatten(0, 1).contiguous(memory_format=torch.channels_last)  # twice as fast on a CPU
        return autoencoder.encode(rgb).mean.reshape(len(stains), -1)

    return embed


EMBEDDINGS = {"intensity": by_intensity, "latent": by_latent}


def crops(stains: Stains, size: int, stride: int) -> NDArray[np.uint8]:
    """(n, C, size, size), the crops row by row; a view where possible."""
    windows = sliding_window_view(stains, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return windows.reshape(len(stains), -1, size, size).swapaxes(0, 1)


def batches(stains: Stains, options: argparse.Namespace, stride: int, turns: int) -> Iterator[Tensor]:
    """Batches (b, C, size, size) float32 in [0, 1], row of crops by row of crops, quarter turn by quarter turn."""
    height = stains.shape[1] - options.size + 1
    for turn in range(turns):
        for top in range(0, height, stride):
            row = crops(stains[:, top : top + options.size], options.size, stride)
            turned = np.ascontiguousarray(np.rot90(row, turn, (2, 3)))
            yield from torch.from_numpy(turned).float().div(255).split(options.batch)


@torch.inference_mode()
def embedded(stains: Stains, embed: Embed, options: argparse.Namespace, stride: int, turns: int) -> NDArray[np.float32]:
    """(N, D) float32, the embeddings of all crops."""
    return np.concatenate([embed(batch).float().numpy() for batch in batches(stains, options, stride, turns)])


def sampled(vectors: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """`count` of the vectors, drawn by `seed`; all of them where there are fewer."""
    return np.random.default_rng(seed).permutation(vectors)[:count]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--field", nargs="+", required=True, help="TIFFs, one per stain (Mito AGP RNA ER DNA), or a stack"
    )
    parser.add_argument("--other", nargs="*", default=[], help="stacks of other fields, for queries")
    parser.add_argument("--channels", default="4,3,2,1,0", help="planes of a stack, in the order of the stains")
    parser.add_argument("--embedding", choices=EMBEDDINGS, default="intensity")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--stride", type=int, default=4, help="pixels")
    parser.add_argument("--turns", type=int, choices=(1, 2, 3, 4), default=1, help="quarter turns of every crop")
    parser.add_argument("--queries", type=int, default=2000, help="number of queries to keep of every kind")
    parser.add_argument("--batch", type=int, default=16, help="crops in one forward pass")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    channels = [int(number) for number in options.channels.split(",")]
    embed, start = EMBEDDINGS[options.embedding](), time.perf_counter()
    whole = field(options.field, channels)
    border = int(whole.shape[2] * SHARE)
    saved = {"vectors": embedded(whole[:, :, :border], embed, options, options.stride, options.turns)}
    apart = options.size // 4  # queries may lie farther apart
    saved["region"] = sampled(
        embedded(whole[:, :, border:], embed, options, apart // 2, 1), options.queries, options.seed
    )
    if options.other:
        others = [embedded(field([file], channels), embed, options, apart, 1) for file in options.other]
        saved["field"] = sampled(np.concatenate(others), options.queries, options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, vectors in saved.items():
        np.save(options.output / f"{name}.npy", vectors)
    shapes = {name: list(vectors.shape) for name, vectors in saved.items()}
    print(json.dumps({"embedding": options.embedding, "seconds": round(time.perf_counter() - start), **shapes}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
