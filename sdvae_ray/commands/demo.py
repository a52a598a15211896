"""The demo: the packaged run with all its files in one folder, its run file among them, and what to try next.

Nothing heavy is imported until the command runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdvae_ray.commands import runs
from sdvae_ray.commands.first_line import begin
from sdvae_ray.console import print_line
from sdvae_ray.storage import Storage, absolute, join

if TYPE_CHECKING:
    from rich.console import Console

    from sdvae_ray.run.run import Run

_RUN_FILE, _PACKAGED = "run.yaml", "/tmp/sdvae-ray-demo"
ONE_MORE_SIDE = "  soft: {name: blur, sigma: 1}"  # a line of a run file
_PLACES = {"manifest": "manifest.parquet", "output": "run", "synthetic.folder": "plates"}
_REAL, _REAL_PREFIX = "real_field", "real_field/"  # the packaged folder of real crops; how its load_data.csv names it
# the run of the real crops: three fields tell nothing of a phenotype
_PIXELS_ALONE = ("synthetic=null", "extractors={}", "score.perturbation=null", "score.target=null", "score.group=[]")


def demo(output: str, overrides: Sequence[str], console: Console) -> None:
    """Run the demo in a folder, leave its run file there, and print the next three things to try.

    Real cells come first, in a run and on a page of their own: how the same autoencoders and codecs treat microscope images.
    """
    run = demo_run(output, overrides)
    begin("demo", run, console)
    from sdvae_ray.cluster.session import ray_session
    from sdvae_ray.engine.models import check_names

    check_names(run.config)  # a mistake leaves no file behind
    file = join(absolute(output), _RUN_FILE)
    Storage().write_bytes(file, run_file(run, absolute(output)).encode())
    with ray_session(console=console):
        runs.run_all(real_cells_run(output, overrides), console)
        runs.run_all(run, console)
    for line in (
        "Next:",
        f"  sdvae-ray conclude {run.output}   the verdicts with their intervals; --json for a program",
        f"  sdvae-ray encode {file} --extend   one side more, after the line `{ONE_MORE_SIDE}` under codecs: there",
        "  sdvae-ray init LOAD_DATA...   a run file for your own images",
    ):
        print_line(console, line)


def demo_run(output: str, overrides: Sequence[str]) -> Run:
    """Return the run of the packaged demo, with all its files under `output`."""
    from sdvae_ray.run.run import Run
    from sdvae_ray.weights import asset_path

    moved = [f"{key}={json.dumps(join(absolute(output), name))}" for key, name in _PLACES.items()]
    return Run.open(asset_path("demo.yaml"), [*moved, *overrides])


def real_cells_run(output: str, overrides: Sequence[str]) -> Run:
    """Return the run of the packaged real crops under `output`, and write its manifest there; what is stored and how it looks, no
    scores.
    """
    from sdvae_ray.run.run import Run
    from sdvae_ray.sources.manifest.manifest import build_manifest, write_manifest
    from sdvae_ray.weights import asset_path

    folder, images = join(absolute(output), "real"), asset_path(_REAL)
    manifest = join(folder, "manifest.parquet")
    built = build_manifest([str(images / "load_data.csv")], storage=Storage(), rewrites=[(_REAL_PREFIX, f"{images}/")])
    write_manifest(built.table, manifest, Storage())
    places = {"manifest": manifest, "output": join(folder, "run")}
    moved = [f"{key}={json.dumps(place)}" for key, place in places.items()]
    return Run.open(asset_path("demo.yaml"), [*overrides, *_PIXELS_ALONE, *moved])  # the last word counts


def run_file(run: Run, folder: str) -> str:
    """Return the text of the demo's run file: the packaged one, comments too, with the paths of `folder`; if the run was changed
    by overrides, every key without comments.
    """
    import yaml

    from sdvae_ray.errors import ConfigError
    from sdvae_ray.runfile import parse_run
    from sdvae_ray.weights import asset_path

    text = Path(asset_path("demo.yaml")).read_text().replace(_PACKAGED, folder)
    try:
        same = parse_run(yaml.safe_load(text)) == run.config
    except (yaml.YAMLError, ConfigError):  # a folder whose name means something in YAML
        same = False
    return text if same else yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False)
