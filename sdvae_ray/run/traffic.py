"""What the stream of a run asks of storage: requests and bytes, kept in run.json beside the stages of every session.

The load pool counts the files of fields and illumination functions, the write tasks count the files of the tables. Not counted are
the manifest, the weights, and what the driver reads and lists. Only requests that succeed are counted. A request is one of S3's; on
a disk the same calls are counted as if the disk were a bucket.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

TRAFFIC = "traffic"  # key of the stages of a session in run.json
_PART = 50 << 20  # bytes of a part of a large upload, as s3fs cuts it; an object of two parts or more is sent in parts


@dataclass(frozen=True)
class Traffic:
    """Requests and bytes.

    reads, read_bytes      GET requests, and the bytes that they brought
    looks                  HEAD requests
    writes, written_bytes  PUT and POST requests, and the bytes that they sent
    objects                objects written
    """

    reads: int = 0
    read_bytes: int = 0
    looks: int = 0
    writes: int = 0
    written_bytes: int = 0
    objects: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @classmethod
    def of_object(cls, size: int) -> Self:
        """Return the traffic of one object of `size` bytes that is written: one request, or parts with a start and an end."""
        parts = -(-size // _PART)
        return cls(writes=1 if size < 2 * _PART else parts + 2, written_bytes=size, objects=1)


class Meter:
    """Counts the traffic of one process. Threads may share a meter."""

    def __init__(self) -> None:
        self._lock, self._traffic = threading.Lock(), Traffic()

    def add(self, traffic: Traffic) -> None:
        """Count some traffic."""
        with self._lock:
            self._traffic += traffic

    def taken(self) -> Traffic:
        """Return the traffic since the last call."""
        with self._lock:
            traffic, self._traffic = self._traffic, Traffic()
        return traffic


def told_traffic(traffic: Traffic) -> dict[str, int]:
    """Return traffic as run.json has it."""
    return asdict(traffic)


def recorded_traffic(record: Mapping[str, Any] | None) -> Traffic | None:
    """Return the traffic of all sessions in a record of a run; None if a session of the run did not count it."""
    streams = [stages for session in (record or {}).get("sessions", []) for stages in session.get("stages", [])]
    if not streams or any(TRAFFIC not in stages for stages in streams):
        return None
    return added_traffic(Traffic(**stages[TRAFFIC]) for stages in streams)


def added_traffic(several: Iterable[Traffic]) -> Traffic:
    """Return the sum of traffic."""
    return sum(several, Traffic())
