#!/usr/bin/env bash
# A benchmark as a SLURM array: n jobs share one OUT directory on a file system that all nodes see, each runs its part of
# the trials, and whoever finishes last writes the report. Safe to submit again: finished trials are not run twice. To submit some
# of the jobs again, say of how many: SHARDS=8 sbatch --array=3,5 ...
#
#     sbatch --array=1-8 tools/slurm_benchmark.sh configs/cifar100_starts.yaml runs/cifar100 --data-root /data
#
#SBATCH --job-name=learngene
#SBATCH --cpus-per-task=8
#SBATCH --gpus=1
#SBATCH --time=12:00:00
#SBATCH --output=%x-%A-%a.log
set -euo pipefail
config=$1 out=$2
shift 2
srun learngene benchmark --config "$config" --out "$out" --shard "$SLURM_ARRAY_TASK_ID/${SHARDS:-$SLURM_ARRAY_TASK_COUNT}" "$@"
