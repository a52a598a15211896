"""A question to a finished run is asked with the run file of today: what the file says of the run must be what the run was."""

from collections.abc import Collection

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.errors import ConfigError
from sdvae_ray.run.record import Record, check_same_run
from sdvae_ray.run.run import Run

_MODELS = ("autoencoders", "codecs", "extractors")
_PLACE = ("source", "subfolder", "revision")  # where weights are may change; what they are is compared by their hashes


def recorded(run: Run, names: Collection[str], settings: Collection[str] = ("image", "precision")) -> Record:
    """Return the run's record, after checking that the run file agrees with it on `settings` and on the models and codecs `names`.

    Other models may differ, and weights may have moved. Raises DataError if nothing has been encoded, ConfigError for the first
    key that differs and for a name that the run has not encoded yet.
    """
    record = run.record
    was = RunConfig.model_validate(record["config"])
    known = {name for shelf in _MODELS for name in getattr(was, shelf)} | {IMAGE_SIDE}
    if lacking := [name for name in names if name not in known]:
        raise ConfigError(f"{run.output} has no {lacking[0]} yet: `sdvae-ray encode --extend` adds it")
    now = {key: getattr(run.config, key) for key in settings}
    for shelf in _MODELS:
        models = dict(getattr(was, shelf))
        for name in models.keys() & getattr(run.config, shelf).keys() & set(names):
            place = {key: getattr(models[name], key) for key in _PLACE if hasattr(models[name], key)}
            models[name] = getattr(run.config, shelf)[name].model_copy(update=place)
        now[shelf] = models
    check_same_run(record, was.model_copy(update={**now, "output": run.output}), record["manifest"])
    return record
