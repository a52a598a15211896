"""The parts that all benchmarks share: the machine and its rates, timing, memory and the last JSON line.

This file knows no benchmark. A machine is named by its processor, never by a host name, an address or a path.
"""

import argparse
import datetime
import functools
import gc
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdvae_ray.engine.models import pick_device
from sdvae_ray.errors import ConfigError, UserError

Record = dict[str, Any]
KINDS = ("product", "convolution")  # of reference rates


@dataclass(frozen=True)
class Sample:
    """One timed call.

    wall  seconds
    cpu   seconds of processor time of this process during the call, over all its threads
    """

    wall: float
    cpu: float


@dataclass(frozen=True)
class Rate:
    """The speed of a kernel.

    tflops       10^12 operations per second of the clock
    core_tflops  10^12 operations per second of processor time and thread, which other load changes little; None on a GPU
    """

    tflops: float
    core_tflops: float | None


def machine(device: torch.device) -> Record:
    """The machine in words, for the JSON line and RESULTS.md."""
    facts: Record = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": round(os.getloadavg()[0], 2),  # of the last minute, before this run
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "device": properties.name,
            "device_memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32": {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
        }
    return facts


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def synchronise(device: torch.device) -> None:
    """Waits until the GPU has finished its work; does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], object], device: torch.device) -> Sample:
    """The seconds of one call; the device is idle before and after."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    synchronise(device)
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


def median(samples: Sequence[Sample]) -> int:
    """The index of the (lower) median by wall time: one real call, so that its parts sum to its whole."""
    return sorted(range(len(samples)), key=lambda i: samples[i].wall)[(len(samples) - 1) // 2]


def rate(call: Callable[[], object], flop: float, device: torch.device, repeats: int = 5) -> Rate:
    """The rate of a call of `flop` operations: the median of `repeats` calls, after one call to warm up."""
    with torch.inference_mode():
        call()
        samples = [timed(call, device) for _ in range(repeats)]
    middle = samples[median(samples)]
    core = flop / middle.cpu / torch.get_num_threads() / 1e12 if device.type == "cpu" else None
    return Rate(flop / middle.wall / 1e12, core)


def product_rates(device: torch.device, dtype: torch.dtype, size: int) -> dict[str, Rate]:
    """Library -> the rate of the product of two square matrices of size `size`.

    A CPU has two libraries: the BLAS behind torch.matmul, which may leave half of a processor of another maker idle, and oneDNN,
    which runs the convolutions. Compare with the faster library.
    """
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    flop = 2.0 * size**3
    rates = {"matmul": rate(lambda: a @ b, flop, device)}
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if device.type == "cpu" and onednn is not None:
        rates["onednn"] = rate(lambda: onednn(a, b, None, "none", [], ""), flop, device)
    return rates


def convolution_rate(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], channels_last: bool
) -> Rate:
    """The rate of a 3 x 3 convolution from C to C channels over (N, C, S, S); `shape` is (N, C, S)."""
    count, channels, size = shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.randn(count, channels, size, size, device=device).to(dtype).contiguous(memory_format=layout)
    weights = torch.randn(channels, channels, 3, 3, device=device).to(dtype).contiguous(memory_format=layout)
    flop = 2.0 * count * channels**2 * 9 * size**2
    return rate(lambda: torch.nn.functional.conv2d(images, weights, padding=1), flop, device)


def reference_rates(
    device: torch.device,
    dtype: torch.dtype,
    product: int,
    convolutions: Sequence[tuple[int, int, int]],
    channels_last: bool,
) -> dict[str, Rate]:
    """Name -> the rate of one large product, or of a convolution (N, C, S). A name begins with one of KINDS."""
    rates = {f"product {product} {name}": rate for name, rate in product_rates(device, dtype, product).items()}
    for shape in convolutions:
        count, channels, size = shape
        name = f"convolution {count}x{channels}x{size}x{size}"
        rates[name] = convolution_rate(device, dtype, shape, channels_last)
    return rates


def faster(before: dict[str, Rate], after: dict[str, Rate]) -> dict[str, Rate]:
    """The higher rate of every kernel, of two measurements."""
    return {name: max(before[name], after[name], key=lambda rate: rate.core_tflops or rate.tflops) for name in before}


def shares(flop: float, spent: Sample, rates: dict[str, Rate]) -> dict[str, float]:
    """share_of_<kind> -> `flop` per second as a share of the fastest reference of that kind.

    On a CPU both rates are per second of processor time, which other load changes less.
    """
    result = {}
    for kind in KINDS:
        references = [rate for name, rate in rates.items() if name.startswith(kind)]
        by_core = [rate.core_tflops for rate in references if rate.core_tflops is not None]
        seconds = spent.cpu * torch.get_num_threads() if by_core else spent.wall
        result[f"share_of_{kind}"] = flop / seconds / 1e12 / max(by_core or [rate.tflops for rate in references])
    return result


def reset_peak_memory(device: torch.device) -> None:
    """Starts the measurement of `peak_memory` again."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # Linux: 5 resets the peak of the resident set
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """The peak in bytes since the last reset: allocated on the GPU, or resident in this process with its models and libraries."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def cudnn_benchmark(enabled: bool) -> Iterator[None]:
    """A block in which cuDNN's autotuning is on or off."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = enabled
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def device_of(options: argparse.Namespace) -> torch.device:
    """Sets --threads and returns the device of --device; ConfigError where torch does not see it."""
    torch.set_num_threads(options.threads)
    device = torch.device("cpu") if options.device == "cpu" else pick_device(1)
    if options.device not in ("auto", device.type):
        raise ConfigError(f"--device {options.device}: torch sees none here")
    return device


def refusing_in_one_line(main: Callable[[Sequence[str] | None], int]) -> Callable[[Sequence[str] | None], int]:
    """A main that prints the line of a UserError and returns its exit code."""

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except UserError as error:
            print(error, file=sys.stderr)
            return error.exit_code

    return run


def positive_numbers(text: str) -> list[int]:
    """The numbers of a text such as 1,2,4, for argparse."""
    numbers = [int(number) for number in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"numbers of at least 1 are wanted, got {text}")
    return numbers


def head(benchmark: str, device: torch.device, settings: Record) -> Record:
    """The first entries of every record: the benchmark, the date, the machine and the settings."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"benchmark": benchmark, "date": date, "machine": machine(device), "settings": settings}


def print_json(record: Record) -> None:
    """Prints the last line of the standard output of a benchmark."""
    print(json.dumps(_rounded(record)), flush=True)


def write_json(record: Record, file: Path) -> None:
    """Writes the JSON of a record to a file."""
    file.write_text(json.dumps(_rounded(record)))


def _rounded(value: Any) -> Any:
    """Every float with five significant digits, which are more than a timing holds."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
