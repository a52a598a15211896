"""Images -> latents, embeddings and metrics; the same line resumes what was stopped.

    ray job submit --working-dir . -- python jobs/encode.py jobs/configs/demo.yaml

Further arguments are those of `sdvae-ray encode`, such as --set output=s3://bucket/runs/demo. It fails where the command fails.
"""

import sys

from sdvae_ray.cli.main import main

main(["encode", *sys.argv[1:]])
