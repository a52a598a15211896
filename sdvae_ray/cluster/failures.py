"""Errors that come back from workers: Ray wraps an error in classes of its own and adds lines to its message."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray import exceptions

from sdvae_ray.errors import RunError, SdvaeRayError, one_line

_LOST = (  # a process or a node that is gone, and no error of our code
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.OutOfMemoryError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.LocalRayletDiedError,
)
RAY_LOGS = "the logs of Ray on its nodes, /tmp/ray/session_latest/logs, say more"


@contextmanager
def unwrapped_failures() -> Iterator[None]:
    """Raise the SdvaeRayError of a worker as the worker raised it, without Ray's wrapping.

    A process or a node that is lost for good is a RunError of one line. Any other error is a mistake of our code and keeps its
    traceback.
    """
    try:
        yield
    except Exception as error:
        chain = _chain(error)
        if original := next(filter(None, map(_original, chain)), None):
            raise original from error
        if not any(isinstance(link, exceptions.RayTaskError) for link in chain):
            for link in chain:
                if isinstance(link, _LOST):
                    reason = one_line(Exception(str(link).partition("\n")[0]))
                    raise RunError(f"a process of the cluster is lost: {reason}; {RAY_LOGS}; run again") from error
        raise


def _original(error: BaseException) -> SdvaeRayError | None:
    """Return an error of our tree, with its message of one line; None for any other error."""
    for kind in type(error).__mro__:
        if kind.__module__ == SdvaeRayError.__module__ and issubclass(kind, SdvaeRayError):
            return kind(_message(error))
    return None


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and the errors inside it, the outermost first."""
    chain: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is not None and not any(current is link for link in chain):
            chain.append(current)
            queue += [getattr(current, "cause", None), current.__cause__, current.__context__]
    return chain


def _message(error: BaseException) -> str:
    """Return the first line of the original message. Ray's wrapping prints a traceback that ends in `module.Class: message`."""
    original = getattr(error, "cause", None) or error
    return str(original.args[0] if original.args else original).split("\n")[0]
