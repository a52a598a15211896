"""Ray tasks whose results are wanted in order and never all at once."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import ray

_HEAVY = 1 << 30
_OF_A_NODE = 0.8  # at most: a task that asks for more than any node has would wait for ever
_AHEAD = 4  # tasks under way or waiting to be taken, per CPU of the cluster


def in_order(task: Any, arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Results of task.remote(*each), in the order of `arguments`; an exception that a task returned is raised here."""
    window = max(2, int(_AHEAD * ray.cluster_resources().get("CPU", 1)))
    under_way: deque[Any] = deque()
    for each in arguments:
        under_way.append(task.remote(*each))
        if len(under_way) >= window:
            yield _taken(under_way.popleft())
    while under_way:
        yield _taken(under_way.popleft())


def _taken(reference: Any) -> Any:
    found = ray.get(reference)
    if isinstance(found, Exception):
        raise found
    return found


def weighing(needed: int) -> dict[str, int]:
    """Options of a task that will hold about `needed` bytes: where they are many, Ray runs no more of such than fit on a node."""
    most = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    return {"memory": int(min(needed, _OF_A_NODE * most))} if needed > _HEAVY and most else {}
