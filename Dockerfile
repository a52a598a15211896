# syntax=docker/dockerfile:1
# The image of all nodes: Kubernetes (kuberay/rayjob.yaml) and Slurm with Apptainer use it. docs/kubernetes.md has the commands.
FROM python:3.11-slim-bookworm

# wget: the probes of KubeRay call it. libgl and friends are not needed: imagecodecs brings its decoders
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/sdvae-ray
# the dependencies first: a change of the package alone installs nothing again
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY sdvae_ray/version.py sdvae_ray/version.py
RUN pip install --no-cache-dir --no-compile -c constraints.txt '.[efficientnet]' && pip uninstall -y sdvae-ray

COPY sdvae_ray sdvae_ray
COPY jobs jobs
RUN pip install --no-cache-dir --no-deps -c constraints.txt . && python -c 'import sdvae_ray, ray, torch, diffusers, faiss'

# an ordinary user: nothing of a run needs root. /tmp holds Ray's sessions, and the home folder the cache of the weights
RUN useradd --uid 1000 --create-home ray
USER 1000
ENV RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
CMD ["sdvae-ray", "--help"]
