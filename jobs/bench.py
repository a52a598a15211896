"""Measures the stream on this cluster: FOV/s per GPU at 1, 2, 4, ... GPUs, cold start, busy shares, dollars per 1,000 FOVs.

    ray job submit --working-dir . -- python jobs/bench.py run.yaml --fovs 256

The arguments are those of `sdvae-ray bench`. The job fails where the command fails.
"""

import sys

from sdvae_ray.cli.main import main

main(["bench", *sys.argv[1:]])
