"""The exception tree. Every error that a user can cause or must act on is one of these and prints as one line.

SdvaeRayError            exit code 1
  UserError              exit code 2: the input can be mended by the user
    ConfigError          a key or a value of the run file, or of the command line
    DataError            a manifest, a table, an image set
    StorageError         a bucket, a folder, an endpoint
      StorageAwayError    storage does not answer, or not now: the same call may succeed later
      StorageDeniedError  credentials are refused, absent or expired
    WeightsError         model weights that are not where the run says
    ResourceError        the pools do not fit the machine
  RunError               exit code 1: the run itself failed or had to be stopped

A bug raises something else and keeps its traceback. All take one message, so that they survive pickling between processes. What
looks like a credential is blotted out of the message, because messages end in rows, records, logs and pages.
"""

import difflib
import re
from collections.abc import Iterable, Sequence

_BLOT = "***"
_SECRETS = (
    re.compile(r"(?<=://)[^/\s@'\"]+(?=@)"),  # user:password@ of a URL
    re.compile(
        r"(?i)(?<![\w-])((?:x-amz-)?(?:signature|credential|security-token)|awsaccesskeyid|aws_\w+|\w*secret\w*|\w*password|\w*token)"
        r"([\"']?\s*[=:]\s*[\"']?)[^\s&\"',;]+"
    ),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"),  # a key id of AWS
)


def redacted(text: str) -> str:
    """Return a text without what looks like a credential: the user of a URL, signatures, keys of AWS, values of tokens."""
    url, named, key_id = _SECRETS
    return key_id.sub(_BLOT, named.sub(rf"\1\2{_BLOT}", url.sub(_BLOT, text)))


class SdvaeRayError(Exception):
    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(redacted(str(message)))


class UserError(SdvaeRayError):
    exit_code = 2


class ConfigError(UserError): ...


class DataError(UserError): ...


class StorageError(UserError): ...


class StorageAwayError(StorageError): ...


class StorageDeniedError(StorageError): ...


class WeightsError(UserError): ...


class ResourceError(UserError): ...


class RunError(SdvaeRayError): ...


def nearest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the name most like `name`; None if no name reaches the likeness `cutoff`, in [0, 1] (difflib's ratio)."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return the tail of an error about an unknown name: the nearest allowed name, if any is near, and all allowed names."""
    names = sorted(allowed)
    match = nearest(name, names)
    hint = f"; did you mean {match!r}?" if match else ""
    return f"{hint} (allowed: {', '.join(names)})"


def nearest_or_first(name: str, known: Sequence[str]) -> str:
    """Return the tail of an error about one of too many names to list: the nearest known name, else the first."""
    match = nearest(name, known)
    return f"; did you mean {match!r}?" if match else f"; one of them is {known[0]!r}" if known else ""


def one_line(error: BaseException, most: int | None = 200) -> str:
    """Return an error's message as one line of at most `most` characters (None: all); without a message the name of its class."""
    return redacted(" ".join(str(error).split()))[:most] or type(error).__name__
