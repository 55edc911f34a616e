#!/usr/bin/env bash
# Distilling from cached logits next to live, the same recipe and seed; run from the root of the repository. Minutes on two cores.
set -euo pipefail
out=${1:-runs/cached-next-to-live}
common=(--ancestor checkpoints/fashion-mnist/ancestor --data fashion-mnist --epochs 2 --batch-size 64 --mixup 0.2)
learngene cache "${common[@]}" --top-k 10 --dtype float32 --out "$out/k10-float32"
learngene cache "${common[@]}" --top-k 10 --out "$out/k10"
learngene cache "${common[@]}" --top-k 3 --out "$out/k3"
for round in 1 2; do
  learngene distill "${common[@]}" --plan 2,2,2,2 --out "$out/live-$round"
  learngene distill "${common[@]}" --plan 2,2,2,2 --cache "$out/k10" --out "$out/cached-k10-$round"
done
learngene distill "${common[@]}" --plan 2,2,2,2 --cache "$out/k10-float32" --out "$out/cached-k10-float32"
learngene distill "${common[@]}" --plan 2,2,2,2 --cache "$out/k3" --out "$out/cached-k3"
