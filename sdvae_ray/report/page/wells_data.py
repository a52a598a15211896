"""The wells as JSON for the page's script: columns of numbers as base64 of little-endian integers, texts once each."""

import array
import base64
import json
import sys
from collections.abc import Iterable, Sequence

from sdvae_ray.report.sections.explore.wells import Explorer

_NO_PLACE = 255  # a row or column of a well whose name is no position


def wells_json(explorer: Explorer) -> str:
    """Return the JSON. "<" is written as an escape, so that no text of it ends the element that holds it."""
    wells = explorer.wells
    table = wells.table
    compounds, compound_of = _numbered(table["compound"].to_list())
    names = dict(zip(table["compound"].to_list(), table["name"].to_list(), strict=True))
    roles, role_of = _numbered(table["role"].to_list())
    groups, group_of = _numbered(table["group"].to_list())
    batches, batch_of = _numbered(explorer.batch_of)
    data = {
        "count": table.height,
        "plates": explorer.plates,
        "shapes": explorer.shapes,
        "compounds": compounds,
        "names": [names[compound] if compound else "" for compound in compounds],
        "roles": roles,
        "groups": groups,
        "batches": batches,
        "wells": table["Metadata_Well"].to_list() if None in explorer.positions else None,
        "plate": _base64("H", explorer.plate_of),
        "row": _base64("B", [_NO_PLACE if place is None else place[0] for place in explorer.positions]),
        "column": _base64("B", [_NO_PLACE if place is None else place[1] for place in explorer.positions]),
        "compound": _base64("I", compound_of),
        "role": _base64("B", role_of),
        "group": _base64("H", group_of),
        "batch": _base64("H", batch_of),
        "measures": [
            {
                "label": one.label,
                "low": one.low,
                "high": one.high,
                "codes": base64.b64encode(one.codes.tobytes()).decode(),
            }
            for one in wells.measures
        ],
        "maps": [{"label": one.label, "places": _base64("H", one.places.ravel().tolist())} for one in wells.maps],
        "neighbours": None if wells.neighbours is None else _base64("i", wells.neighbours.ravel().tolist()),
        "pictures": {number: base64.b64encode(picture).decode() for number, picture in explorer.pictures.items()},
        "nearest": 0 if wells.neighbours is None else wells.neighbours.shape[1],
    }
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _numbered(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the distinct texts in the order of their first place, and the number of each text."""
    number = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return list(number), [number[text] for text in texts]


def _base64(kind: str, numbers: Iterable[int]) -> str:
    packed = array.array(kind, numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()
