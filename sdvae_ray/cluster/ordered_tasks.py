"""Ray tasks whose results come in order, and of which only some run or wait at one time."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar

import ray
from rich.console import Console

from sdvae_ray.console import waiting

TASK_CPUS = 0.5  # CPUs that a task of `score` asks for: it waits for storage half of its time
_HEAVY = 1 << 30  # bytes; a smaller task declares no memory
_SHARE_OF_NODE = 0.8  # of the largest node, at most: a task that asks for more than any node has would wait for ever
_AHEAD = 4  # tasks that run, or whose results wait, per CPU of the cluster

# seconds of a stage before a line, and after that of another: `score` has hundreds of short ones
_FIRST, _BETWEEN = 1.0, 15.0


@dataclass
class _Stage:
    """What a stage does, and how many of its tasks have ended. total: 0 if it is not known. last_told: when any stage told."""

    last_told: ClassVar[float] = -math.inf

    what: str
    done: int = 0
    total: int = 0

    def told(self) -> str:
        """Return the line of the stage, which is printed now."""
        _Stage.last_told = time.monotonic()
        return f"{self.what}: {self.done:,} of {self.total:,} tasks" if self.total else self.what


_STAGE: ContextVar[_Stage | None] = ContextVar("stage", default=None)


@contextmanager
def stage(console: Console, what: str) -> Iterator[None]:
    """Say what the block does if it takes more than a second, and again while it goes on, with the tasks that have ended.

    Soon after a line of another stage it waits longer.
    """
    under_way = _Stage(what)
    token = _STAGE.set(under_way)
    try:
        with waiting(console, under_way.told, max(_FIRST, _Stage.last_told + _BETWEEN - time.monotonic())):
            yield
    finally:
        _STAGE.reset(token)


def count_tasks(done: int, total: int) -> None:
    """Tell the stage under way how many of its tasks have ended."""
    if under_way := _STAGE.get():
        under_way.done, under_way.total = done, total


def collected(references: Sequence[Any]) -> list[Any]:
    """Return the results of tasks that were started, and count them in the stage under way."""
    results = []
    for number, reference in enumerate(references, 1):
        results.append(ray.get(reference))
        count_tasks(number, len(references))
    return results


def mapped(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Yield the results of function(*item) for every item of `arguments`, in their order, as `in_order` does."""
    return in_order(_call, [(function, *item) for item in arguments])


@ray.remote(num_cpus=TASK_CPUS)
def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def in_order(task: Any, arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Yield the results of task.remote(*item) for every item of `arguments`, in their order.

    The stage under way counts them, of all where `arguments` is a sequence.
    task: a Ray remote function. An exception that a task returns as its result is raised here.
    """
    total = len(arguments) if isinstance(arguments, Sequence) else 0
    for done, result in enumerate(_windowed(task, arguments), 1):
        count_tasks(done, total)
        yield result


def _windowed(task: Any, arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Yield the results in order, while no more tasks than a window run or wait."""
    window = max(2, int(_AHEAD * ray.cluster_resources().get("CPU", 1)))
    under_way: deque[Any] = deque()
    for item in arguments:
        under_way.append(task.remote(*item))
        if len(under_way) >= window:
            yield _taken(under_way.popleft())
    while under_way:
        yield _taken(under_way.popleft())


def _taken(reference: Any) -> Any:
    result = ray.get(reference)
    if isinstance(result, Exception):
        raise result
    return result


def weighing(needed: int) -> dict[str, int]:
    """Return Ray options for a task that holds about `needed` bytes; empty if the task is small.

    With these options Ray runs no more such tasks on a node than its memory holds.
    """
    most = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    return {"memory": int(min(needed, _SHARE_OF_NODE * most))} if needed > _HEAVY and most else {}
