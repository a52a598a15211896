"""A run whose images, manifest and output are in a bucket, reached through an endpoint that a test makes ill."""

from pathlib import Path
from typing import Any

from field_files import write_fields
from run_files import PCA, small_run
from straight_line import write_manifest

from sdvae_ray.config import RunConfig


def bucket_run(folder: Path, s3: Any, endpoint: str, count: int, **changes: Any) -> RunConfig:
    """A run of `count` FOVs, two of them in a file of a table; `changes` as in small_run."""
    fields = write_fields(folder / "images", count=count)
    for name, values in fields.items():
        if name.startswith("uri_"):
            for row, path in enumerate(values):
                values[row] = f"{s3.prefix}/{Path(path).name}"
                s3.storage.write_bytes(values[row], Path(path).read_bytes())
    manifest = f"{s3.prefix}/manifest.parquet"
    s3.storage.write_bytes(manifest, write_manifest(folder / "manifest.parquet", fields).read_bytes())
    small: dict[str, Any] = {
        "storage": {**s3.config.model_dump(), "endpoint_url": endpoint},
        "autoencoders": PCA,
        "extractors": {"intensity": {"keep_patches": 0}},
        "metrics": ["mae"],
        "write": {"rows_per_file": 2},
        "max_error_fraction": 0,
        "load": {"batch_fovs": 1},
        "encode": {"batch_fovs": 1},
    }
    return small_run(folder, manifest=manifest, output=f"{s3.prefix}/run", **small | changes)
