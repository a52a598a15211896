"""Thumbnails of wells: a colour composite of the first usable field of each, so that a well's nearest wells can be seen."""

import time

import numpy as np
import polars as pl

from sdvae_ray.errors import SdvaeRayError
from sdvae_ray.randomness import generator
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.wells import first_fields
from sdvae_ray.report.pictures.draw import thumbnail
from sdvae_ray.report.pictures.pixels import each_field, on_unit, whole_field
from sdvae_ray.schema import FOV_ID

MOST = 400  # wells that have one: about a megabyte of the page
SIZE = 64  # pixels of a side, at most
SECONDS = 30.0  # after which no further field is loaded


def thumbnails(scored: ScoredRun, wells: pl.DataFrame, keys: list[str]) -> tuple[dict[int, bytes], str]:
    """Return the number of a well, its row in `wells`, -> a PNG; and a sentence about them, empty if there are none.

    wells: with the columns `keys`, as text. Each picture is stretched by its own percentiles. Of more than MOST wells a sample by
    hash has one.
    """
    fields = first_fields(scored, keys)
    numbered = wells.select(keys).with_row_index("number").join(fields, on=keys, how="inner", maintain_order="left")
    kept = np.sort(generator(scored.config.seed, "thumbnails").permutation(numbered.height)[:MOST])
    chosen = numbered[kept]
    number_of = dict(zip(chosen[FOV_ID].to_list(), chosen["number"].to_list(), strict=True))
    pictures, start = dict[int, bytes](), time.monotonic()
    try:
        for name, field in each_field(scored.run, list(number_of)):
            if isinstance(field, str):
                continue
            stains = on_unit(scored.config, whole_field(scored.config, field))
            pictures[number_of[name]] = thumbnail(scored.config, stains, stains, SIZE)
            if time.monotonic() - start > SECONDS:
                break
    except (SdvaeRayError, OSError) as error:
        scored.say(f"no thumbnails of wells: {error}")
    if not pictures:
        return {}, ""
    scored.say(f"thumbnails of {len(pictures)} wells, {time.monotonic() - start:.0f} s")
    some = "" if len(pictures) == wells.height else f" ({len(pictures):,} of {wells.height:,} wells)"
    words = f"Thumbnails{some} show the originals of the first usable field, each stretched by its own percentiles."
    return pictures, words
