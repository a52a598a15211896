"""Runs the whole job: encode, score and report.

    ray job submit --working-dir . -- python jobs/run.py jobs/configs/demo.yaml

The arguments are those of `sdvae-ray run`, such as --set output=s3://bucket/runs/demo. The job fails where the command fails.
"""

import sys

from sdvae_ray.cli.main import main

main(["run", *sys.argv[1:]])
