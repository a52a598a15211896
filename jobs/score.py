"""Computes well profiles, FAISS indices and retrieval scores from stored embeddings.

    ray job submit --working-dir . -- python jobs/score.py jobs/configs/demo.yaml

The arguments are those of `sdvae-ray score`, such as --set output=s3://bucket/runs/demo. The job fails where the command fails.
"""

import sys

from sdvae_ray.cli.main import main

main(["score", *sys.argv[1:]])
