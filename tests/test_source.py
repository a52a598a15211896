"""Rules of the package's source that no linter knows."""

from __future__ import annotations

import ast
from pathlib import Path

import sdvae_ray

_MODULES = sorted(Path(sdvae_ray.__file__).parent.rglob("*.py"))


def _joins_in_any_order(source: str) -> list[int]:
    """Return the lines of polars joins that leave the order of their rows to the threads."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    joins = ((call, {word.arg for word in call.keywords}) for call in calls if _name(call) == "join")
    return [call.lineno for call, words in joins if "on" in words and "maintain_order" not in words]


def _name(call: ast.Call) -> str | None:
    return call.func.attr if isinstance(call.func, ast.Attribute) else None


def test_every_join_keeps_the_order_of_its_rows():
    """A row that a message names, and a sum over rows, must not depend on the threads of polars."""
    assert _joins_in_any_order("a.join(b, on='x')\na.join(b, on='x', maintain_order='left')\n'-'.join(b)") == [1]
    assert len(_MODULES) > 200
    assert [f"{path}:{line}" for path in _MODULES for line in _joins_in_any_order(path.read_text())] == []
