"""Errors on their way back from workers: Ray wraps them in its own classes and adds lines to their message."""

from collections.abc import Iterator
from contextlib import contextmanager

from sdvae_ray.errors import SdvaeRayError


@contextmanager
def unwrapped_failures() -> Iterator[None]:
    """Raises an error of ours that a worker raised as itself; anything else keeps its traceback."""
    try:
        yield
    except Exception as error:
        if ours := _unwrapped(error):
            raise ours from error
        raise


def _unwrapped(error: BaseException) -> SdvaeRayError | None:
    """The error of ours that a worker raised, out of Ray's wrappings: those add lines to a message, ours have one."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or any(current is one for one in seen):
            continue
        seen.append(current)
        for kind in type(current).__mro__:
            if kind.__module__ == SdvaeRayError.__module__ and issubclass(kind, SdvaeRayError):
                return kind(_message(current))
        queue += [getattr(current, "cause", None), current.__cause__, current.__context__]
    return None


def _message(error: BaseException) -> str:
    """Ray's wrapping of an error prints a traceback that ends in `module.Class: message`."""
    original = getattr(error, "cause", None) or error
    return str(original.args[0] if original.args else original).split("\n")[0]
