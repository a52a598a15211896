"""Ray tasks whose results are wanted in order and never all at once."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import ray

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
