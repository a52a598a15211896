"""Ray tasks whose results come in order, and of which only some run or wait at one time."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import ray

TASK_CPUS = 0.5  # CPUs that a task of `score` asks for: it waits for storage half of its time
_HEAVY = 1 << 30  # bytes; a smaller task declares no memory
_SHARE_OF_NODE = 0.8  # of the largest node, at most: a task that asks for more than any node has would wait for ever
_AHEAD = 4  # tasks that run, or whose results wait, per CPU of the cluster


def in_order(task: Any, arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Yield the results of task.remote(*item) for every item of `arguments`, in their order.

    task: a Ray remote function. An exception that a task returns as its result is raised here.
    """
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
