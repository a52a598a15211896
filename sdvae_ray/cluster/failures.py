"""Errors that come back from workers: Ray wraps an error in classes of its own and adds lines to its message."""

from collections.abc import Iterator
from contextlib import contextmanager

from sdvae_ray.errors import SdvaeRayError


@contextmanager
def unwrapped_failures() -> Iterator[None]:
    """Raise the SdvaeRayError of a worker as the worker raised it, without Ray's wrapping; any other error keeps its traceback."""
    try:
        yield
    except Exception as error:
        if original := _unwrapped(error):
            raise original from error
        raise


def _unwrapped(error: BaseException) -> SdvaeRayError | None:
    """Return the SdvaeRayError inside Ray's wrappings, with its message of one line; None if there is none."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or any(current is error for error in seen):
            continue
        seen.append(current)
        for kind in type(current).__mro__:
            if kind.__module__ == SdvaeRayError.__module__ and issubclass(kind, SdvaeRayError):
                return kind(_message(current))
        queue += [getattr(current, "cause", None), current.__cause__, current.__context__]
    return None


def _message(error: BaseException) -> str:
    """The first line of the original message. Ray's wrapping prints a traceback that ends in `module.Class: message`."""
    original = getattr(error, "cause", None) or error
    return str(original.args[0] if original.args else original).split("\n")[0]
