"""A fitted chain of maps as bytes, and back: a new well is normalised by it as the wells of a run were.

The bytes are an .npz. Its member `chain` is JSON in UTF-8, one mapping per step; the JSON names the other members, which are
arrays. Nothing is pickled.

{"by": "plate", "keep": {"array": "0"}, "maps": {"P1": {"offset": {"array": "1"}, ..., "beyond": null}}}    an Affine
{"no_fit": "harmony ..."}                                                                                 a Corrected
"""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.normalisation.contract import Affine, Chain, Corrected, Map

_CHAIN = "chain"
_DAMAGED = (  # what zipfile, numpy and json raise for bytes that are not theirs, and _affine for a JSON that is not ours
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
    KeyError, TypeError, ValueError, AttributeError,
)  # fmt: skip


def to_bytes(chain: Sequence[Affine | Corrected]) -> bytes:
    """Return the chain as an .npz; the same chain gives the same bytes. Arrays keep their dtype, shape and every bit.

    A Corrected is stored as its reason alone, and `from_bytes` refuses it. Raises TypeError for a step of another type.
    """
    arrays: dict[str, NDArray[Any]] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Affine | Map):
            return vars(value)
        if isinstance(value, Corrected):
            return {"no_fit": value.reason}
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            name = str(len(arrays))
            arrays[name] = value
            return {"array": name}
        raise TypeError(f"a {type(value).__name__} in a fitted chain has no stored form")

    text = json.dumps(list(chain), default=plain).encode()
    out = io.BytesIO()
    np.savez(out, **{_CHAIN: np.frombuffer(text, np.uint8)}, **arrays)  # type: ignore[arg-type]  # numpy's stub
    return out.getvalue()


def from_bytes(data: bytes) -> Chain:
    """Return the chain that `to_bytes` wrote. Every array is tested by its checksum as it is read.

    Raises DataError if the bytes are damaged or not a chain; and, with the step's reason, if a step has no map for another
    well.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            arrays = {
                name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(members.read(name)), allow_pickle=False)
                for name in members.namelist()
            }
        steps = json.loads(arrays.pop(_CHAIN).tobytes())
        reasons = [step["no_fit"] for step in steps if "no_fit" in step]
        chain = tuple(_affine(step, arrays) for step in steps if "no_fit" not in step)
    except _DAMAGED as error:
        message = f"{len(data)} bytes are no readable fit of a normalisation: cut short, damaged, or of another version"
        raise DataError(message) from error
    if reasons:
        raise DataError(reasons[0])
    return chain


def _affine(step: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Affine:
    def value(stored: Any) -> Any:
        return arrays[stored["array"]] if isinstance(stored, dict) else stored

    maps = {
        name: Map(**{field: value(stored) for field, stored in fields.items()}) for name, fields in step["maps"].items()
    }
    return Affine(step["by"], maps, value(step["keep"]))
