"""What every benchmark shares: the machine and its own rates, timing, memory, FLOP counts and the closing JSON line.

Nothing here knows what is measured. A machine is named by its processor, never by a host name, an address or a path.
"""

import argparse
import datetime
import gc
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Record = dict[str, Any]
KINDS = ("product", "convolution")  # of reference rates


@dataclass(frozen=True)
class Sample:
    """One timed call.

    wall  seconds
    cpu   seconds of processor time that this process was given meanwhile, all of its threads
    """

    wall: float
    cpu: float


@dataclass(frozen=True)
class Rate:
    """What a kernel reaches.

    tflops       10^12 operations per second of the clock
    core_tflops  per second of processor time and thread, which a loaded machine does not blur; None on a GPU
    """

    tflops: float
    core_tflops: float | None


def machine(device: torch.device) -> Record:
    """The machine in words, for the JSON line and RESULTS.md."""
    found: Record = {
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
        found |= {
            "device": properties.name,
            "device_memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32": {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
        }
    return found


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], object], device: torch.device) -> Sample:
    """Seconds of one call, the device idle before and after."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    synchronise(device)
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


def median(samples: Sequence[Sample]) -> int:
    """Index of the (lower) median by wall time: one call that took place, so that its parts sum to its whole."""
    return sorted(range(len(samples)), key=lambda i: samples[i].wall)[(len(samples) - 1) // 2]


def rate(call: Callable[[], object], flop: float, device: torch.device, repeats: int = 5) -> Rate:
    """Of a call of `flop` operations: warmed up, the median of `repeats`."""
    with torch.inference_mode():
        call()
        samples = [timed(call, device) for _ in range(repeats)]
    middle = samples[median(samples)]
    core = flop / middle.cpu / torch.get_num_threads() / 1e12 if device.type == "cpu" else None
    return Rate(flop / middle.wall / 1e12, core)


def product_rates(device: torch.device, dtype: torch.dtype, size: int) -> dict[str, Rate]:
    """The product of two square matrices of side `size`, by library.

    A CPU has two: the BLAS behind torch.matmul, which may leave half of another maker's processor idle, and oneDNN,
    which runs the convolutions. Compare with the faster.
    """
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    flop = 2.0 * size**3
    found = {"matmul": rate(lambda: a @ b, flop, device)}
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if device.type == "cpu" and onednn is not None:
        found["onednn"] = rate(lambda: onednn(a, b, None, "none", [], ""), flop, device)
    return found


def convolution_rate(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], channels_last: bool
) -> Rate:
    """A 3 x 3 convolution from C to C channels over (N, C, S, S); `shape` is (N, C, S)."""
    count, channels, side = shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.randn(count, channels, side, side, device=device).to(dtype).contiguous(memory_format=layout)
    weights = torch.randn(channels, channels, 3, 3, device=device).to(dtype).contiguous(memory_format=layout)
    flop = 2.0 * count * channels**2 * 9 * side**2
    return rate(lambda: torch.nn.functional.conv2d(images, weights, padding=1), flop, device)


def reference_rates(
    device: torch.device,
    dtype: torch.dtype,
    product: int,
    convolutions: Sequence[tuple[int, int, int]],
    channels_last: bool,
) -> dict[str, Rate]:
    """Of one large product and of convolutions (N, C, S), by name, which begins with the kind."""
    rates = {f"product {product} {name}": rate for name, rate in product_rates(device, dtype, product).items()}
    for shape in convolutions:
        count, channels, side = shape
        name = f"convolution {count}x{channels}x{side}x{side}"
        rates[name] = convolution_rate(device, dtype, shape, channels_last)
    return rates


def faster(before: dict[str, Rate], after: dict[str, Rate]) -> dict[str, Rate]:
    """What the machine reached at its better moment."""
    return {name: max(before[name], after[name], key=lambda rate: rate.core_tflops or rate.tflops) for name in before}


def shares(flop: float, spent: Sample, rates: dict[str, Rate]) -> dict[str, float]:
    """Of the fastest reference of each kind. On a CPU both are per second of processor time, which load blurs less."""
    found = {}
    for kind in KINDS:
        of_kind = [rate for name, rate in rates.items() if name.startswith(kind)]
        by_core = [rate.core_tflops for rate in of_kind if rate.core_tflops is not None]
        seconds = spent.cpu * torch.get_num_threads() if by_core else spent.wall
        found[f"share_of_{kind}"] = flop / seconds / 1e12 / max(by_core or [rate.tflops for rate in of_kind])
    return found


def count_flop(call: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions in one call, a multiply-add being two.

    Attention runs as plain products meanwhile: the counter sees none in the fused kernel of a CPU.
    """
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return int(counter.get_total_flops())


def reset_peak_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # Linux: 5 resets the peak of the resident set
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes since the last reset: allocated on the GPU, or resident in this process, models and libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def cudnn_benchmark(enabled: bool) -> Iterator[None]:
    """cuDNN's autotuning, on or off."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = enabled
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def positive_numbers(text: str) -> list[int]:
    """For argparse: 1,2,4."""
    found = [int(number) for number in text.split(",")]
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"numbers of at least 1 are wanted, got {text}")
    return found


def head(benchmark: str, device: torch.device, settings: Record) -> Record:
    """How every record begins: which benchmark, when, where and with what."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"benchmark": benchmark, "date": date, "machine": machine(device), "settings": settings}


def print_json(record: Record) -> None:
    """The last line of a benchmark's standard output."""
    print(json.dumps(_rounded(record)), flush=True)


def _rounded(value: Any) -> Any:
    """Five significant digits are more than a timing holds."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
