"""Benchmark of the inference form of AutoencoderKL, step by step, beside diffusers' own forward: exactness and speed.

    python benchmarks/fast_path.py --threads 1                   # a CPU: float32
    python benchmarks/fast_path.py --device cuda --passes 32     # a GPU: bfloat16

Weights and pixels are random. Every step computes the same function; the error of a step is against diffusers in float64. Nominal
operations are those of diffusers' forward, executed operations are those of the step, which the upsampling fold makes fewer. The
last line of output is one JSON object.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import harness
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sdvae_ray.autoencoders import _diffusers
from sdvae_ray.autoencoders._kl.inference import KLInference
from sdvae_ray.autoencoders._kl.plan import Plan
from sdvae_ray.autoencoders.diffusers_kl import ARCHITECTURES
from sdvae_ray.engine.flop import count_flop
from sdvae_ray.engine.forward import DTYPES
from sdvae_ray.engine.models import pick_precision

Coder = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """encode: (M, 3, S, S) float32 in [-1, 1] -> the mean; decode: (M, Z, s, s) float32 -> (M, 3, S, S); form: None: diffusers."""

    name: str
    encode: Coder
    decode: Coder
    form: KLInference | None = None


def network(architecture: str) -> Any:
    """diffusers' AutoencoderKL with random weights, and with biases and norms that are not those of a fresh one, float32."""
    from diffusers import AutoencoderKL

    model = _diffusers.build("benchmark", AutoencoderKL, ARCHITECTURES, None, architecture, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def by_diffusers(name: str, model: Any, dtype: torch.dtype, autocast: bool, channels_last: bool) -> Step:
    """diffusers' own forward: with float32 weights under autocast, or with weights of the type."""
    device = next(model.parameters()).device.type
    weights = torch.float32 if autocast else dtype
    layout = torch.channels_last if channels_last else torch.contiguous_format
    copied = _copy(model).to(dtype=weights, memory_format=layout)

    def run(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        with torch.autocast(device, dtype) if autocast else nullcontext():
            return function(values.to(weights).contiguous(memory_format=layout)).float()

    return Step(
        name,
        lambda images: run(lambda x: copied.encode(x).latent_dist.mean, images),
        lambda latent: run(lambda z: copied.decode(z).sample, latent),
    )


def _copy(model: Any) -> Any:
    copied = type(model)(**{key: value for key, value in model.config.items() if not key.startswith("_")})
    copied.load_state_dict(model.state_dict())
    return copied.to(next(model.parameters()).device).eval().requires_grad_(False)


def in_form(name: str, model: Any, plan: Plan, device: torch.device) -> Step:
    form = KLInference(model, plan, device)
    return Step(name, lambda images: form.encode(images)[0], form.decode, form)


def graphed(step: Step, images: Tensor, latent: Tensor) -> Step:
    """The step as two CUDA graphs of one batch shape: the kernels are recorded once and launched together."""

    def record(function: Coder, example: Tensor) -> Coder:
        given = example.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function(given)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = function(given)

        def replay(values: Tensor) -> Tensor:
            given.copy_(values)
            graph.replay()
            return result

        return replay

    return Step(f"{step.name} + graphs", record(step.encode, images), record(step.decode, latent))


def steps(model: Any, device: torch.device, dtype: torch.dtype, images: Tensor, latent: Tensor) -> Iterator[Step]:
    """Every step, each built when it is asked for, so that one model at a time takes memory. model: on the device."""
    if device.type == "cpu":
        yield by_diffusers("diffusers", model, dtype, False, channels_last=False)
        yield in_form("form, upsampling as written", model, Plan(dtype, False, False, False), device)
        yield in_form("form, folded (fast)", model, Plan.of(device, dtype), device)
        yield in_form("form, folded, NHWC", model, Plan(dtype, True, False, True), device)
        return
    if dtype != torch.float32:
        yield by_diffusers("diffusers, autocast", model, dtype, True, channels_last=False)
        yield by_diffusers("diffusers, autocast, NHWC", model, dtype, True, channels_last=True)
    yield by_diffusers("diffusers, weights in the type", model, dtype, False, channels_last=False)
    yield by_diffusers("diffusers, weights in the type, NHWC", model, dtype, False, channels_last=True)
    yield in_form("form, plain norms", model, Plan(dtype, True, False, False), device)
    yield in_form("form, fused norms", model, Plan(dtype, True, True, False), device)
    fast = in_form("form, fused, folded (fast)", model, Plan.of(device, dtype), device)
    yield fast
    yield graphed(fast, images, latent)


def errors(architecture: str, device: torch.device, dtype: torch.dtype, size: int = 64) -> list[harness.Record]:
    """The largest error of diffusers (under autocast) and of the fast form against float64, on a bright and on a dark field."""
    model = network(architecture).to(device)
    exact = by_diffusers("float64", model, torch.float64, False, channels_last=False)
    tested = [
        by_diffusers("diffusers", model, dtype, dtype != torch.float32, channels_last=False),
        in_form("fast", model, Plan.of(device, dtype), device),
    ]
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(3, 3, size, size, generator=generator)
    fields = {"bright": torch.rand(3, 3, size, size, generator=generator), "dark": (3 + 0.01 * noise) / 255}
    records = []
    for field, pixels in fields.items():
        images = (2 * pixels - 1).to(device)
        mean = _double(exact.encode, images)
        image = _double(exact.decode, mean)
        for step in tested:
            records.append(
                {
                    "architecture": architecture,
                    "field": field,
                    "step": step.name,
                    "precision": str(dtype).removeprefix("torch."),
                    "encode_error": (step.encode(images).double() - mean).abs().max().item(),
                    "decode_error": (step.decode(mean.float()).double() - image).abs().max().item(),
                    "mean_size": mean.abs().max().item(),
                    "image_size": image.abs().max().item(),
                }
            )
    return records


def _double(function: Coder, values: Tensor) -> Tensor:
    return function(values.double()).double()


def alone_and_in_a_batch(architecture: str, device: torch.device, dtype: torch.dtype, size: int = 64) -> bool:
    """Whether an image has the same bits at every place of a batch, and again in a second run."""
    form = KLInference(network(architecture), Plan.of(device, dtype), device)
    images = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(3)).to(device) * 2 - 1
    once, turned = form.encode(images)[0], form.encode(images.roll(1, 0))[0]
    decoded, decoded_turned = form.decode(once), form.decode(turned)
    again = form.decode(form.encode(images)[0])
    return bool(
        torch.equal(once.roll(1, 0), turned)
        and torch.equal(decoded.roll(1, 0), decoded_turned)
        and torch.equal(decoded, again)
    )


def nominal_flop(architecture: str, size: int, form: bool) -> dict[str, int]:
    """The operations of one pass: of diffusers' forward, or executed by the fast form (form)."""
    device = torch.device("meta")
    model = network(architecture).to(device)
    latent = torch.empty(1, model.config["latent_channels"], size // 8, size // 8, device=device)
    images = torch.empty(1, 3, size, size, device=device)
    if form:
        step = in_form("", model, Plan(torch.float32, False, False, True), device)
        encode, decode = step.encode, step.decode
    else:
        encode, decode = lambda x: model.encode(x).latent_dist.mean, lambda z: model.decode(z).sample
    return {"encode": count_flop(lambda: encode(images)), "decode": count_flop(lambda: decode(latent))}


def measure(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> list[harness.Record]:
    """The speed of every step on one batch."""
    model = network(options.architecture).to(device)
    images = torch.rand(options.passes, 3, options.patch, options.patch, device=device) * 2 - 1
    latent = torch.randn(
        options.passes, model.config["latent_channels"], options.patch // 8, options.patch // 8, device=device
    )
    nominal = nominal_flop(options.architecture, options.patch, form=False)
    executed = nominal_flop(options.architecture, options.patch, form=True)
    products = harness.product_rates(device, dtype, 8192 if device.type == "cuda" else 1024).values()
    product = max(rate.core_tflops or rate.tflops for rate in products)
    records = []
    for step in steps(model, device, dtype, images, latent):
        print(f"{step.name} ...", file=sys.stderr, flush=True)
        harness.reset_peak_memory(device)
        record: harness.Record = {"step": step.name, "product_tflops": product}
        for part, function, values in (("encode", step.encode, images), ("decode", step.decode, latent)):
            measured = harness.rate(lambda: function(values), options.passes * nominal[part], device, options.repeats)  # noqa: B023
            tflops = (
                measured.core_tflops or measured.tflops
            )  # by processor time on a CPU, where other work stops the clock
            folded = (step.form is not None and step.form.plan.fold) or "graphs" in step.name
            share = (executed if folded else nominal)[part] / nominal[part]
            record |= {
                f"{part}_seconds": options.passes * nominal[part] / tflops / 1e12,
                f"{part}_nominal_tflops": tflops,
                f"{part}_executed_tflops": tflops * share,
                f"{part}_nominal_share": tflops / product,
            }
        records.append({**record, "peak_memory_bytes": harness.peak_memory(device)})
    return records


def show(records: Sequence[harness.Record], console: Console) -> None:
    table = Table(caption="TFLOP/s nominal (executed); % of the rate of a large matrix product, nominal")
    for name in ("step", "encode ms", "TFLOP/s", "%", "decode ms", "TFLOP/s", "%", "peak GiB"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for row in records:
        cells = [row["step"]]
        for part in ("encode", "decode"):
            cells += [
                f"{1000 * row[f'{part}_seconds']:.1f}",
                f"{row[f'{part}_nominal_tflops']:.3g} ({row[f'{part}_executed_tflops']:.3g})",
                f"{100 * row[f'{part}_nominal_share']:.0f}",
            ]
        table.add_row(*cells, f"{row['peak_memory_bytes'] / 2**30:.1f}")
    console.print(table)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--architecture", choices=sorted(ARCHITECTURES), default="sd1")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("auto", *DTYPES), default="auto")
    parser.add_argument("--patch", type=int, default=256, help="pixels")
    parser.add_argument("--passes", type=int, default=1, help="images of a batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args(arguments)


@harness.refusing_in_one_line
@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    device = harness.device_of(options)
    dtype = DTYPES[pick_precision(options.precision, device)]
    exactness = errors("tiny", device, dtype)
    records = measure(options, device, dtype)
    show(records, Console(width=160))
    settings = {**vars(options), "precision": str(dtype)}
    harness.print_json(
        {**harness.head("fast_path", device, settings), "weights": "random", "errors": exactness, "steps": records}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
