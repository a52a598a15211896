"""Average precision with the lists of phenotypic activity, from codes; and options of a score as keywords, for short tests."""

import numpy as np
import polars as pl

from sdvae_ray.retrieval.ranking.average_precision import average_precision
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.tasks.activity import RULES


def ranked_by_codes(x, compound, is_control, scope, **options):
    """A query's positives have its compound >= 0, its negatives are the controls of its scope."""
    compound = np.asarray(compound)
    own = np.where(compound >= 0, compound, -1 - np.arange(len(compound)))
    wells = pl.DataFrame({"compound": own, "scope": scope, "is_control": is_control})
    return average_precision(x, wells, RULES, queries=compound >= 0, **options)


def chance_and_rest(**options):
    """(Chance of the options that it has, the other options)."""
    fields = {name: options.pop(name) for name in Chance.__dataclass_fields__ if name in options}
    return Chance(**fields), options
