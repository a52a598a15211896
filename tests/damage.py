"""Files that are damaged at random, for every kind of file that a run reads."""

import struct

import numpy as np
import pytest

from sdvae_ray.images.decode import DecodeError, decode_planes


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """A file cut short, with bytes of another value, with extreme numbers in its header, or with a part twice or left out."""
    out, kind = bytearray(data), random.integers(5)
    head = min(len(out), 400)
    if kind == 0:
        del out[int(random.integers(len(out))) :]
    elif kind == 1:
        for place in random.integers(len(out), size=random.integers(1, 12)):
            out[place] = random.integers(256)
    elif kind == 2:
        for place in random.integers(head, size=random.integers(1, 4)):
            out[place] = random.integers(256)
    elif kind == 3:
        place = int(random.integers(head - 4))
        struct.pack_into(random.choice(["<I", ">I"]), out, place, int(random.choice([0, 1, 2**16, 2**31, 2**32 - 1])))
    else:
        start, stop = sorted(random.integers(len(out), size=2))
        out[start:stop] = out[start:stop] * int(random.choice([0, 2, 3]))
    return bytes(out)


def refusal(data: bytes, channel: int = 0) -> str:
    """The one line with which the decoder refuses a plane of a file; it names the file."""
    with pytest.raises(DecodeError) as caught:
        decode_planes(data, [channel], "s3://plates/r01c01-ch5.tiff")
    message = str(caught.value)
    assert "s3://plates/r01c01-ch5.tiff" in message
    assert "\n" not in message
    return message
