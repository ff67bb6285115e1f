#!/usr/bin/env bash
# Four machines with 8 GPUs each: start it on every one of them, with the first one's address and a folder that all see.
#
#   HEAD=10.0.0.1 OUT=/shared/runs/four-nodes examples/launch/four_nodes.sh [--resume]
#
# Where a machine is lost the others end after a while; start it anew with --resume, on as many machines or others.
# Put your own model and rows in; --model "" --task table tries it on the arena.
set -euo pipefail
: "${HEAD:?the address of the first machine}" "${NODES:=4}" "${GPUS:=8}" "${PORT:=29500}" "${OUT:=runs/four-nodes}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"

run=(opsd --model Qwen/Qwen3-14B --task train.jsonl --precision bfloat16 --gradient-checkpointing selective
     --fsdp full_shard --prompts 256 --steps 200 --eval-every 50 --checkpoint-every 25)
# A run that goes on has its settings in its folder.
[[ " $* " != *" --resume "* ]] || run=()

exec torchrun --nnodes "$NODES" --nproc-per-node "$GPUS" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:$PORT" --rdzv-id "$(basename "$OUT")" \
    -m selfteach train "${run[@]}" --out "$OUT" "$@"
