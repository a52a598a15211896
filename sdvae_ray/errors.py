"""The exception tree. Every error that a user can cause or must act on is one of these and prints as one line.

SdvaeRayError            exit code 1
  UserError              exit code 2: the input can be mended by the user
    ConfigError          a key or a value of the run file, or of the command line
    DataError            a manifest, a table, an image set
    StorageError         a bucket, a folder, credentials, an endpoint
    WeightsError         model weights that are not where the run says
    ResourceError        the pools do not fit the machine
  RunError               exit code 1: the run itself failed or had to be stopped

A bug raises something else and keeps its traceback. All take one message, so that they survive pickling between processes.
"""

import difflib
from collections.abc import Iterable


class SdvaeRayError(Exception):
    exit_code = 1


class UserError(SdvaeRayError):
    exit_code = 2


class ConfigError(UserError):
    pass


class DataError(UserError):
    pass


class StorageError(UserError):
    pass


class WeightsError(UserError):
    pass


class ResourceError(UserError):
    pass


class RunError(SdvaeRayError):
    pass


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The tail of an error about an unknown name: the nearest match where there is one, then what is allowed."""
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (allowed: {', '.join(names)})"
