"""A fitted chain of transforms as bytes, and back: what normalises a new well as the wells of a run were normalised.

The bytes are an .npz. Its `chain` is JSON in UTF-8, the chain as nested values; its other members are the arrays that the JSON
counts on by number. Nothing is pickled, and nothing is made that KINDS does not name:

{"kind": "located", "fields": {...}}    a dataclass of KINDS and its fields
{"array": 3}                            the member `3`
{"by": {"P1": ...}}                     a mapping by text, such as a plate
[...]                                   a tuple
null, true, 1.5, "text"                 themselves
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.normalisation.alignment import Coral
from sdvae_ray.retrieval.normalisation.source import Apply
from sdvae_ray.retrieval.normalisation.transforms import InTurn, Kept, Located, Replaced, SpheredByPlate, Whitened
from sdvae_ray.retrieval.normalisation.whitening import Whitening

KINDS: dict[str, type] = {
    "located": Located,
    "whitened": Whitened,
    "sphered_by_plate": SpheredByPlate,
    "kept": Kept,
    "in_turn": InTurn,
    "coral": Coral,
    "whitening": Whitening,
}
REPLACED = "replaced"  # stands for a Replaced, whose rows are not kept: `from_bytes` says why
NO_FIT = "harmony moves the wells it was given and has no fit for another well"
_CHAIN = "chain"
_DAMAGED = (  # what zipfile, numpy and json say of bytes that are not theirs, and _read of a JSON that is not ours
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
    KeyError, TypeError, ValueError, AttributeError,
)  # fmt: skip


def to_bytes(chain: Sequence[Apply]) -> bytes:
    """Return the chain as an .npz, the same bytes for the same chain. Arrays keep their dtype, shape and every bit.

    Raises DataError for a transform that is not of KINDS. Of harmony's only the name is kept, for `from_bytes` to refuse.
    """
    arrays: dict[str, NDArray[Any]] = {}
    text = json.dumps([_written(step, arrays) for step in chain]).encode()
    out = io.BytesIO()
    np.savez(out, **{_CHAIN: np.frombuffer(text, np.uint8)}, **arrays)  # type: ignore[arg-type]  # numpy's stub
    return out.getvalue()


def from_bytes(data: bytes) -> tuple[Apply, ...]:
    """Return the chain that `to_bytes` wrote.

    Raises DataError if the bytes are none, or damaged (every member has its checksum, tested before it is read), if they name
    a kind that is not known here, and for a chain with harmony in it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            arrays = {
                name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(members.read(name)), allow_pickle=False)
                for name in members.namelist()
            }
        chain = _read(json.loads(arrays.pop(_CHAIN).tobytes()), arrays)
        if not isinstance(chain, tuple) or not all(map(callable, chain)):
            raise ValueError("no chain of transforms")
        return chain
    except _DAMAGED as error:
        said = f"{len(data)} bytes are no readable fit of a normalisation: cut short, damaged, or of another program"
        raise DataError(said) from error


def _written(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        name = str(len(arrays))
        arrays[name] = value
        return {"array": name}
    if isinstance(value, tuple):
        return [_written(each, arrays) for each in value]
    if isinstance(value, Mapping):
        return {"by": {str(name): _written(each, arrays) for name, each in value.items()}}
    if isinstance(value, Replaced):
        return {"kind": REPLACED, "fields": {}}
    kind = next((name for name, known in KINDS.items() if type(value) is known), None)
    if kind is None or not is_dataclass(value):
        raise DataError(f"a fit of {type(value).__name__} cannot be stored (known: {', '.join(KINDS)})")
    return {"kind": kind, "fields": {one.name: _written(getattr(value, one.name), arrays) for one in fields(value)}}


def _read(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return tuple(_read(each, arrays) for each in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "by" in value:
        return {name: _read(each, arrays) for name, each in value["by"].items()}
    if value["kind"] == REPLACED:
        raise DataError(NO_FIT)
    if value["kind"] not in KINDS:
        raise DataError(f"a stored fit is of the kind {value['kind']!r} (known: {', '.join(KINDS)})")
    return KINDS[value["kind"]](**{name: _read(each, arrays) for name, each in value["fields"].items()})
