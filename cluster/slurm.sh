#!/usr/bin/env bash
# A grid of experiments on a SLURM cluster. From the root of a clone:
#
#     REMOTE=/shared/store sbatch cluster/slurm.sh
#
# Each job clones `origin`, so push your changes first. It installs 2 GB into the node's temporary
# folder. git needs user.name and user.email. Each job runs one experiment and pushes it: its
# commit to the git remote `origin`, its results to the DVC remote REMOTE (a folder that all nodes
# share, or a URL such as s3://bucket/path). DATA is that of `make run`. Then, at home:
#
#     dvc remote add --local --default shared REMOTE
#     dvc exp pull origin NAME ...
#     python -m tools.experiments
#
#SBATCH --job-name=noisette
#SBATCH --array=0-7
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=03:00:00
#SBATCH --output=noisette-%a.log
set -euo pipefail

schedules=(cosine flow)
seeds=(1 2 3 4)
schedule=${schedules[SLURM_ARRAY_TASK_ID % ${#schedules[@]}]}
seed=${seeds[SLURM_ARRAY_TASK_ID / ${#schedules[@]}]}
name="$schedule-$seed"

: "${REMOTE:?set REMOTE to a folder that all nodes share, or to a URL that DVC knows}"
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-2}"
origin=$(git -C "${SLURM_SUBMIT_DIR:-.}" remote get-url origin)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

git clone --quiet "$origin" "$work/noisette"
cd "$work/noisette"
make install
# shellcheck disable=SC1091  # `make install` makes it
source .venv/bin/activate
if [[ $REMOTE == s3://* ]]; then uv pip install --constraint constraints.txt --group s3; fi
dvc remote add --local --default --force shared "$REMOTE"
python -m tools.get_data ${DATA:+"$DATA"}
dvc exp run --name "$name" -S "schedule=$schedule" -S "seed=$seed" fid quality
dvc exp push origin "$name"
