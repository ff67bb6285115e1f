#!/usr/bin/env bash
# One machine, 8 GPUs: weights, gradients and optimizer states are sharded over them.
#
#   examples/launch/one_node.sh                      begins the run
#   examples/launch/one_node.sh --resume             goes on from its last checkpoint, with as many GPUs or others
#   GPUS=2 examples/launch/one_node.sh --dry-run     shows its settings
#
# Further words are those of selfteach train, and stand in for the ones that are here.
# Put your own model and rows in; --model "" --task table tries it on the arena.
set -euo pipefail
: "${GPUS:=8}" "${OUT:=runs/one-node}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"

run=(opsd --model Qwen/Qwen3-8B --task train.jsonl --precision bfloat16 --gradient-checkpointing selective
     --fsdp full_shard --prompts 64 --steps 200 --eval-every 50 --checkpoint-every 25)
# A run that goes on has its settings in its folder.
[[ " $* " != *" --resume "* ]] || run=()

exec torchrun --standalone --nproc-per-node "$GPUS" -m selfteach train "${run[@]}" --out "$OUT" "$@"
