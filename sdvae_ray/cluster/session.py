"""Ray itself: connects to a cluster, or starts Ray on this machine.

The driver calls these functions; actors and tasks never do.
"""

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TextIO

import ray
from rich.console import Console

from sdvae_ray.cluster.failures import RAY_LOGS
from sdvae_ray.cluster.ray_lines import log_ray_data, ray_lines_logged
from sdvae_ray.config import RunConfig
from sdvae_ray.console import waiting
from sdvae_ray.errors import ConfigError, RunError, one_line
from sdvae_ray.storage import is_remote

_LEAST_WORKERS = 8  # idle processes that a small machine keeps for the next task
_STARTS = 3  # of Ray at most


@contextmanager
def ray_session(address: str | None = None, console: Console | None = None) -> Iterator[None]:
    """Connect to the cluster at `address`; None: to the cluster of this job, else to a new Ray on this machine.

    console: says so where that takes longer than a second.

    Ray is shut down at the end of the block, unless it was running before. Raises ConfigError if no Ray answers at the address,
    RunError if Ray does not start.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options = {"include_dashboard": False} if address == "local" else {}
    # messages of Ray's C++ core go to log files, not to the terminal
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # a busy machine takes longer than Ray's 30 seconds
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
    # tasks ask for a part of a CPU: Ray ends idle workers beyond its number of CPUs, and the next task imports everything again
    os.environ.setdefault("RAY_num_workers_soft_limit", str(max(_LEAST_WORKERS, os.cpu_count() or 1)))
    try:
        what = "starting Ray on this machine" if address == "local" else f"connecting to Ray at {address}"
        with _own_sigterm(), _stderr_of_libraries_closed() as stderr, _said(what, console, stderr):
            _start(address, options)
    except ConnectionError as error:
        raise ConfigError(f"cannot connect to Ray at {address}: {one_line(error, None)}") from error
    except Exception as error:
        raise RunError(f"Ray did not start: {one_line(error, None)}; {RAY_LOGS}; run again") from error
    with ray_lines_logged():
        try:
            yield
        finally:
            with _own_sigterm():
                ray.shutdown()  # which prints lines that Ray held back


def _start(address: str, options: Mapping[str, Any]) -> None:
    """Start Ray. A busy machine takes longer than the 30 seconds that Ray gives a node, and no setting changes them: once more."""
    for attempt in range(1, _STARTS + 1):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except Exception as error:
            if attempt == _STARTS or "timed out during startup" not in str(error):
                raise


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM over the block, which starts or ends Ray.

    Ray puts a handler of its own in its place, which ends the driver with the lease held; at its end it takes away whatever handler
    there is, and Python does not know.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def quiet_ray_data(is_watched: bool = False) -> None:
    """Switch off the progress bars and advice of Ray Data: the driver reports the committed FOVs itself.

    is_watched: the driver also finds out itself whether a stream hangs; else Ray ends a stream after 30 minutes without progress.
    """
    context = ray.data.DataContext.get_current()
    context.execution_no_progress_timeout_s = (
        -1 if is_watched else ray.data.DataContext().execution_no_progress_timeout_s
    )
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []  # their advice on memory= repeats every 30 s
    log_ray_data()
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")  # appears in a run of few FOVs


def check_output_is_shared(config: RunConfig) -> None:
    """Raise ConfigError for a local output folder, if the cluster has several nodes and no shared file system."""
    if not config.cluster.shared_filesystem:
        remedy = ", or cluster.shared_filesystem: true where it is the same folder on all nodes"
        check_folder_is_shared("output", config.output, config.cluster.autoscaling, remedy)


def check_folder_is_shared(name: str, folder: str, autoscaling: bool = False, remedy: str = "") -> None:
    """Raise ConfigError for a local folder, if the cluster has several nodes. name: the setting's; remedy: ends the error."""
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    several = f"the cluster has {nodes} nodes" if nodes > 1 else "cluster.autoscaling brings more nodes"
    if (nodes > 1 or autoscaling) and not is_remote(folder):
        raise ConfigError(f"{name}: {folder} is a local folder, and {several}; write s3://...{remedy}")


@contextmanager
def _stderr_of_libraries_closed() -> Iterator[TextIO]:
    """Close file descriptor 2, on which Ray's C++ core writes a greeting at every log level; errors come as exceptions.

    The block gets the standard error output for its own lines.
    """
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w") as stderr:
        try:
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), 2)
            yield stderr
        finally:
            os.dup2(stderr.fileno(), 2)


def _said(what: str, console: Console | None, stderr: TextIO) -> AbstractContextManager[None]:
    """Say on the console what the block does, if that takes long. stderr: takes the lines of a console of standard error."""
    if console is None:
        return nullcontext()
    if console.file is sys.stderr:
        console = Console(file=stderr, width=console.width)
    return waiting(console, what)
