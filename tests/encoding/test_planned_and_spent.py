"""A real run through Ray: what its record says was spent is what was planned before, and what lies on the disk."""

from pathlib import Path

from field_files import STAINS
from straight_line import FOVS

from sdvae_ray.engine.flop import flop_of_a_call, models_without_data
from sdvae_ray.planning.measured import measured
from sdvae_ray.planning.plan import Asked, plan
from sdvae_ray.planning.rates import rates_of
from sdvae_ray.planning.work import flop_of_a_fov
from sdvae_ray.run.cost import recorded
from sdvae_ray.run.run import Run
from sdvae_ray.schema import uri_column
from sdvae_ray.sources.manifest.manifest import read_manifest


def test_planned_requests_bytes_and_operations_are_those_of_the_ledger(encoded):
    """Eleven FOVs, one of them with a truncated file, which is read and not encoded."""
    run = Run(encoded)
    told = plan(run, Asked(workers=(1,), sample=FOVS))
    planned, spent = told["planned"], told["spent"]
    exact = ("fovs", "reads", "read_bytes", "looks", "writes", "objects", "written_bytes")
    assert {name: spent[name] for name in exact} == {name: planned[name] for name in exact}
    manifest = read_manifest(encoded.manifest, run.storage)
    files = [Path(uri) for stain in STAINS for uri in manifest[uri_column(stain)]]
    assert (spent["reads"], spent["read_bytes"]) == (5 * FOVS, sum(file.stat().st_size for file in files))
    tables = list(Path(run.output).rglob("*.parquet"))
    assert (spent["objects"], spent["written_bytes"]) == (len(tables), sum(path.stat().st_size for path in tables))

    flop = flop_of_a_call(encoded, models_without_data(encoded, run.storage))
    assert planned["flop"] == FOVS * flop_of_a_fov(encoded, flop)
    assert spent["flop"] == (FOVS - 1) * flop_of_a_fov(encoded, flop) > 0
    assert recorded(run.record)["encode pca"].calls == FOVS - 1


def test_the_hours_spent_are_those_of_the_stages_and_the_rates_of_the_next_plan(encoded):
    run = Run(encoded)
    (stages,) = run.record["sessions"][0]["stages"]
    told = plan(run, Asked(workers=(1,), sample=0))
    assert told["spent"]["encode_hours"] == stages["encode"]["seconds"] / 3600
    assert told["spent"]["load_hours"] == stages["load"]["seconds"] / 3600
    rates = rates_of(encoded, measured(run))
    assert rates.seconds["encode"] == stages["encode"]["seconds"] / FOVS
    assert rates.on_gpu is False
    assert rates.origins["bytes out"] == "run.json of the run"
    assert told["worker"]["gpus"] == 0
