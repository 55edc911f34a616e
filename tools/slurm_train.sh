#!/usr/bin/env bash
# One training on several machines: a process per GPU, OUT on a file system that all machines see. Shortly before the time
# is up SLURM sends USR1 here; it is passed on, the run saves itself and ends, and the job is queued again and goes on from
# there (--resume on a fresh directory simply starts). With another number of GPUs: --ntasks-per-node and --gpus-per-node.
#
#     sbatch --nodes=2 tools/slurm_train.sh distill --ancestor my-vit --data /data/imagenet --epochs 100 --out runs/gene
#
#SBATCH --job-name=learngene
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
asked=
trap 'asked=yes; kill -USR1 "$step" 2>/dev/null || true' USR1
srun --kill-on-bad-exit=1 learngene "$@" --resume --num-nodes "$SLURM_NNODES" --devices "$SLURM_NTASKS_PER_NODE" &
step=$!
while status=0; wait "$step" || status=$?; kill -0 "$step" 2>/dev/null; do :; done # a signal ends wait, not the step
if [[ $asked && $status -ne 0 ]]; then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
