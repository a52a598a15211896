"""A folder that Hugging Face `datasets` loads: Parquet shards of latents with their features, and a card."""

import io
import json
from typing import Any

from sdvae_ray.exports.contract import LATENTS, Exported, Request
from sdvae_ray.exports.latents import PATCH, SCALING, SHIFT, Batch
from sdvae_ray.exports.training_set import write_shards
from sdvae_ray.storage import join

SUFFIXES: tuple[str, ...] = ()
NEEDS = ("datasets",)
TAKES = LATENTS
_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---
Latents of Cell Painting images, one row per patch, exported by sdvae_ray {sdvae_ray}.

`{latent}` is (pass, channel, y, x) float16, unscaled; a diffusion model learns `{to_train_on}`.

```json
{facts}
```
"""


def export(request: Request) -> Exported:
    """Write data/train-*.parquet and README.md: `datasets.load_dataset("FOLDER", split="train")`."""
    exported = write_shards(request, ".parquet", _encoded, "data")
    facts = exported.facts
    card = _CARD.format(**facts, facts=json.dumps(facts, indent=1))
    request.run.storage.write_bytes(join(request.output, "README.md"), card.encode())
    return exported._replace(files=[*exported.files, "README.md"])


def _encoded(batch: Batch) -> bytes:
    import datasets

    kinds = {PATCH: "int64", SCALING: "float64", SHIFT: "float64"}
    features: dict[str, Any] = {name: datasets.Value(kinds.get(name, "string")) for name in batch.rows.columns}
    columns: dict[str, Any] = {name: batch.rows[name].to_list() for name in batch.rows.columns}
    for name, values in batch.tensors.items():
        features[name] = datasets.Array4D(values.shape[1:], "float16")
        columns[name] = list(values)
    datasets.disable_progress_bars()  # one for every shard
    buffer = io.BytesIO()
    datasets.Dataset.from_dict(columns, datasets.Features(features)).to_parquet(buffer)
    return buffer.getvalue()
