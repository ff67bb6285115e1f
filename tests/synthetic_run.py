"""A run folder of any size, made without training; as a script it measures the page that is made of it.

python tests/synthetic_run.py FOLDER [STEPS] [ROLLOUTS A STEP] [TOKENS A ROLLOUT]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from safetensors.numpy import save_file

TOP = 5
VOCABULARY = 50_000


def write_run(
    folder: Path,
    *,
    steps: int,
    rollouts: int,
    tokens: int,
    word: Callable[[int], str] = lambda i: f" w{i}",
    phases: Sequence[str] = ("train", "probe"),
) -> Path:
    """A look at every step with this many rollouts (by turns one of ``phases``; probes repeat their problem)."""
    (folder / "tokens").mkdir(parents=True)
    random = np.random.default_rng(0)
    recipe = {"recipe": {"name": "opsd"}, "paper": {}, "run": {"task": "synthetic", "seed": 0}}
    (folder / "config.toml").write_text(tomli_w.dumps(recipe))
    metrics, samples = [], []
    for step in range(1, steps + 1):
        metrics.append({"step": step} | {name: float(random.random()) for name in METRICS})
        texts, tensors = look(random, rollouts, tokens, word)
        (folder / "tokens" / f"step-{step}.json").write_text(json.dumps(texts))
        save_file(tensors, folder / "tokens" / f"step-{step}.safetensors")
        for row in range(rollouts):
            phase = phases[row % len(phases)]
            key = f"probe-{row}" if phase == "probe" else f"train-{step}-{row}"
            samples.append(
                row_of(key, phase, step, row, "".join(texts["pieces"][row]), float(random.random() > 0.5))
            )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    (folder / "summary.json").write_text(json.dumps({"steps": steps}))
    return folder


METRICS = (
    "loss", "entropy/student", "entropy/teacher", "divergence/teacher", "divergence/teacher/content",
    "divergence/teacher/style", "divergence/teacher/other", "overlap/teacher", "length/mean", "truncated",
    "reward/mean", "spent/tokens", "tokens_per_second", "seconds/sample", "seconds/update", "lr", "grad_norm",
    "memory/peak_bytes", "distinct/3", "repetition/mean", "leakage/copied",
)  # fmt: skip


def look(
    random: np.random.Generator, rollouts: int, tokens: int, word: Callable[[int], str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``selfteach.training.tokens`` writes, with random numbers in it."""
    count = rollouts * tokens
    ids = random.integers(VOCABULARY, size=count)
    tops = {role: random.integers(VOCABULARY, size=(count, TOP)) for role in ("student", "teacher")}
    names = ("weight/distill", "loss/distill", "entropy/student", "entropy/teacher", "divergence/teacher")
    tensors = {name: random.exponential(size=count).astype(np.float32) for name in names}
    tensors |= {f"log_prob/{role}": -random.exponential(size=count).astype(np.float32) for role in tops}
    tensors |= {f"top_ids/{role}": top.astype(np.int32) for role, top in tops.items()}
    tensors |= {
        f"top_probs/{role}": -np.sort(-random.dirichlet(np.ones(TOP), size=count).astype(np.float32))
        for role in tops
    }
    tensors["ids"] = ids.astype(np.int32)
    known = sorted({int(i) for top in tops.values() for i in top.ravel()})
    texts = {
        "lengths": [tokens] * rollouts,
        "pieces": [[word(int(i)) for i in row] for row in ids.reshape(rollouts, tokens)],
        "vocabulary": [[i, word(i)] for i in known],
    }
    return texts, tensors


def row_of(key: str, phase: str, step: int, row: int, answer: str, reward: float) -> dict[str, Any]:
    problem = f"What is the answer to {key}? " + "It needs some thought. " * 8
    return {
        "step": step, "phase": phase, "key": key, "problem": problem, "row": row,
        "prompt": f"<user>{problem}<assistant>",
        "teacher_prompts": {"teacher": f"<user>{problem}\nThe solution: {'because of this, ' * 30}<assistant>"},
        "answer": answer, "reward": reward, "finished": True, "length": len(answer.split()),
    }  # fmt: skip


def measure(folder: Path, steps: int = 1000, rollouts: int = 2, tokens: int = 64) -> None:
    from selfteach.report import build_report
    from test_report_browser import launched, opened

    write_run(folder, steps=steps, rollouts=rollouts, tokens=tokens)
    began, working = time.perf_counter(), time.process_time()
    page = build_report(folder)
    built, worked = time.perf_counter() - began, time.process_time() - working
    print(f"built in {built:.1f} s ({worked:.1f} s of one core), {page.stat().st_size / 1e6:.1f} MB")
    with launched() as browser:
        for _ in range(5):
            with opened(browser, page) as shown:
                print(f"opened in {shown.seconds:.2f} s: {shown.page.locator('.count').inner_text()}")


if __name__ == "__main__":
    measure(Path(sys.argv[1]), *map(int, sys.argv[2:]))
