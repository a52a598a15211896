"""Packs the images of a manifest into Parquet shards. The same command line resumes a job that was stopped.

    ray job submit --working-dir . -- python jobs/pack.py s3://bucket/manifest.parquet --output s3://bucket/shards

The arguments are those of `sdvae-ray pack`. The job fails where the command fails.
"""

import sys

from sdvae_ray.cli.main import main

main(["pack", *sys.argv[1:]])
