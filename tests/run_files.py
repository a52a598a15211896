"""Run files as mappings, for tests that change a key or two."""

import copy
from typing import Any


def merged(raw: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`raw` with `changes` laid over it, section by section; None drops a key."""
    out = copy.deepcopy(raw)
    for key, value in changes.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(out[key], value)
        else:
            out[key] = value
    return out
