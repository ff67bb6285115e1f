"""Tokens that OPSD, SDPO and GRPO generate until they reach an accuracy: ``python benchmarks/token_efficiency.py``.

Every method gets the same grid, learning rates RATES by groups of GROUPS answers, ROWS answers a step. The setting of
the highest accuracy (its mean over the tokens of a task) on seed 1000, which is not reported, runs on seeds 0, 1, …:
GRPO for LONGER times the tokens. A run reaches an accuracy where the line between its evaluations does. Ratios are
GRPO's tokens over the method's, paired by seed: geometric means, 95 % intervals of Student's t of their logarithms; a
run of GRPO that never gets there counts with all that it generated, so the ratio is at least that.

Runs what is not there yet under runs/token-efficiency; writes
results/token_efficiency.json and .md. ``--page``: the page alone.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shlex
import statistics
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
import transformers

from selfteach.studies.runs import Planned, curve, finished
from selfteach.studies.student import quantile
from selfteach.studies.workers import Crew

ROOT, RESULTS = Path("runs/token-efficiency"), Path("results")
TASKS: Mapping[str, tuple[str, int]] = {
    "tutor": ("--task tutor --model arena:tutor-unsure", 15_000),
    "json": ("--task json", 100_000),
}
"""What the runs are told, and how many tokens they generate."""
METHODS = ("opsd", "sdpo", "grpo")
LEVELS = (0.6, 0.7, 0.8, 0.9)
RATES, GROUPS, ROWS = (1e-4, 3e-4, 1e-3), (4, 8), 16
LENGTH, POINTS = 30, 25
"""Tokens of an answer, about; evaluations of a run."""
LONGER, SEEDS, TUNING = 3, 8, 1000


def run_of(task: str, method: str, setting: tuple[float, int], seed: int, longer: int = 1) -> Planned:
    """A run of ``longer`` times the task's tokens, evaluated about POINTS times in the first of these."""
    told, budget = TASKS[task]
    rate, group = setting
    every = max(1, budget // (POINTS * ROWS * LENGTH))
    words = f"train {method} {told} --preset arena --lr {rate} --betas 0.9 0.95 "
    words += f"--per-prompt {group} --prompts {ROWS // group} "
    words += f"--token-budget {budget * longer} --steps 10000 --eval-every {every} "
    words += f"--eval-problems 256 --eval-samples 1 --samples-every 0 --max-idle-steps 0 --seed {seed}"
    folder = ROOT / f"{task}-{method}-{rate}-{group}-{seed}-{sha256(words.encode()).hexdigest()[:8]}"
    return Planned(folder.name, seed, folder, shlex.split(f"{words} --out {folder}"))


def height(run: Planned) -> float:
    """Mean accuracy over the tokens, trapezoids; 0 of a run that stopped by itself."""
    if not finished([run]):
        return 0.0
    points = [(float(one["spent"]), float(one["headline"])) for one in curve(run)["points"]]
    area = sum((b - a) * (u + v) / 2 for (a, u), (b, v) in pairwise(points))
    return area / (points[-1][0] - points[0][0])


def reached(points: Sequence[dict[str, float]], level: float) -> float | None:
    """The tokens at which the line through the evaluations reaches ``level`` (None: it never does)."""
    if points[0]["headline"] >= level:
        return 0.0
    for one, two in pairwise(points):
        if two["headline"] >= level:
            share = (level - one["headline"]) / (two["headline"] - one["headline"])
            return one["spent"] + share * (two["spent"] - one["spent"])
    return None


def made(runs: Sequence[Planned], jobs: int) -> None:
    left = [run for run in runs if not finished([run])]
    ROOT.mkdir(parents=True, exist_ok=True)
    with Crew(jobs) as crew:
        crew.make(left, lambda run, code: print(run.label, "ended with", code, flush=True), lambda: True)


def all_made(tasks: Sequence[str], jobs: int) -> dict[str, Any]:
    """What the runs say: task → method → the settings' heights, the chosen one, its curves by seed."""
    grid = list(product(RATES, GROUPS))
    told: dict[str, Any] = {}
    for task in tasks:
        tuning = {(method, one): run_of(task, method, one, TUNING) for method in METHODS for one in grid}
        made(list(tuning.values()), jobs)
        own: dict[str, Any] = {}
        for method in METHODS:
            heights = {one: height(tuning[method, one]) for one in grid}
            best = max(grid, key=heights.__getitem__)
            longer = LONGER if method == "grpo" else 1
            runs = [run_of(task, method, best, seed, longer) for seed in range(SEEDS)]
            own[method] = {
                "tried": {f"lr {rate:g}, group {group}": h for (rate, group), h in heights.items()},
                "command": shlex.join(["selfteach", *runs[0].words]),
                "runs": runs,
            }
        made([run for one in own.values() for run in one["runs"]], jobs)
        for one in own.values():
            one["runs"] = [curve(run)["points"] for run in one["runs"]]
        told[task] = own
    return told


def interval(logs: Sequence[float]) -> tuple[float, float, float]:
    """(geometric mean, lower, upper) of 95 %."""
    mean, count = statistics.fmean(logs), len(logs)
    error = quantile(0.025, count - 1) * statistics.stdev(logs) / math.sqrt(count)
    return math.exp(mean), math.exp(mean - error), math.exp(mean + error)


def ratio(own: Sequence[Any], other: Sequence[Any], level: float) -> str:
    """GRPO's tokens over the method's, or why there is no number."""
    mine = [reached(points, level) for points in own]
    if None in mine:
        return f"reached in {sum(one is not None for one in mine)} of {len(mine)} runs"
    theirs = [reached(points, level) for points in other]
    never = sum(one is None for one in theirs)
    counted = [points[-1]["spent"] if one is None else one for one, points in zip(theirs, other, strict=True)]
    pairs = [(a, b) for a, b in zip(mine, counted, strict=True) if a and b]
    if len(pairs) < len(own):
        return "one of them has it untrained"
    mean, low, high = interval([math.log(b / a) for a, b in pairs])
    if never:
        return f"≥ {mean:.2g} (≥ {low:.2g}); GRPO never in {never} of {len(theirs)}"
    return f"{mean:.2g} ({low:.2g}–{high:.2g})"


def tokens(runs: Sequence[Any], level: float) -> str:
    found = [reached(points, level) for points in runs]
    there = [one for one in found if one is not None]
    mean = f"{statistics.fmean(there):,.0f}" if there else "—"
    return mean + (f" ({len(there)} of {len(found)})" if len(there) < len(found) else "")


def page(told: dict[str, Any]) -> str:
    method = (__doc__ or "").split("\n\n")[1]
    for name in ("RATES", "GROUPS", "ROWS", "LONGER"):
        value = globals()[name]
        method = method.replace(
            name, ", ".join(map(str, value)) if isinstance(value, tuple) else f"{value:,}"
        )
    lines = ["# Generated tokens to an accuracy", "", *method.splitlines(), ""]
    lines += [f"Command: `python benchmarks/token_efficiency.py --tasks {' '.join(told['tasks'])}`.", ""]
    for task, own in told["tasks"].items():
        lines += [
            f"## {task}",
            "",
            f"Made with {told['made'][task]}.",
            "",
            "| method | chosen | " + " | ".join(f"tokens to {x}" for x in LEVELS) + " | ",
        ]
        lines[-1] += " | ".join(f"GRPO ÷ it at {x}" for x in LEVELS) + " | last accuracy |"
        lines.append("|" + "---|" * (3 + 2 * len(LEVELS)))
        for method, one in own.items():
            best = max(one["tried"], key=one["tried"].__getitem__)
            cells = [tokens(one["runs"], x) for x in LEVELS]
            cells += ["" if method == "grpo" else ratio(one["runs"], own["grpo"]["runs"], x) for x in LEVELS]
            last = [points[-1]["headline"] for points in one["runs"]]
            cells.append(f"{statistics.fmean(last):.2f} ({min(last):.2f}–{max(last):.2f})")
            lines.append(f"| {method} | {best} | " + " | ".join(cells) + " |")
        lines += ["", *(f"- `{one['command']}`" for one in own.values()), ""]
        for method, one in own.items():
            tried = "; ".join(f"{name}: {value:.3f}" for name, value in one["tried"].items())
            lines.append(f"- {method}, mean accuracy over the tokens on seed {TUNING}: {tried}")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--page", action="store_true")
    asked = parser.parse_args()
    path = RESULTS / "token_efficiency.json"
    if asked.page and not path.exists():
        raise SystemExit(f"{path} is not there: run it without --page first")
    known = json.loads(path.read_text()) if path.exists() else {"tasks": {}}
    if not asked.page:
        known["tasks"] |= all_made(asked.tasks, asked.jobs)
        made = f"{platform.machine()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        made += f"Python {platform.python_version()}, seeds 0–{SEEDS - 1}"
        known.setdefault("made", {}).update(dict.fromkeys(asked.tasks, made))
        path.write_text(json.dumps(known, indent=1) + "\n")
    (RESULTS / "token_efficiency.md").write_text(page(known), encoding="utf-8")


if __name__ == "__main__":
    main()
