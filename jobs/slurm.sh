#!/usr/bin/env bash
# The whole job on Slurm: sbatch jobs/slurm.sh run.yaml [options of `sdvae-ray run`]. docs/slurm.md explains it.
#
# The same command goes on where the last one stopped: submit it again after a time limit, or let Slurm requeue it.
#SBATCH --job-name=sdvae-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=sdvae-ray-%j.log
# exclusive: at its end the job stops every Ray of yours on its nodes. signal: two minutes before the limit the driver ends what it
# is writing, and gives up its lease.
set -euo pipefail

[ $# -ge 1 ] || { echo "usage: sbatch jobs/slurm.sh run.yaml [options of sdvae-ray run]" >&2; exit 2; }
[ -n "${SLURM_JOB_ID:-}" ] || { echo "start this script by sbatch" >&2; exit 2; }

# Where the package is: an environment on a file system that all nodes share, or an image built from Dockerfile
if [ -n "${SDVAE_RAY_VENV:-}" ]; then . "$SDVAE_RAY_VENV/bin/activate"; fi
inside=()
if [ -n "${SDVAE_RAY_IMAGE:-}" ]; then inside=(apptainer exec --nv --bind "$PWD" "$SDVAE_RAY_IMAGE"); fi

# Jobs that share a network must not meet: the port follows from the job
address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p):$((20000 + SLURM_JOB_ID % 20000))
export RAY_AUTH_MODE=token  # `ray get-auth-token --generate` makes the token once, in the home folder that all nodes share
export RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S=14400

# `ray symmetric-run` starts Ray on every node, waits for all nodes, runs the command on the first one, and stops Ray at its end.
# It exits 0 where Ray does not start: the exit code of the command comes by a file.
code=$PWD/sdvae-ray-$SLURM_JOB_ID.exit
rm -f "$code"
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --kill-on-bad-exit=1 "${inside[@]}" \
  ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="${SLURM_CPUS_ON_NODE:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --temp-dir="${TMPDIR:-/tmp}/ray-$SLURM_JOB_ID" \
  -- bash -c 'RAY_ADDRESS=$0 python jobs/run.py "${@:2}"; echo $? > "$1"' "$address" "$code" "$@" || true
[ -s "$code" ] || { echo "the run did not start, or was killed; the lines above say why" >&2; exit 1; }
status=$(cat "$code")
rm -f "$code"
exit "$status"
