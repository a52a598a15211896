"""The benchmark of packings on a real field: what packing three stains into one image costs, with a real autoencoder."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def packings() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("packings", BENCHMARKS / "packings.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


@pytest.mark.slow  # nine passes of a real autoencoder
def test_a_stain_alone_keeps_decibels_that_the_published_packing_costs(packings, real_field, shared):
    weights = shared / "data/weights/taef2"
    if not weights.is_dir():
        pytest.skip(f"the weights are not at {weights}")
    planes = [real_field[stain] for stain in packings.STAINS]
    sides = packings.measure(packings.run_of(weights, 256), packings.scaled_field(planes))
    published, last, grey = (np.array(sides[side]["psnr"]) for side in ("published", "published_last", "grey"))
    assert published == pytest.approx([33.9, 36.1, 34.6, 39.3, 35.3], abs=0.1)
    assert grey == pytest.approx([38.4, 42.1, 42.4, 43.6, 42.5], abs=0.1)
    assert last[2] == pytest.approx(37.1, abs=0.1)  # RNA of the second triple
    assert np.delete(last, 2) == pytest.approx(np.delete(published, 2))
    leaks, alone = (np.array(sides[side]["leakage"], float) for side in ("published", "grey"))
    mito, agp, rna = range(3)
    assert leaks[agp, mito] > 0.3  # the texture of Mito is drawn into AGP
    assert leaks[mito, agp] > 0.15
    assert leaks[rna, agp] > 0.15
    assert np.nanmax(np.abs(alone)) < 0.15
