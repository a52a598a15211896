"""Plans a run from the head of a cluster: hours, requests, bytes, memory and dollars at several sizes, and what it has spent.

    ray job submit --working-dir . -- python jobs/plan.py run.yaml --simulate

The arguments are those of `sdvae-ray plan`. The job fails where the command fails.
"""

import sys

from sdvae_ray.cli.main import main

main(["plan", *sys.argv[1:]])
