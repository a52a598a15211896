"""The file that CONTRIBUTING shows is a metric of the shelf as it stands, and a run reports it under its name."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sdvae_ray.metrics
from sdvae_ray import shelves
from sdvae_ray.engine.encode import Encoder
from sdvae_ray.engine.files.load import IMAGE
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import check_names, load_models, resolve_weights
from sdvae_ray.errors import ConfigError
from sdvae_ray.report.facts.metrics import metric_column
from sdvae_ray.schema import ERROR, FOV_ID
from sdvae_ray.storage import Storage

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


@pytest.fixture
def added(tmp_path, monkeypatch) -> str:
    """The metric of CONTRIBUTING, put on the shelf; its name."""
    found = re.search(r"`sdvae_ray/metrics/(\w+)\.py`:\n\n```python\n(.*?)```", TEXT, re.S)
    assert found is not None
    name, code = found.groups()
    assert name not in shelves.names("metrics")  # the example is of something new
    assert len(code.splitlines()) < 20
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setattr(sdvae_ray.metrics, "__path__", [*sdvae_ray.metrics.__path__, str(tmp_path)])
    yield name
    sys.modules.pop(f"sdvae_ray.metrics.{name}", None)


def test_the_metric_of_contributing_is_found_computed_and_reported(added, small_run_config):
    assert added in shelves.names("metrics")
    config = small_run_config(metrics=["mae", added])
    check_names(config)
    cpu = torch.device("cpu")
    models = load_models(config, resolve_weights(config, Storage()), cpu)
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 64, 64), np.uint8)
    batch = {FOV_ID: np.array(["a", "b"], object), ERROR: np.array(["", ""], object), IMAGE: image}
    out = Encoder(config, models, Forward(cpu, "float32"), 8)(batch)
    assert out[f"metrics/tiny:{added}"].shape == (2, 4, 5)
    assert (out[f"metrics/tiny:{added}"] > out["metrics/tiny:mae"]).all()
    assert not out[f"metrics/identity:{added}"].any()
    column = metric_column(config, added)
    assert (column.unit, column.better) == ("fraction of full scale", "lower")
    with pytest.raises(ConfigError, match=f"did you mean '{added}'"):
        check_names(small_run_config(metrics=[added[:-1]]))
