"""Errors of workers, as the user reads them: ours as they were raised, lost processes in one line, mistakes with a traceback."""

import os
import signal

import pytest
import ray
from ray.exceptions import RayTaskError

from sdvae_ray.cluster.failures import unwrapped_failures
from sdvae_ray.errors import DataError, RunError


@ray.remote(num_cpus=0, max_retries=0)
def fails(kind: str) -> None:
    """Fails in the way that is asked for."""
    if kind == "ours":
        raise DataError("plates.csv: no column Metadata_Well")
    if kind == "a mistake":
        raise IndexError("list index out of range")
    os.kill(os.getpid(), signal.SIGKILL)


@ray.remote(num_cpus=0)
class Mortal:
    """An actor that ends its own process."""

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_an_error_of_ours_comes_back_as_it_was_raised(local_ray):
    with pytest.raises(DataError, match=r"^plates\.csv: no column Metadata_Well$"), unwrapped_failures():
        ray.get(fails.remote("ours"))


def test_a_lost_process_is_one_line_and_names_the_logs(local_ray):
    for lost in (fails.remote("dies"), Mortal.remote().end.remote()):
        with pytest.raises(RunError, match="a process of the cluster is lost: .*/logs") as caught, unwrapped_failures():
            ray.get(lost)
        assert "\n" not in str(caught.value)


def test_a_mistake_of_our_code_keeps_its_traceback(local_ray):
    with pytest.raises(RayTaskError, match="IndexError"), unwrapped_failures():
        ray.get(fails.remote("a mistake"))
