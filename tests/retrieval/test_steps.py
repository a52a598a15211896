"""The folder of normalisation steps: the file that CONTRIBUTING shows is a step as it stands, and every step keeps the contract."""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_normalise import group, places

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.retrieval.normalisation import saved_fit, steps
from sdvae_ray.retrieval.normalisation.contract import apply
from sdvae_ray.retrieval.normalisation.normalise import normalise, resolve_steps
from sdvae_ray.retrieval.normalisation.shelf import checked_options, find_step, has_fit, step_names
from sdvae_ray.retrieval.normalisation.wells import Wells
from sdvae_ray.runfile import override

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
DOCUMENTED = (ROOT / "docs/normalisation.md").read_text()


@pytest.fixture
def added(tmp_path, monkeypatch) -> str:
    """The step of CONTRIBUTING, put into the folder; its name."""
    shown = re.search(
        r"`sdvae_ray/retrieval/normalisation/steps/(\w+)\.py`:\n\n```python\n(.*?)```", CONTRIBUTING, re.S
    )
    assert shown is not None
    name, code = shown.groups()
    assert name not in step_names()  # the example is of something new
    assert len(code.splitlines()) < 20
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setattr(steps, "__path__", [*steps.__path__, str(tmp_path)])
    yield name
    sys.modules.pop(f"{steps.__name__}.{name}", None)


def test_the_step_of_contributing_is_found_fitted_and_recorded(added):
    x, is_control, plate = group()
    out = normalise(x, is_control, plate, [{added: {"share": 0.5}}, "plate_standardise"])
    one = normalise(x, is_control, plate, [added])
    for name in np.unique(plate):
        on = plate == name
        np.testing.assert_array_equal(one.features[on], x[on] - np.median(x[on & is_control], axis=0))
    assert one.record == [{"step": added, "fit": "controls", "fit_wells": 32, "features": 60, "plates": 2}]
    alone = normalise(x, is_control, plate, "plate_standardise").features
    np.testing.assert_allclose(out.features, alone, rtol=0, atol=1e-9)


def test_the_fit_of_the_step_of_contributing_is_stored_and_read_back(added):
    x, is_control, plate = group()
    out = normalise(x, is_control, plate, [added, "sphere"])
    chain = saved_fit.from_bytes(saved_fit.to_bytes(out.chain))
    wells = Wells(is_control, is_control, plate, plate, np.arange(len(x)), np.full(len(x), ""))
    np.testing.assert_array_equal(apply(chain, x, wells), out.features)


def test_the_options_of_the_step_of_contributing_are_those_of_its_signature(added):
    assert resolve_steps([added]) == [(added, {"share": 1.0, "fit": "controls"})]
    command = re.search(rf'--set "(score\.normalise=.*{added}.*?)"', CONTRIBUTING)
    run = dict[str, Any]()
    override(run, command[1])
    assert resolve_steps(run["score"]["normalise"])[0] == (added, {"share": 0.5, "fit": "controls"})
    with pytest.raises(ConfigError, match=f"did you mean '{added}'"):
        resolve_steps([added[:-1]])
    with pytest.raises(ConfigError, match=f"did you mean 'share'. .*{added}: x - share"):
        resolve_steps([{added: {"shared": 1}}])
    with pytest.raises(ConfigError, match="share must be a finite number of at least 0"):
        resolve_steps([{added: {"share": -1}}])
    x, is_control, plate = group()
    with pytest.raises(DataError, match=f"plate P1: 0 control wells; {added} needs at least 2 on each plate"):
        normalise(x, is_control & (plate == "P0"), plate, [added])


@pytest.mark.parametrize("name", step_names())
def test_every_option_of_a_step_has_a_default_that_a_run_file_could_name(name, monkeypatch):
    module = find_step(name)
    monkeypatch.setattr(module, "check", lambda **options: None, raising=False)  # a package may not be installed
    defaults = checked_options(name, {})
    assert inspect.Parameter.empty not in defaults.values()
    assert checked_options(name, defaults) == defaults
    with pytest.raises(ConfigError, match=f"unknown parameter 'no_such' of {name} .*allowed: .*{name}: "):
        checked_options(name, {"no_such": 1})


@pytest.mark.parametrize("name", step_names())
@pytest.mark.parametrize("per", ["group", "plate"])
@pytest.mark.parametrize("controls", [0, 1])
def test_a_plate_without_two_controls_is_normalised_or_refused_in_one_line(name, per, controls):
    x, is_control, plate = group()
    is_control &= (plate == "P0") | (np.arange(len(x)) == 40 if controls else False)
    signature = inspect.signature(find_step(name).fit_to).parameters
    try:
        steps = resolve_steps([{name: {"per": per} if "per" in signature else {}}])
    except ConfigError:  # harmony without its package
        assert hasattr(find_step(name), "NO_FIT")
        return
    fitted_per = per if "per" in signature else getattr(find_step(name), "PER", "group")
    if fitted_per == "group":
        assert np.isfinite(normalise(x, is_control, plate, [dict(steps)], position=places()).features).all()
    else:
        with pytest.raises(DataError, match=f"^[a-z]+ P1: {controls} control wells; {name} needs at least 2 on each"):
            normalise(x, is_control, plate, [dict(steps)])


@pytest.mark.parametrize("name", step_names())
def test_every_step_and_its_options_are_in_the_documentation(name):
    rows = [line.split(" | ") for line in DOCUMENTED.splitlines() if line.startswith(f"| `{name}` |")]
    (options,) = (row[2] for row in rows if len(row) == 3)  # a preset's row has two cells
    documented = re.findall(r"(\w+)[^,]*(?:,|$)", re.sub(r"\(.*?\)", "", options).strip(" |"))
    signature = inspect.signature(find_step(name).fit_to)
    assert documented == [option for option in signature.parameters if option != "source"]


def test_harmony_alone_has_no_fit_for_another_well():
    assert [name for name in step_names() if not has_fit([(name, {})])] == ["harmony"]


def test_an_option_of_a_type_that_cannot_be_checked_is_a_bug_of_the_step(monkeypatch):
    def fit_to(source, *, columns: list[int] = ()): ...

    monkeypatch.setattr(find_step("standardise"), "fit_to", fit_to)
    with pytest.raises(TypeError, match=r"standardise: columns is of the type list\[int\]"):
        checked_options("standardise", {"columns": [1]})
