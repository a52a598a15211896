"""Everything that a card must show, in one run of some minutes: exactness, equal bytes, waits, speed by step and kernel.

    python benchmarks/gpu_session.py                    # every part
    python benchmarks/gpu_session.py --parts exactness,steps --output out.json

It needs torch, triton, diffusers, torchvision, pydantic, pyarrow and imagecodecs alone. Weights and pixels are random. A part that
fails is an entry with its error, and the other parts go on. The last line of output is one JSON object. `--device cpu` with a small
architecture runs the same script without a card, to try it.
"""

import argparse
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import engine
import fast_path
import harness
import paper_loop
import torch
from rich.console import Console

from sdvae_ray.autoencoders._kl.inference import KLInference
from sdvae_ray.autoencoders._kl.plan import Plan
from sdvae_ray.engine.encode import Encoder
from sdvae_ray.engine.forward import DTYPES, Forward
from sdvae_ray.engine.models import load_models, resolve_weights
from sdvae_ray.engine.transfer import upload
from sdvae_ray.storage import Storage

FORMS = {"sd1": "SD 1.x and SDXL", "sd3": "SD3 and FLUX.1"}  # the networks of all public forms


class Session:
    """The device, the options, and the parts by name."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.options, self.device = options, device
        self.dtype = DTYPES[options.precision]
        self.config = engine.run_config(options)
        self.parts: dict[str, Callable[[], Any]] = {
            "exactness": self.exactness,
            "equal_bytes": self.equal_bytes,
            "waits": self.waits,
            "steps": self.steps,
            "kernels": self.kernels,
            "batches": self.batches,
            "copies": self.copies,
            "extractors": self.extractors,
            "programs": self.programs,
        }

    def exactness(self) -> list[harness.Record]:
        """The errors of the fast form and of diffusers against float64: bright and dark, float32 without TF32, and bfloat16."""
        records = []
        tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        for architecture in FORMS if self.options.architecture == "sd1" else [self.options.architecture]:
            for dtype in {torch.float32, self.dtype}:
                records += fast_path.errors(architecture, self.device, dtype)
        torch.backends.cudnn.allow_tf32 = tf32
        for row in records:
            encode = f"encode {row['encode_error']:.2e} of {row['mean_size']:.2g}"
            decode = f"decode {row['decode_error']:.2e} of {row['image_size']:.2g}"
            said = f"{row['architecture']:5} {row['precision']:8} {row['field']:6} {row['step']:9}"
            print(f"{said} largest error: {encode}, {decode}")
        return records

    def equal_bytes(self) -> dict[str, bool]:
        """Whether an image has the same bits at every place of a batch and in a second run."""
        equal = fast_path.alone_and_in_a_batch(self.options.architecture, self.device, self.dtype)
        print(f"the same bits at every place of a batch: {equal}")
        return {"equal": equal}

    def _encoder(self, name: str = "fast", micro_batch: int | None = None) -> Encoder:
        models = paper_loop.loaded(self.options, self.device, name)
        size = micro_batch or self.config.image.patches * len(self.config.image.triples)
        return Encoder(self.config, models, Forward(self.device, self.options.precision), size)

    def waits(self) -> harness.Record:
        """Whether the host waits for the device while it queues a batch of the engine: CUDA raises an error at every wait."""
        encoder, batch = self._encoder(), engine.random_fields(self.config.image, 2)
        engine.encode(encoder, batch)
        if self.device.type != "cuda":
            return {"checked": False}
        launch, problems = encoder._with_less_memory, set()

        def guarded(fov: Any) -> Any:
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                launched = launch(fov)
            torch.cuda.set_sync_debug_mode("default")
            places = [f"{Path(warning.filename).name}:{warning.lineno} {warning.message}" for warning in caught]
            problems.update(place for place in places if "synchronizing" in place)
            return launched

        encoder._with_less_memory = guarded  # type: ignore[method-assign]
        engine.encode(encoder, batch)
        print(f"waits while a batch is queued: {sorted(problems) or 'none'}")
        return {"checked": True, "waits": sorted(problems)}

    def steps(self) -> list[harness.Record]:
        """The table of the fast path, a row per step."""
        records = fast_path.measure(self._fast_path_options(), self.device, self.dtype)
        fast_path.show(records, Console(width=140))
        return records

    def _fast_path_options(self) -> argparse.Namespace:
        passes = self.config.image.patches * len(self.config.image.triples)
        return argparse.Namespace(**{**vars(self.options), "passes": passes})

    def kernels(self) -> harness.Record:
        """The device's time of the fast form by kernel."""
        if self.device.type != "cuda":
            return {}
        model = fast_path.network(self.options.architecture).to(self.device)
        form = KLInference(model, Plan.of(self.device, self.dtype), self.device)
        passes, patch = self._fast_path_options().passes, self.options.patch
        images = torch.rand(passes, 3, patch, patch, device=self.device)
        latent = torch.randn(passes, model.config["latent_channels"], patch // 8, patch // 8, device=self.device)
        record: harness.Record = {}
        for name, step, values in (("encode", form.encode, images), ("decode", form.decode, latent)):
            step(values)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                step(values)
                torch.cuda.synchronize()
            events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
            record[name] = [[event.key[:80], event.count, event.self_device_time_total / 1000] for event in events[:16]]
            print(f"{name}: {sum(event.self_device_time_total for event in events) / 1000:.2f} ms on the device")
            for key, count, milliseconds in record[name]:
                print(f"  {milliseconds:8.3f} ms  x{count:3d}  {key}")
        return record

    def batches(self) -> list[harness.Record]:
        """The engine at every micro-batch, one field a call."""
        batch, records = engine.random_fields(self.config.image, 2), []
        passes = self.config.image.patches * len(self.config.image.triples)
        for size in (4, 8, 16, 32):
            if size <= passes:
                encoder = self._encoder(micro_batch=size)
                harness.reset_peak_memory(self.device)
                engine.encode(encoder, batch)
                samples = [harness.timed(lambda: engine.encode(encoder, batch), self.device) for _ in range(3)]  # noqa: B023
                rate = 2 / samples[harness.median(samples)].wall
                records.append(
                    {"micro_batch": size, "fov_per_s": rate, "peak_memory_bytes": harness.peak_memory(self.device)}
                )
                print(
                    f"micro-batch {size:3d}: {rate:.2f} FOV/s, peak {records[-1]['peak_memory_bytes'] / 2**30:.1f} GiB"
                )
        return records

    def copies(self) -> harness.Record:
        """A field's copy to the device: from pinned memory, and whether it is hidden while another computes."""
        image = engine.random_fields(self.config.image, 1)["image"][0]
        alone = harness.timed(lambda: upload(image, self.device), self.device).wall
        encoder = self._encoder()
        rates = {}
        for fovs in (1, 4, 8):
            batch = engine.random_fields(self.config.image, fovs)
            engine.encode(encoder, batch)
            rates[fovs] = fovs / harness.timed(lambda: engine.encode(encoder, batch), self.device).wall  # noqa: B023
        print(
            f"copy in {1000 * alone:.2f} ms; FOV/s by fields of a batch: { ({n: round(rate, 2) for n, rate in rates.items()}) }"
        )
        return {"copy_seconds": alone, "fov_per_s_by_batch": rates}

    def extractors(self) -> list[harness.Record]:
        """InceptionV3 on a field: under autocast as the engine runs it, and with weights in the type, NCHW and NHWC."""
        models = load_models(self.config, resolve_weights(self.config, Storage()), self.device)
        extractor: Any = models.extractors[engine.EXTRACTOR]
        patch, passes = self.options.patch, self.config.image.patches
        rgb = torch.rand(passes, len(self.config.image.triples), 3, patch, patch, device=self.device)
        records = []
        for name, dtype, layout in (
            ("autocast", None, torch.contiguous_format),
            ("autocast, NHWC", None, torch.channels_last),
            ("weights in the type, NHWC", self.dtype, torch.channels_last),
        ):
            extractor.model.to(memory_format=layout, **({} if dtype is None else {"dtype": dtype}))
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                extractor(rgb)
                samples = [harness.timed(lambda: extractor(rgb), self.device) for _ in range(5)]
            seconds = samples[harness.median(samples)].wall
            records.append({"step": name, "seconds": seconds})
            print(f"inception_v3, one side of a field, {name}: {1000 * seconds:.2f} ms")
        return records

    def programs(self) -> list[harness.Record]:
        """Whole fields through the published loop, a competent program and the engine."""
        records = paper_loop.measure(self.config, self.device, self.options)
        paper_loop.show(records)
        return records


@harness.refusing_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    parser = engine.parser()
    parser.add_argument("--parts", help="names with commas between; default all")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="torch.compile in `programs`"
    )
    parser.add_argument("--output", type=Path, help="a file for the JSON")
    parser.set_defaults(fovs=4)
    options = parser.parse_args(arguments)
    device = engine.settled(options)
    options.micro_batch = options.micro_batch[0] if options.micro_batch else None
    session = Session(options, device)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    record: harness.Record = {**harness.head("gpu_session", device, settings), "weights": "random"}
    for name in options.parts.split(",") if options.parts else session.parts:
        start = time.monotonic()
        print(f"-- {name}", flush=True)
        try:
            with torch.inference_mode():
                record[name] = session.parts[name]()
        except Exception as error:  # noqa: BLE001 - the card's time is short: the other parts go on
            record[name] = {"error": repr(error)[:500]}
            traceback.print_exc(limit=-6)
        record[f"{name}_seconds"] = time.monotonic() - start
        print(f"-- {name}: {record[f'{name}_seconds']:.0f} s", flush=True)
        if options.output:
            harness.write_json(record, options.output)
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
