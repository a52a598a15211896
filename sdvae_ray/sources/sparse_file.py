"""A file of which some ranges are at hand, for readers that ask for those ranges alone."""

from collections.abc import Mapping


class SparseFile:
    """A read-only binary file of `size` bytes. A read gives a view of one of its parts, not a copy.

    parts: position of the first byte -> bytes.
    """

    closed = False

    def __init__(self, parts: Mapping[int, bytes], size: int) -> None:
        self.parts, self.size = {start: memoryview(data) for start, data in parts.items()}, size
        self.position = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset from the start (0), the position (1) or the end (2)."""
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def tell(self) -> int:
        """Return the position."""
        return self.position

    def read(self, count: int) -> memoryview:
        """Return the next `count` bytes. Raises EOFError if no part has them all."""
        for start, data in self.parts.items():
            begin = self.position - start
            if begin >= 0 and begin + count <= len(data):
                self.position += count
                return data[begin : begin + count]
        raise EOFError("bytes that are not at hand")

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Forget the bytes."""
        self.parts = {}
