"""The JSON schema of one row of a manifest, for people who write one themselves: docs/manifest.md explains it.

python -m sdvae_ray.sources.manifest.schema > docs/manifest.schema.json
"""

import json
from typing import Any

from sdvae_ray.schema import (
    COLOUR,
    FOV_ID,
    KEYS,
    METADATA,
    channel_column,
    divisor_column,
    illum_column,
    offset_column,
    uri_column,
)

_KEY = {"type": "string", "pattern": r"^(?=.*\S)[^/]+$", "description": 'not blank, without "/"'}
_TEXT = {"type": ["string", "null"]}
_STAIN = "[A-Za-z0-9][A-Za-z0-9_.-]*$"


def row_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of one row: column -> type, and what a value must be."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "One row of a manifest of sdvae_ray: one field of view",
        "type": "object",
        "required": [FOV_ID, *KEYS],
        "properties": {
            FOV_ID: {
                "type": "string",
                "pattern": "^" + "/".join(["[^/]+"] * len(KEYS)) + "$",
                "description": "/".join(KEYS) + "; no other row has it",
            },
            **dict.fromkeys(KEYS, _KEY),
            COLOUR: {
                "type": ["boolean", "null"],
                "description": "true: the file is a photograph, whose planes are red, green and blue",
            },
        },
        "patternProperties": {
            f"^{METADATA}(?!({'|'.join(key.removeprefix(METADATA) for key in KEYS)})$)": {
                **_TEXT,
                "description": "annotation of the well or the field; null: missing",
            },
            f"^{uri_column(_STAIN)}": {
                "type": "string",
                "pattern": r"\S",
                "description": "where the image of the stain is: a path or a URI",
            },
            f"^{channel_column(_STAIN)}": {
                "type": ["integer", "null"],
                "minimum": 0,
                "description": "plane of that file; null or no column: 0",
            },
            f"^{illum_column(_STAIN)}": {**_TEXT, "description": "a .npy file to divide by; null or no column: ones"},
            f"^{offset_column(_STAIN)}": {
                "type": ["number", "null"],
                "description": "for image.scaling.method manifest: subtracted first",
            },
            f"^{divisor_column(_STAIN)}": {
                "type": ["number", "null"],
                "description": "for image.scaling.method manifest: divided by then, above 0",
            },
        },
    }


if __name__ == "__main__":
    print(json.dumps(row_schema(), indent=1))
