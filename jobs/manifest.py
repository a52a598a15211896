"""Makes the manifest of a run file, or of load_data files, on the cluster.

    ray job submit --working-dir . -- python jobs/manifest.py jobs/configs/jump.yaml --output s3://bucket/jump/manifest

The arguments are those of `sdvae-ray manifest`. The job fails where the command fails.
"""

import sys

from sdvae_ray.cli.main import main

main(["manifest", *sys.argv[1:]])
