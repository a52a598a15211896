"""The counts of a stream as metrics of the cluster, which Ray's agents give to Prometheus."""

from ray.util.metrics import Counter

PREFIX = "sdvae_ray"  # of every name


class Counters:
    """Counters of one stream, made in the process that counts. Prometheus reads every name with `_total` at its end.

    sdvae_ray_fovs{stage}                 FOVs that passed a stage
    sdvae_ray_busy_seconds{stage}         seconds of work, summed over the actors of the stage
    sdvae_ray_actor_starts{stage}         actors that started, restarts among them
    sdvae_ray_restarts{stage}             actors that took the place of a dead one
    sdvae_ray_written_fovs                committed rows, failed rows among them
    sdvae_ray_failed_fovs                 committed rows with an error
    run                                   a label of all of them: the output of the run
    """

    def __init__(self, run: str) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            made = Counter(f"{PREFIX}_{name}", description=text, tag_keys=("run", *labels))
            made.set_default_tags({"run": run})
            return made

        self.fovs = counter("fovs", "FOVs that passed a stage", "stage")
        self.busy = counter("busy_seconds", "seconds of work of a stage, summed over its actors", "stage")
        self.starts = counter("actor_starts", "actors that started, restarts among them", "stage")
        self.restarts = counter("restarts", "actors that took the place of a dead one", "stage")
        self.commits = counter("written_fovs", "committed rows, failed rows among them")
        self.failures = counter("failed_fovs", "committed rows with an error")

    def actor(self, stage: str, again: bool) -> None:
        """Count an actor that started. again: True: it replaces a dead one."""
        self.starts.inc(1, {"stage": stage})
        if again:
            self.restarts.inc(1, {"stage": stage})

    def rows(self, stage: str, rows: int, seconds: float) -> None:
        """Count rows of a stage and its seconds of work on them."""
        _add(self.fovs, rows, {"stage": stage})
        _add(self.busy, seconds, {"stage": stage})

    def written(self, rows: int, errors: int) -> None:
        """Count committed rows, and how many of them failed."""
        _add(self.commits, rows, {})
        _add(self.failures, errors, {})


def _add(counter: Counter, amount: float, labels: dict[str, str]) -> None:
    if amount > 0:  # Ray refuses to add nothing
        counter.inc(amount, labels)
