"""The count of a run: FOVs encoded, committed and failed. The module imports nothing large, so that its actor starts at once."""

from typing import Any


class Ledger:
    """A Ray actor that counts the FOVs encoded, committed and failed. Its answer stops a run with too many failed FOVs."""

    def __init__(self, allowed_errors: int) -> None:
        self.allowed_errors = allowed_errors
        self.encoded = self.written = self.errors = 0
        self.last_error: str | None = None

    def add_encoded(self, rows: int) -> None:
        """Counts rows that an encode actor finished."""
        self.encoded += rows

    def add_written(self, rows: int, errors: int, example: str | None) -> bool:
        """Counts one write; False where more rows have failed than `allowed_errors`. example: the error of one failed row."""
        self.written += rows
        self.errors += errors
        self.last_error = example or self.last_error
        return self.errors <= self.allowed_errors

    def counts(self) -> dict[str, Any]:
        """The numbers of FOVs encoded, written and failed, and the last error."""
        return {"encoded": self.encoded, "written": self.written, "errors": self.errors, "last_error": self.last_error}
