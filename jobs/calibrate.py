"""Finds the scaling constants of a manifest on the cluster.

    ray job submit --working-dir . -- python jobs/calibrate.py s3://bucket/manifest.parquet --output s3://bucket/calibrated.parquet

The arguments are those of `sdvae-ray calibrate`. The job fails where the command fails.
"""

import sys

from sdvae_ray.cli.main import main

main(["calibrate", *sys.argv[1:]])
