"""What is on the shelves: nothing is left out, in numbers for programs and in lines that fit for people."""

import io
import json
import math
import subprocess
import sys

import pytest
from rich.console import Console

from sdvae_ray import shelves
from sdvae_ray.config import SHELVES
from sdvae_ray.metrics import radial_power
from sdvae_ray.report.facts.catalogue import catalogue
from sdvae_ray.report.terminal.catalogue import NO_WEIGHTS, parameters_text, print_catalogue

ENTRIES = catalogue()
CHECKPOINTS = [(entry, checkpoint) for entry in ENTRIES for checkpoint in entry["checkpoints"]]


def printed(width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    print_catalogue(console)
    return console.export_text()


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_every_module_of_every_shelf_is_there_once():
    on_shelves = [(shelf, name) for shelf in SHELVES for name in shelves.names(shelf)]
    assert [(entry["shelf"], entry["name"]) for entry in ENTRIES] == on_shelves
    assert all(entry["summary"] == shelves.summary(entry["shelf"], entry["name"]) for entry in ENTRIES)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e["shelf"] != "metrics"], ids=lambda entry: entry["name"])
def test_every_model_and_codec_has_a_checkpoint_with_its_facts(entry):
    assert entry["checkpoints"]
    for checkpoint in entry["checkpoints"]:
        assert checkpoint["licence"]
        assert checkpoint["input"]
        assert checkpoint["output"]
        assert checkpoint["parameters"] is None or checkpoint["parameters"] >= 0


def test_at_hand_is_what_ships_and_is_not_asked_of_what_needs_nothing():
    at_hand = {checkpoint["source"]: checkpoint["at_hand"] for _, checkpoint in CHECKPOINTS}
    assert at_hand[None] is None
    assert {"asset:demo_kl", "asset:patch_pca"} <= at_hand.keys()
    assert all(here is True for source, here in at_hand.items() if source and source.startswith("asset:"))
    assert all(isinstance(here, bool) for source, here in at_hand.items() if source)


def test_a_snapshot_in_the_cache_is_at_hand(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def found() -> list[str]:
        return [c["source"] for e in catalogue() for c in e["checkpoints"] if c["at_hand"] and ":" not in c["source"]]

    assert found() == []
    model = tmp_path / "models--CompVis--stable-diffusion-v1-4"
    snapshot = model / "snapshots" / ("0" * 40)
    (snapshot / "vae").mkdir(parents=True)
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").touch()
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    assert found() == ["CompVis/stable-diffusion-v1-4"]


def test_metrics_have_their_unit_direction_and_bands():
    metrics = {entry["name"]: entry for entry in ENTRIES if entry["shelf"] == "metrics"}
    assert (metrics["psnr"]["unit"], metrics["psnr"]["higher_is_better"]) == ("dB", True)
    assert (metrics["mae"]["higher_is_better"], metrics["kld"]["higher_is_better"]) == (False, None)
    assert metrics["radial_power"]["bands"] == list(radial_power.BANDS)
    assert (metrics["lpips"]["takes_weights"], metrics["mae"]["takes_weights"]) == (True, False)


def test_it_is_plain_json():
    assert json.loads(json.dumps(ENTRIES)) == ENTRIES


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_page_fits_and_leaves_nothing_out(width):
    text = printed(width)
    assert max(map(len, text.splitlines())) <= width
    together = squeezed(text)
    for entry in ENTRIES:
        assert squeezed(entry["name"] + entry["summary"].split()[0]) in together
    lines = [line.strip() for line in text.splitlines()]
    for _, checkpoint in CHECKPOINTS:
        assert squeezed(f"{checkpoint['input']}→{checkpoint['output']}") in together
        assert squeezed(checkpoint["note"]) in together
        source, count = checkpoint["source"] or NO_WEIGHTS, parameters_text(checkpoint["parameters"])
        here = {True: "yes", False: "no", None: "–"}[checkpoint["at_hand"]]
        begin = (source[:24], checkpoint["licence"].split()[0])
        assert any(line.startswith(begin[0]) and f" {count}  {here} " in line and begin[1] in line for line in lines)


def test_the_rows_of_a_shelf_are_aligned():
    section = printed(100).partition("\ncodecs\n")[0].splitlines()
    head = next(line for line in section if "at hand" in line)
    rows = [
        line
        for line in section
        if line.startswith("      ") and line[head.index("at hand") :].startswith(("yes", "no"))
    ]
    assert len(rows) == sum(bool(c["source"]) for e, c in CHECKPOINTS if e["shelf"] == "autoencoders")
    for row in rows:
        assert row[head.index("params") + len("params") - 1].strip()  # right-aligned under its heading
        assert row[head.index("licence") - 1] == " "
        assert row[head.index("licence")] != " "


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "–"), (0, "0"), (960, "960"), (2_086_215, "2.1 M"), (83_653_863, "83.7 M"), (1_234_567_890, "1,234.6 M")],
)
def test_parameters_are_counted_in_millions(count, text):
    assert parameters_text(count) == text


def test_the_millions_are_those_of_the_checkpoint():
    for _, checkpoint in CHECKPOINTS:
        if (checkpoint["parameters"] or 0) >= 10_000:
            shown = float(parameters_text(checkpoint["parameters"]).removesuffix(" M").replace(",", ""))
            assert math.isclose(shown * 1e6, checkpoint["parameters"], abs_tol=50_001)


def test_nothing_heavy_is_imported_and_no_socket_opened():
    program = """
import socket, sys
def refuse(*_): raise AssertionError("a network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from rich.console import Console
from sdvae_ray.report.terminal.catalogue import print_catalogue
print_catalogue(Console(width=100))
print([name for name in ("diffusers", "transformers", "timm", "imagecodecs", "faiss", "ray") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
