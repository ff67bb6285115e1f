"""What teachers that wait on the disk save and cost: memory of the process's own, and seconds of a step, on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/bench_offload.py [--steps 4] [--rounds 2]

A random Llama of SmolLM2-135M's shape trains all its weights on world "table" (4 prompts, answers of up to 16 tokens,
SGD), taught by another model (gkd), by a frozen copy and by an average of itself (opsd), with and without
``--offload-teachers disk``, each in a process of its own and in turns. Printed, in MiB: RssAnon (Linux) as the second
step begins (an average is there from the first one's end on) and its peak from then on; the median step's seconds
of processor time from the second one on: least and largest of the rounds. The losses must be equal.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import process_time
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from selfteach.cli.train import configured
from selfteach.task.arena import model_folder
from selfteach.training import randomness
from selfteach.training.launch import settings_of
from selfteach.training.progress import Silent
from selfteach.training.text.learner import TextLearner
from selfteach.training.trainer import Trainer

TEACHERS = {
    "another model": ("gkd", "--lmbda", "1", "--teacher", "MODEL"),
    "frozen copy": ("opsd", "--weights", "frozen"),
    "average": ("opsd", "--weights", "ema"),
}
COMMON = (
    "--task", "table", "--lora-rank", "0", "--optim", "sgd", "--lr", "1e-3", "--prompts", "4", "--max-tokens", "16",
    "--eval-problems", "0", "--samples-every", "0", "--device", "cpu", "--max-memory", "4",
)  # fmt: skip
MIB = 2**20
EVERY = 0.02
"""Seconds between looks at the memory."""


def model_in(folder: Path) -> None:
    """SmolLM2-135M's shape, random weights, the arena's tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_folder("table"))
    shape = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def own_memory() -> int:
    """RssAnon in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(one.split()[1]) * 1024 for one in lines if one.startswith("RssAnon:"))


class Rows(Silent):
    """Keeps every step's loss."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def step(self, row: Mapping[str, Any]) -> None:
        self.losses.append(row["loss"])


def measured(words: Sequence[str], steps: int) -> dict[str, Any]:
    """Of one run, in this process."""
    config = configured([*words, "--steps", str(steps)])[0]
    randomness.seed_all(config.seed)
    rows = Rows()
    run = Trainer(TextLearner(config, rows), None, rows, settings_of(config))
    run.step()
    rest = peak = own_memory()
    over = Event()

    def look() -> None:
        nonlocal peak
        while not over.wait(EVERY):
            peak = max(peak, own_memory())

    thread = Thread(target=look)
    thread.start()
    seconds = []
    for _ in range(steps - 1):
        began = process_time()
        run.step()
        seconds.append(process_time() - began)
    over.set()
    thread.join()
    return {"rest": rest // MIB, "peak": peak // MIB, "seconds": median(seconds), "losses": rows.losses}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--child", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measured(args.child, args.steps)))
        return 0
    with TemporaryDirectory() as folder:
        model_in(Path(folder))
        for name, words in TEACHERS.items():
            given = [folder if one == "MODEL" else one for one in words]
            rows: dict[str, list[dict[str, Any]]] = {"none": [], "disk": []}
            for _ in range(args.rounds):
                for to, found in rows.items():
                    child = [*given, *COMMON, "--model", folder, "--offload-teachers", to]
                    command = [sys.executable, __file__, "--steps", str(args.steps), "--child", *child]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    found.append(json.loads(done.stdout.splitlines()[-1]))
            assert len({tuple(one["losses"]) for found in rows.values() for one in found}) == 1, rows
            for to, found in rows.items():
                told = ", ".join(
                    f"{kind} {min(one[kind] for one in found):.4g} to {max(one[kind] for one in found):.4g}"
                    for kind in ("rest", "peak", "seconds")
                )
                print(f"{name}, {to}: {told}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
