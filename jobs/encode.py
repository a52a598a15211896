"""Computes latents, embeddings and metrics of images. The same command line resumes a run that was stopped.

    ray job submit --working-dir . -- python jobs/encode.py jobs/configs/demo.yaml

The arguments are those of `sdvae-ray encode`, such as --set output=s3://bucket/runs/demo. The job fails where the command fails.
"""

import sys

from sdvae_ray.cli.main import main

main(["encode", *sys.argv[1:]])
