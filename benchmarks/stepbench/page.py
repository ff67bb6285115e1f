"""results/speed.md and speed.svg from what speed.json holds."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from stepbench.bounds import Machine, Model, Work, bounds
from stepbench.figures import Spread, ratios, spread
from stepbench.process import FAILED
from stepbench.recorder import PHASES
from stepbench.shapes import Shape

Cell = Mapping[str, Any]
Runs = Sequence[Mapping[str, Any]]
PACKAGES = ("torch", "transformers", "trl", "accelerate", "selfteach")

TOP = """\
# A training step, beside its peers

Written by `benchmarks/bench_step.py` (`make bench-step`), every number from `speed.json` beside it. What stands
here is one whole training step: sample, score with teacher and student, compare over the full vocabulary,
differentiate, step.

## What is equal, and what is not

Equal: the model and its weights; prompts token for token, as student and teacher read them (a hash is compared);
rows and new tokens (no token ends an answer, and every side must have generated exactly rows × tokens); rows scored
at once; the JSD (β = ½) over the full vocabulary against frozen weights, the mean over all tokens; temperature 1,
no cuts; all weights trained by AdamW at one rate, gradients clipped at norm 1, one optimizer step a batch; no
gradient checkpointing (but on a side called *selective*: `--gradient-checkpointing selective`); threads, of which
idle ones sleep; torch and transformers, for all sides run in one environment.

Not equal:

- *Randomness.* Seeds are the same numbers, but each library draws in its own order: the tokens differ, their number
  does not.
- *TRL's settings* are its defaults but for these: gradient checkpointing off (its default is on, a fifth slower by
  its documentation), `bf16` off in float32 (its default is on), full logits in place of its top-100 (SDFT) or its
  sampled token (SDPO), logging every step as ours does. Its optimizer is torch's fused AdamW, its default.
- *What TRL does in a step* (1.16, read in its source): one `generate` for the whole batch (`steps_per_generation` =
  `gradient_accumulation_steps`), then for each micro-batch a student forward and a teacher forward with logits at
  the completion's positions alone, the divergence on whole [rows, tokens, vocabulary] tensors, and a backward pass.
  With these settings it computes no log-probs of the rollout (no importance weights). DistillationTrainer keeps
  hidden states and walks over tiles of the vocabulary, twice; GKDTrainer generates each micro-batch by itself,
  makes logits at the prompt's positions too, and divides its loss by the number of tokens of the data's own replies
  in place of those generated (here one or two a row), so that its loss is that much larger.
- *What ours does beside it*: watched metrics (entropies, overlap, divergence by token class), alarms, the log-prob
  of each sampled token, metrics.jsonl. All of it is in its time. The preflight, which runs once before the first
  step, is not.
- *Precisions.* "TRL … bf16" is TRL's own default, float32 weights under autocast; "bf16 weights" loads student and
  teacher in bfloat16, so that AdamW moves bfloat16 weights (at small rates most of them do not move). "Plain loop
  bf16" and ours with a bfloat16 sampler and teacher keep the student in float32.
- *The plain loop* is transformers' `generate`, two forward passes without padding beyond the micro-batch, `kl_div`
  on logits of a micro-batch, `backward`, AdamW; no metrics, no checks, no files.

Each repetition starts every side once, in a process of its own, one after the other; the order rotates. A process
makes a step of short answers first, which is not counted. **Wall** and **processor** (user + system of all threads
of the process) are seconds a step, from one step's end to the next one's: medians over repetitions, least and
largest in brackets. **Ratios** are taken within a repetition; the interval is a bootstrap (95 %) of their median.
**Peak**: the largest resident set during timed steps (on a GPU: what was allocated there). **Above**: peak less
what was resident before a model was loaded, less 20 bytes a weight (float32 weights, gradients, Adam's two moments,
one frozen float32 teacher), the same on all sides: a further copy counts, a teacher in half the bytes is a saving.
**Loss** of the first timed step, nats a token: equal but for the draw of tokens, where sides compute the same.

Phases are those of the process's clock. *Teacher* and *student* are the transformer without its head; the head's
products and the divergence are *loss* (ours takes the gradient in the logits there too, others in *backward*, so
compare the sum of the two); *rest* is all else: tokenization, collation, clipping, metrics, files.
"""


def written(found: Mapping[str, Any]) -> str:
    """The page."""
    parts = [TOP, "![Processor seconds of a step by phase](speed.svg)\n"]
    for cell in found["cells"].values():
        parts.append(section(cell))
    if not found["cells"]:
        parts.append("No cell has been measured yet.\n")
    if found.get("learning"):
        parts.append(learning_section(found["learning"]))
    return "\n".join(parts)


def section(cell: Cell) -> str:
    shape = Shape(**cell["shape"])
    work = cell["work"]
    return "\n".join(
        [
            f"## {title(cell)}",
            "",
            *(f"- {fact}" for fact in cell["facts"]),
            f"- prompts of {work['prompt']:.0f} tokens (mean), as the teacher reads them {work['shown']:.0f}; "
            f"{shape.micro_batch} rows scored at once; AdamW at {shape.lr:g}",
            "",
            side_table(cell),
            "",
            ratio_table(cell),
            "",
            "Processor seconds by phase (medians):",
            "",
            phase_table(cell),
            "",
            memory_table(cell),
            "",
            bound_table(cell),
            "",
            *failures(cell),
        ]
    )


def title(cell: Cell) -> str:
    shape = Shape(**cell["shape"])
    model = {"arena": "the arena's model", "given": cell["config"]}.get(
        shape.model, f"{shape.model} (random)"
    )
    return f"{cell['family']}: {model}, {shape.told}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows])


# --- numbers of a side --------------------------------------------------------------------------------------------


def ran(cell: Cell) -> dict[str, Runs]:
    """The sides that ran, ours first."""
    return {
        name: runs for name, runs in cell["sides"].items() if runs and not any(FAILED in one for one in runs)
    }


def of_runs(runs: Runs, key: str) -> list[float]:
    """A step's seconds by a clock ("wall" or "cpu"), the median of each run's steps."""
    return [statistics.median(step[key] for step in run["steps"]) for run in runs]


def of_phase(runs: Runs, phase: str, clock: int) -> float:
    """Median seconds of a phase over all runs' steps; ``clock`` 0: wall, 1: processor."""
    return statistics.median(step["phases"][phase][clock] for run in runs for step in run["steps"])


def mib(runs: Runs, key: str) -> float:
    return statistics.median(run[key] for run in runs) / 2**20


def side_table(cell: Cell) -> str:
    shape = Shape(**cell["shape"])
    rows = []
    for name, runs in ran(cell).items():
        wall, cpu = spread(of_runs(runs, "wall")), spread(of_runs(runs, "cpu"))
        first = statistics.fmean(run["steps"][0]["loss"] for run in runs)
        rows.append(
            [name, wall.told(), cpu.told(), f"{shape.generated / wall.median:,.0f}", f"{mib(runs, 'peak'):,.0f}",
             f"{mib(runs, 'above'):,.0f}", f"{first:.4f}", f"{statistics.median(run['moved'] for run in runs):.1e}"]
        )  # fmt: skip
    heads = [
        "",
        "wall (s)",
        "processor (s)",
        "tokens/s",
        "peak (MiB)",
        "above (MiB)",
        "loss",
        "weights moved",
    ]
    return table(heads, rows)


def ratio_table(cell: Cell) -> str:
    """Every side of ours against every other one."""
    sides = ran(cell)
    rows = []
    for ours in (name for name in sides if name.startswith("ours")):
        for other in (name for name in sides if not name.startswith("ours") or name == "ours before"):
            if ours == other:
                continue
            mine, theirs = sides[ours], sides[other]
            clocks = [spread(ratios(of_runs(mine, key), of_runs(theirs, key))) for key in ("wall", "cpu")]
            rows.append([f"{ours} ÷ {other}", *map(interval, clocks), *memory_ratios(mine, theirs)])
    return table(["", "wall", "processor", "peak", "above"], rows)


def interval(one: Spread) -> str:
    """The median ratio with least and largest, and the bootstrap interval where there is one."""
    if one.least == one.most:
        return one.told()
    return f"**{one.median:.2f}** ({one.least:.2f}–{one.most:.2f}; 95 %: {one.low:.2f}–{one.high:.2f})"


def memory_ratios(mine: Runs, theirs: Runs) -> list[str]:
    found = []
    for key in ("peak", "above"):
        ours, others = mib(mine, key), mib(theirs, key)
        found.append(f"{ours / others:.2f}" if others > 0 and ours > 0 else "–")
    return found


def phase_table(cell: Cell) -> str:
    rows = [[name, *(f"{of_phase(runs, one, 1):.2f}" for one in PHASES)] for name, runs in ran(cell).items()]
    return table(["", *PHASES], rows)


def memory_table(cell: Cell) -> str:
    """At most allocated on a device, by phase; nothing of runs on a CPU, or of those made before it was read."""
    known = {name: runs for name, runs in ran(cell).items() if runs[0].get("memory")}
    rows = [
        [name, *(f"{max(run['memory'].get(one, 0) for run in runs) / 2**20:,.0f}" for one in PHASES)]
        for name, runs in known.items()
    ]
    head = "Allocated on the device at most, by phase (MiB):"
    return f"{head}\n\n{table(['', *PHASES], rows)}" if rows else ""


def bound_table(cell: Cell) -> str:
    """What ours took by the wall (of one thread: of the processor), beside what this machine's rates allow at least."""
    sides = ran(cell)
    if "ours" not in sides:
        return ""
    shape, machine = Shape(**cell["shape"]), Machine(**cell["machine"])
    work = Work(shape.rows, cell["work"]["prompt"], cell["work"]["shown"], shape.tokens)
    least = bounds(Model(**cell["sizes"]), work, machine)
    alone = cell.get("threads") == 1
    rows = []
    for name, seconds in least.items():
        took = sum(of_phase(sides["ours"], one, int(alone)) for one in name.split(" + "))
        rows.append([name, f"{took:.3f}", f"{seconds:.3f}", f"{seconds / took:.0%}" if took > 0 else "–"])
    read, made = f"{machine.bandwidth / 1e9:.1f} GB/s", f"{machine.flops / 1e9:.0f} GFLOP/s"
    head = (
        f"Ours against the bound, {'of the processor' if alone else 'by the wall'} (float32; {read} of a matrix–vector "
        f"product, {made} of a product, measured before the cells):"
    )
    return f"{head}\n\n{table(['', 'took (s)', 'bound (s)', 'share of the bound reached'], rows)}"


def failures(cell: Cell) -> list[str]:
    lost = {name: next(one[FAILED] for one in runs if FAILED in one) for name, runs in cell["sides"].items()
            if any(FAILED in one for one in runs)}  # fmt: skip
    return [f"- did not run: {name}: `{why}`" for name, why in lost.items()] + ([""] if lost else [])


def learning_section(learning: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Whether the loss falls on every side, on the arena's model."""
    lines = ["## Does every side learn?", ""]
    for family, sides in learning.items():
        steps = max(map(len, sides.values()), default=0)
        rows = []
        for name, losses in sides.items():
            third = max(1, len(losses) // 3)
            first, last = statistics.fmean(losses[:third]), statistics.fmean(losses[-third:])
            rows.append([name, f"{first:.4f}", f"{last:.4f}", "yes" if last < first else "**no**"])
        told = f"{family}, the arena's model, {steps} steps: loss (nats a token), mean over the first and last third."
        lines += [told, "", table(["", "first", "last", "falls"], rows), ""]
    return "\n".join(lines)


# --- where and with what ------------------------------------------------------------------------------------------


def facts(device: str, threads: int, words: Sequence[str], seconds: float) -> list[str]:
    import torch

    if device == "cuda":
        hardware = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    else:
        model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
        used = threads or torch.get_num_threads()
        hardware = (
            f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores, {used} threads, "
            f"load average {load} at the end"
        )
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return [
        f"hardware: {hardware}",
        f"versions: Python {platform.python_version()}, {versions}",
        f"command: `python benchmarks/bench_step.py {' '.join(map(quoted, words))}`, this cell "
        f"{seconds / 60:.0f} minutes, {time.strftime('%Y-%m-%d')}",
    ]


def quoted(word: str) -> str:
    """A word of the command line, without the path of a folder on this machine."""
    shown = Path(word).name if word.startswith(("/", "~")) else word
    return f'"{shown}"' if " " in shown else shown


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


# --- the plot -----------------------------------------------------------------------------------------------------

COLORS = ("#4e79a7", "#a0cbe8", "#59a14f", "#f28e2b", "#e15759", "#b07aa1", "#9c9c9c")
LEFT, WIDTH, BAR, GAP = 210, 560, 16, 6


def plotted(found: Mapping[str, Any]) -> str:
    """An SVG: of each cell a group of bars, one a side: a step's processor seconds by phase, over the longest
    bar's."""
    body, y = [legend()], 40
    for cell in found["cells"].values():
        sides = ran(cell)
        if not sides:
            continue
        body.append(label(8, y + 12, title(cell), bold=True))
        y += 22
        seconds = {name: [max(0.0, of_phase(runs, one, 1)) for one in PHASES] for name, runs in sides.items()}
        longest = max(sum(one) for one in seconds.values()) or 1.0
        for name, split in seconds.items():
            body += bar(name, split, longest, y)
            y += BAR + GAP
        y += 14
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 90}" height="{y}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, *body, "</svg>", ""])


def bar(name: str, split: Sequence[float], longest: float, y: int) -> list[str]:
    parts, x = [label(LEFT - 8, y + 12, name, anchor="end")], float(LEFT)
    for phase, seconds, color in zip(PHASES, split, COLORS, strict=True):
        width = WIDTH * seconds / longest
        parts.append(
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{color}">'
            f"<title>{phase}: {seconds:.2f} s</title></rect>"
        )
        x += width
    return [*parts, label(int(x) + 6, y + 12, f"{sum(split):.2f} s")]


def legend() -> str:
    return "\n".join(
        f'<rect x="{LEFT + 80 * i}" y="10" width="10" height="10" fill="{color}"/>'
        + label(LEFT + 80 * i + 14, 19, name)
        for i, (name, color) in enumerate(zip(PHASES, COLORS, strict=True))
    )


def label(x: int, y: int, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
