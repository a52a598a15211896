"""What kind of fault of storage an error is: away (it passes), denied (credentials), or one that the user must mend.

s3fs raises the OSError of its own table for an answer of S3 and keeps the answer as the cause; without an answer botocore and
aiohttp raise errors of their own.
"""

import errno
import socket

from sdvae_ray.errors import StorageAwayError, StorageDeniedError, StorageError, one_line

_DENIED_CODES = {
    *("403", "401", "AccessDenied", "AccountProblem", "AllAccessDisabled", "ExpiredToken", "ExpiredTokenException"),
    *("InvalidAccessKeyId", "InvalidSecurity", "InvalidToken", "NotSignedUp", "RequestExpired", "RequestTimeTooSkewed"),
    *("SignatureDoesNotMatch", "TokenRefreshRequired", "UnrecognizedClientException"),
}
_AWAY_CODES = {
    *("500", "502", "503", "504", "429", "BadDigest", "IncompleteBody", "InternalError", "OperationAborted"),
    *("RequestLimitExceeded", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException"),
    *("TooManyRequestsException", "XAmzContentSHA256Mismatch"),
}
_AWAY_NUMBERS = {  # of a disk that is mounted over a network too
    *(errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN),
    *(errno.EHOSTUNREACH, errno.EIO, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH, errno.ENODEV, errno.ENOTCONN),
    *(errno.ENXIO, errno.EPIPE, errno.EREMOTEIO, errno.ESHUTDOWN, errno.ESTALE, errno.ETIMEDOUT),
}
# what carries no answer of the store: names, so that a look at a local file does not import botocore and aiohttp
_AWAY_CLASSES = {
    *("botocore.exceptions.HTTPClientError", "botocore.exceptions.ConnectionError"),
    *("botocore.exceptions.IncompleteReadError", "aiohttp.client_exceptions.ClientError", "http.client.HTTPException"),
    *("urllib3.exceptions.HTTPError", "botocore.exceptions.ResponseStreamingError"),
    *("botocore.exceptions.ChecksumError", "botocore.exceptions.FlexibleChecksumError"),  # a byte changed on its way
}
_DENIED_CLASSES = {
    *("botocore.exceptions.NoCredentialsError", "botocore.exceptions.PartialCredentialsError"),
    *("botocore.exceptions.CredentialRetrievalError", "botocore.exceptions.TokenRetrievalError"),
    *("botocore.exceptions.UnauthorizedSSOTokenError", "botocore.exceptions.SSOTokenLoadError"),
}
_REMOTE_CLASSES = {"botocore.exceptions.BotoCoreError", "botocore.exceptions.ClientError"} | _AWAY_CLASSES


def storage_error(error: Exception, doing: str) -> StorageError | None:
    """Return an error as StorageAwayError, StorageDeniedError or another StorageError; None if it is not of storage.

    doing: the start of the message, such as `cannot read s3://bucket/key`.
    """
    if not (isinstance(error, OSError) or _is_any_of(error, _REMOTE_CLASSES)):
        return None
    if _is_any_of(error, {"botocore.exceptions.NoCredentialsError"}):
        reason = "no AWS credentials; set storage.anonymous: true for a public bucket"
    else:
        reason = getattr(error, "strerror", None) or one_line(error, None)
    return _kind(error)(f"{doing}: {reason}")


def _kind(error: Exception) -> type[StorageError]:
    code, status = answer_of(error)
    if code or status:
        if code in _DENIED_CODES or status in (401, 403):
            return StorageDeniedError
        is_away = code in _AWAY_CODES or status == 429 or (status >= 500 and status != 501)
        return StorageAwayError if is_away else StorageError
    if _is_any_of(error, _DENIED_CLASSES) or isinstance(error, PermissionError):
        return StorageDeniedError
    no_answer = isinstance(error, ConnectionError | TimeoutError | socket.gaierror) or _is_any_of(error, _AWAY_CLASSES)
    return StorageAwayError if no_answer or getattr(error, "errno", None) in _AWAY_NUMBERS else StorageError


def answer_of(error: BaseException) -> tuple[str, int]:
    """Return the code of the store's answer behind an error, and its HTTP status; "" and 0 without an answer."""
    answer = getattr(error, "response", None) or getattr(error.__cause__ or error.__context__, "response", None)
    if not isinstance(answer, dict):
        return "", 0
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0
    return str(answer.get("Error", {}).get("Code", "")), int(status)


def _is_any_of(error: Exception, names: set[str]) -> bool:
    return any(f"{kind.__module__}.{kind.__qualname__}" in names for kind in type(error).__mro__)
