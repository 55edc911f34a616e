#!/usr/bin/env bash
# What configs/fashion_mnist_elastic.yaml compares, for one seed: bash docs/results/elastic/run.sh ROOT SEED, from the root of the
# repository, with OMP_NUM_THREADS=1. A finished run is left as it is, an interrupted one goes on. Hours on one thread.
set -euo pipefail
root=$1 seed=${2:-0} out=runs/elastic
data=(--data torch/fashion_mnist --data-root "$root" --in-memory true --val-fraction 0.05 --crop-pct 1.0 --hflip 0.0 --crop-scale 0.9
  --arch vit_tiny_patch16_224 --batch-size 128 --precision 32-true --devices 1 --seed "$seed" --resume
  --arch-args '{"img_size": 28, "patch_size": 4, "in_chans": 1, "embed_dim": 64, "num_heads": 2, "mlp_ratio": 2.0, "class_token": false, "global_pool": "avg"}')
distill=(distill --ancestor checkpoints/fashion-mnist/ancestor "${data[@]}" --lr 0.008 --warmup-epochs 0.5 --cache "$out/cache-s$seed")
train() { name=$1; shift; learngene "${distill[@]}" --epochs 6 --plan 2,2,2,2,2 "$@" --out "$out/$name-s$seed"; }

learngene cache --ancestor checkpoints/fashion-mnist/ancestor "${data[@]}" --epochs 7 --top-k 10 --out "$out/cache-s$seed"
train sws --start random --elastic none
train fixed --elastic none
train elastic
train elastic-plain --elastic-step 0 --calibration 0
python docs/results/elastic/variants.py gains "${distill[@]}" --epochs 6 --plan 2,2,2,2,2 --elastic 5:15 --calibration 0 --out "$out/gains-s$seed"
# one model alone, at the FLOPs of the learngene's distillation, the ancestor's share included
learngene "${distill[@]}" --calibration 0 --epochs 7 --plan 1,1,1,1,1,1 --out "$out/direct6-s$seed"
# from random weights with labels
learngene finetune vit_tiny_patch16_224 "${data[@]}" --depth 6 --epochs 6 --lr 0.008 --warmup-epochs 0.5 --out "$out/labels6-d6-s$seed"
