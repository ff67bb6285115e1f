"""How a step of this library grows: seconds and bytes against response length, group size, views and vocabulary.

    python benchmarks/growth.py --write                       every sweep on one thread: results/growth.{md,json}
    python benchmarks/growth.py --sweeps views --repeats 1    a look at one

Random Llama-like models of one width, so that a sweep takes a minute on a CPU; a process for each point and
repetition. Of every phase: medians over steps and repetitions, an exponent (least squares of log seconds on log
size, with its standard error), and beside the largest point the least time that this machine's memory bandwidth and
products allow.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stepbench import kinds
from stepbench.figures import Fit, exponent, line
from stepbench.process import FAILED, done, work
from stepbench.recorder import PHASES
from stepbench.shapes import Shape
from stepbench.side import Task

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "build" / "bench-step"
RECIPE = f"{Path(__file__).with_name('stepbench') / 'views.py'}:Views"
SWEEPS: dict[str, tuple[int, ...]] = {
    "tokens": (32, 64, 128, 256, 512),
    "group": (1, 2, 4, 8, 16, 32),
    "views": (1, 2, 4, 8),
    "vocabulary": (2_000, 8_000, 32_000, 128_000),
}
UNITS = {
    "tokens": "tokens of a response",
    "group": "rollouts of a prompt",
    "views": "teachers",
    "vocabulary": "tokens of the vocabulary",
}


@dataclass(frozen=True)
class Point:
    """A step: ``prompts`` × ``group`` rows of ``prompt`` + ``tokens``; each of ``views`` teachers reads ``hint``
    more."""

    prompts: int = 4
    group: int = 2
    tokens: int = 64
    views: int = 1
    vocabulary: int = 8_000
    prompt: int = 64
    hint: int = 64
    width: int = 128
    layers: int = 4

    @property
    def rows(self) -> int:
        return self.prompts * self.group

    @property
    def config(self) -> dict[str, Any]:
        return {
            "model_type": "llama", "hidden_size": self.width, "intermediate_size": 3 * self.width,
            "num_hidden_layers": self.layers, "num_attention_heads": self.width // 32,
            "num_key_value_heads": self.width // 32, "head_dim": 32, "vocab_size": self.vocabulary,
            "tie_word_embeddings": True, "max_position_embeddings": 8192,
        }  # fmt: skip


def points(sweep: str, base: Point = Point()) -> list[Point]:
    """The base point with one size varied. Group sizes are those of one prompt, so that nothing else grows."""
    if sweep == "group":
        base = replace(base, prompts=1)
    return [replace(base, **{sweep: value}) for value in SWEEPS[sweep]]


# --- measuring ----------------------------------------------------------------------------------------------------


def measured(
    point: Point, options: argparse.Namespace, repetition: int, *, profiled: bool = False
) -> Mapping[str, Any]:
    """A process's answer: its steps and its peak. SystemExit with its last line where it gave none."""
    from stepbench.models import random_model
    from stepbench.workload import words

    SCRATCH.mkdir(parents=True, exist_ok=True)
    model = random_model(point.config, SCRATCH / f"llama-{point.width}-{point.layers}-{point.vocabulary}")
    rows = SCRATCH / "growth-rows.json"
    rows.write_text(
        json.dumps(words(point.prompts, 0, point.prompt, [point.hint] * point.views)), encoding="utf-8"
    )
    shape = Shape("growth", point.prompts, point.group, point.tokens, point.rows, str(model), "words", 1e-4)
    given = ("--views", str(point.views), "--micro-batch", "none", *options.ours_args.split())
    with tempfile.TemporaryDirectory(dir=SCRATCH) as out:
        task = Task(
            "ours", "sdft", shape, str(model), str(model), str(rows), f"{out}/run", words=given, recipe=RECIPE,
            steps=options.steps, seed=repetition, device=options.device, profiled=profiled,
        )  # fmt: skip
        found = done(task, __file__, options.threads, log=SCRATCH / "logs" / "growth.log")
    if FAILED in found:
        raise SystemExit(f"{point}: {found[FAILED]}")
    return found


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over repetitions and their steps: processor and wall seconds by phase, and bytes above the
    weights."""
    steps = [step for run in runs for step in run["steps"]]
    return {
        "cpu": statistics.median(step["cpu"] for step in steps),
        "wall": statistics.median(step["wall"] for step in steps),
        "phases": {
            name: [statistics.median(step["phases"][name][i] for step in steps) for i in (0, 1)]
            for name in PHASES
        },
        "bytes": statistics.median(run["peak"] - run["before"] for run in runs),
        "above": statistics.median(run["above"] for run in runs),
    }


def swept(sweep: str, options: argparse.Namespace) -> dict[str, Any]:
    """Every point of a sweep ``repeats`` times, in turns."""
    runs: list[list[Mapping[str, Any]]] = [[] for _ in SWEEPS[sweep]]
    for repetition in range(options.repeats):
        for i, point in enumerate(points(sweep)):
            runs[i].append(measured(point, options, repetition))
            last = runs[i][-1]["steps"][-1]
            print(f"{sweep} {SWEEPS[sweep][i]}: {last['cpu']:.2f} s processor", flush=True)
    return {
        "x": list(SWEEPS[sweep]),
        "points": [asdict(one) for one in points(sweep)],
        "found": [summary(several) for several in runs],
    }


def eaten(point: Point, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Phase → the share of its time by the wall, which is the profiler's, that each kind of operation takes."""
    once = argparse.Namespace(**{**vars(options), "steps": 1})
    found = measured(point, once, 0, profiled=True)
    took = {name: found["steps"][0]["phases"][name][0] for name in PHASES}
    return {
        name: kinds.shares(some, took[name]) for name, some in found["operations"].items() if took[name] > 0
    }


# --- what it says -------------------------------------------------------------------------------------------------


def fits(found: Mapping[str, Any]) -> dict[str, Fit]:
    """Exponents of the whole step, of each phase (processor seconds), and of bytes above the state."""
    series: dict[str, list[float]] = {"step": [one["cpu"] for one in found["found"]]}
    series |= {name: [one["phases"][name][1] for one in found["found"]] for name in PHASES}
    series["bytes"] = [one["bytes"] for one in found["found"]]
    return {name: exponent(found["x"], values) for name, values in series.items() if min(values) > 0}


def least(point: Mapping[str, Any], machine: Mapping[str, float]) -> dict[str, float]:
    """The bound of a point, by phase."""
    from stepbench.bounds import Machine, Work, bounds, model_of
    from transformers import AutoConfig

    one = Point(**point)
    config = {key: value for key, value in one.config.items() if key != "model_type"}
    model = model_of(AutoConfig.for_model("llama", **config))
    shown = one.prompt + one.hint
    return bounds(model, Work(one.rows, one.prompt, shown, one.tokens, one.views), Machine(**machine))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows])


def page(found: Mapping[str, Any]) -> str:
    """results/growth.md."""
    machine = found["machine"]
    clock = 1 if found["threads"] == 1 else 0
    lines = [
        "# How a step grows",
        "",
        "Written by `benchmarks/growth.py`; its top says how. Exponents of a power law near the sizes shown: 1 is in "
        "proportion, 0 does not grow; a phase with a fixed cost lies below its true exponent. Seconds are the "
        "processor's. Bounds are what the matrices, the cache and the products cost at least "
        "(`benchmarks/stepbench/bounds.py`), beside what a phase took "
        f"{'of the processor' if clock else 'by the wall'}; a model that fits a cache may be read faster than that.",
        "",
        *(f"- {fact}" for fact in found["facts"]),
        f"- measured here: {machine['bandwidth'] / 1e9:.1f} GB/s (a matrix–vector product of 512 MiB), "
        f"{machine['flops'] / 1e9:.1f} GFLOP/s (a product of 2048²)",
        f"- the base point: {Point()}, varied one size at a time (group sizes: of one prompt)",
        "",
    ]
    for sweep, one in found["sweeps"].items():
        lines += [
            f"## Against {UNITS[sweep]}",
            "",
            growth_table(one),
            "",
            bound_table(one, machine, clock),
            "",
        ]
        if sweep == "group":
            lines += [fixed_cost(one, clock), ""]
    return "\n".join([*lines, *eaten_part(found["eaten"])])


def eaten_part(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What eats the rest."""
    rows = [[name, *(f"{shares[kind]:.0%}" for kind in kinds.NAMES)] for name, shares in found.items()]
    return [
        "## What a phase's time goes into",
        "",
        "At the base point, shares of its time by kind of operation (one step under torch's profiler, whose own "
        'cost falls into "between operations"):',
        "",
        table(["", *kinds.NAMES], rows),
        "",
    ]


def growth_table(one: Mapping[str, Any]) -> str:
    """Processor seconds by phase at each size, and the exponents below."""
    rows = []
    for x, point in zip(one["x"], one["found"], strict=True):
        split = [f"{point['phases'][name][1]:.3f}" for name in PHASES]
        rows.append([f"{x:,}", f"{point['cpu']:.3f}", *split, f"{point['bytes'] / 2**20:,.0f}"])
    known = fits(one)
    names = ("step", *PHASES, "bytes")
    rows.append(["**exponent**", *(known[name].told() if name in known else "–" for name in names)])
    return table(["", "step (s)", *PHASES, "peak (MiB)"], rows)


def bound_table(one: Mapping[str, Any], machine: Mapping[str, float], clock: int = 1) -> str:
    """At the largest size: what a phase took (``clock`` 0: by the wall, 1: of the processor), the bound, and the share
    of it that is reached."""
    bound, point = least(one["points"][-1], machine), one["found"][-1]
    rows = []
    for name, seconds in bound.items():
        took = sum(point["phases"][part][clock] for part in name.split(" + "))
        rows.append([name, f"{took:.3f}", f"{seconds:.4f}", f"{seconds / took:.0%}" if took > 0 else "–"])
    rows.append(["rest", f"{point['phases']['rest'][clock]:.3f}", "0", "–"])
    return f"At {one['x'][-1]:,}:\n\n" + table(["", "took (s)", "bound (s)", "share reached"], rows)


def fixed_cost(one: Mapping[str, Any], clock: int = 1) -> str:
    """Of a token step in decoding: what it costs however many rows there are, and what each row adds."""
    points = zip(one["found"], one["points"], strict=True)
    steps = [found["phases"]["sampling"][clock] / point["tokens"] for found, point in points]
    each, fixed, error = line([float(x) for x in one["x"]], steps)
    return (
        f"A token step of decoding takes {1e3 * fixed:.2f} ms whatever the rows (launching kernels, Python), and "
        f"{1e3 * each:.3f} ± {1e3 * error:.3f} ms more for each row."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweeps", nargs="+", choices=list(SWEEPS), default=list(SWEEPS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a process")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--ours-args", default="", help="more options of selfteach train")
    parser.add_argument("--write", action="store_true", help="write growth.md and growth.json")
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    import torch
    from stepbench import bounds
    from stepbench import page as pages

    torch.set_num_threads(options.threads)
    began = time.perf_counter()
    machine = asdict(bounds.measured(options.device))
    sweeps = {sweep: swept(sweep, options) for sweep in options.sweeps}
    found = {"machine": machine, "threads": options.threads, "sweeps": sweeps}
    found["eaten"] = eaten(Point(), options)
    facts = pages.facts(options.device, options.threads, sys.argv[1:], time.perf_counter() - began)
    found["facts"] = [
        one.replace("bench_step.py", "growth.py").replace("this cell", "all of it") for one in facts
    ]
    text = page(found)
    if options.write:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "growth.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (options.out / "growth.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
