"""A whole training step of this library beside TRL's trainers and a plain torch loop, the same work on all sides.

The CPU table of results/speed.md, a short look, a variant of ours, and a GPU's table:

    python benchmarks/bench_step.py --model models/smollm2 --write
    python benchmarks/bench_step.py --shapes arena --repeats 1
    python benchmarks/bench_step.py --shapes 8x64 --ours-args "bf16=--sampler-dtype bfloat16 --teacher-dtype bfloat16"
    python benchmarks/bench_step.py --shapes qwen3-0.6b-1k --device cuda --write

*Equal on all sides*: model, prompts (token for token, as student and teacher read them; a hash is compared), rows,
new tokens (no token ends an answer; every side must have generated exactly rows × tokens), micro-batches,
full-vocabulary JSD (β = ½) against frozen weights, temperature 1 without cuts, all weights trained by AdamW, one
optimizer step a batch, gradients clipped at 1, no gradient checkpointing, threads (idle ones sleep), seeds.
*Families*: ``sdft`` (opsd | TRL SDFTTrainer | plain loop; the teacher reads a solution), ``sdpo`` (sdpo | TRL
SDPOTrainer; it reads the verifier's words), ``gkd`` (gkd | TRL DistillationTrainer, GKDTrainer | plain loop; it is
another model and reads the student's prompt).

Every repetition starts each side once, in a process of its own, in turns whose order rotates. A process makes one
step with answers of ``--warmup-tokens``, then ``--steps`` timed ones. A step is the time from one step's end to the
next one's, by the wall and by the process's own user + system time. Memory is the process's largest resident set
during timed steps (on a GPU: the device's allocations); "above" is that less what was resident before a model was
loaded, less 20 bytes a weight (float32 weights, gradients, Adam's moments, and one frozen teacher).

Results are kept in speed.json beside the page, cell by cell: a run replaces the cells that it measures.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from stepbench import page
from stepbench.process import FAILED, done, work
from stepbench.shapes import ON_CPU, RANDOM, SHAPES, Shape, parsed
from stepbench.side import Task

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "build" / "bench-step"
BEFORE = "ours before"


@dataclass(frozen=True)
class Side:
    """A column of the comparison; ``source``: another source tree of this library."""

    label: str
    library: str
    precision: str = "float32"
    words: tuple[str, ...] = ()
    source: str = ""


PEERS = {
    "sdft": (
        Side("TRL SDFT", "trl-sdft"),
        Side("TRL SDFT bf16", "trl-sdft", "bf16"),
        Side("TRL SDFT bf16 weights", "trl-sdft", "bf16-weights"),
        Side("plain loop", "bare"),
        Side("plain loop bf16", "bare", "bf16"),
    ),
    "sdpo": (Side("TRL SDPO", "trl-sdpo"), Side("TRL SDPO bf16", "trl-sdpo", "bf16")),
    "gkd": (
        Side("TRL Distillation", "trl-distillation"),
        Side("TRL Distillation bf16", "trl-distillation", "bf16"),
        Side("TRL GKD", "trl-gkd"),
        Side("plain loop", "bare"),
    ),
}


def sides(family: str, ours: Iterable[str], before: str = "") -> list[Side]:
    """All sides of a family, ours first. ``ours``: ``NAME=OPTIONS`` of variants of ours. ValueError for other
    words."""
    found = [Side("ours", "ours")]
    for text in ours:
        name, equals, words = text.partition("=")
        if not equals or not name.strip() or name.strip().startswith("-"):
            raise ValueError(
                f'--ours-args takes "NAME=OPTIONS", such as "bf16=--precision mixed", not {text!r}'
            )
        found.append(Side(f"ours {name.strip()}", "ours", words=tuple(words.split())))
    if before:
        found.append(Side(BEFORE, "ours", source=before))
    return [*found, *PEERS[family]]


def chosen(every: Sequence[Side], labels: Sequence[str] | None) -> list[Side]:
    """The sides of these labels (None: all), in their own order."""
    return [one for one in every if labels is None or one.label in labels]


def order(count: int, repetition: int) -> list[int]:
    """In which order the sides run: each repetition begins one further."""
    return [(i + repetition) % count for i in range(count)]


# --- what is run --------------------------------------------------------------------------------------------------


def model_of(shape: Shape, given: str | None) -> Path:
    """The model's folder; random ones are made. SystemExit where one is asked for and not given."""
    if shape.model == "arena":
        from selfteach.task.arena import model_folder

        return Path(model_folder("table"))
    if shape.model in RANDOM:
        from stepbench.models import random_model

        return random_model(RANDOM[shape.model], scratch(shape.model))
    if given is None:
        raise SystemExit(
            f"shape {shape.name} needs --model FOLDER (selfteach fetch smollm2 --out FOLDER makes one)"
        )
    return Path(given).resolve()


def scratch(name: str) -> Path:
    SCRATCH.mkdir(parents=True, exist_ok=True)
    return SCRATCH / name


def written(shape: Shape, seed: int) -> Path:
    """The file of the shape's prompts."""
    from stepbench import workload

    made = {
        "text": lambda: workload.texts(shape.prompts, seed),
        "table": lambda: workload.tables(shape.prompts, seed),
        "words": lambda: workload.words(shape.prompts, seed, shape.prompt_words, [shape.hint_words]),
    }[shape.source]()
    file = scratch(f"{shape.name.replace(':', '-')}-{seed}.json")
    file.write_text(json.dumps(made), encoding="utf-8")
    return file


def measured(shape: Shape, family: str, every: Sequence[Side], options: argparse.Namespace) -> dict[str, Any]:
    """One cell: every side's runs. SystemExit where two sides did not do the same work."""
    from stepbench.models import disturbed

    model, rows = model_of(shape, options.model), written(shape, options.seed)
    teacher = disturbed(model, scratch(f"{shape.model}-{model.name}-teacher")) if family == "gkd" else model
    runs: dict[str, list[Mapping[str, Any]]] = {one.label: [] for one in every}
    for repetition in range(options.repeats):
        for i in order(len(every), repetition):
            side = every[i]
            if any(FAILED in one for one in runs[side.label]):
                continue
            with tempfile.TemporaryDirectory(dir=SCRATCH) as out:
                task = Task(
                    side.library, family, shape, str(model), str(teacher), str(rows), f"{out}/run", side.precision,
                    side.words, steps=options.steps, warmup_tokens=min(options.warmup_tokens, shape.tokens),
                    seed=options.seed + repetition, device=options.device,
                )  # fmt: skip
                log = scratch("logs") / f"{shape.name}-{family}-{side.label}-{repetition}.log".replace(
                    " ", "-"
                )
                found = done(task, __file__, options.threads, side.source, log)
            runs[side.label].append(found)
            print(
                f"{shape.name} {family} {repetition + 1}/{options.repeats}  {told(side.label, found)}",
                flush=True,
            )
    refuse_unequal(shape, runs)
    return {
        "shape": asdict(shape),
        "family": family,
        "sides": runs,
        "work": lengths(model, rows, shape, family),
        "config": str(model.name),
        "sizes": sizes(model),
    }


def told(label: str, found: Mapping[str, Any]) -> str:
    if FAILED in found:
        return f"{label}: {found[FAILED]}"
    last = found["steps"][-1]
    return (
        f"{label}: {last['wall']:.2f} s wall, {last['cpu']:.2f} s processor, loss {last['loss']:.4f}, "
        f"peak {found['peak'] / 2**20:,.0f} MiB"
    )


def refuse_unequal(shape: Shape, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """SystemExit naming the side that wrote another number of tokens, read other prompts, stood still, or whose
    loss is not finite."""
    seen: dict[str, str] = {}
    for label, several in runs.items():
        for one in several:
            for step in one.get("steps", ()):
                if step["tokens"] != shape.generated:
                    raise SystemExit(
                        f"{label} generated {step['tokens']} tokens a step, not {shape.generated}"
                    )
                if not math.isfinite(step["loss"]):
                    raise SystemExit(f"{label}: its loss is {step['loss']}")
                seen.setdefault(step["prompts"], label)
            if not one.get("moved", 1.0) > 0:
                raise SystemExit(f"{label}: its weights did not move")
    if len(seen) > 1:
        raise SystemExit(f"not the same prompts: {' and '.join(seen.values())} read different tokens")


def lengths(model: Path, rows: Path, shape: Shape, family: str) -> dict[str, float]:
    """Mean tokens of a prompt, as the student and as the teacher read it."""
    from stepbench.bare import encoded
    from transformers import AutoTokenizer

    task = Task("bare", family, shape, str(model), str(model), str(rows), "")
    prompts, shown = encoded(task, AutoTokenizer.from_pretrained(model))
    return {name: sum(map(len, ids)) / len(ids) for name, ids in (("prompt", prompts), ("shown", shown))}


def sizes(model: Path) -> dict[str, int]:
    from stepbench.bounds import model_of as sized
    from transformers import AutoConfig

    return asdict(sized(AutoConfig.from_pretrained(model)))


# --- whether every side learns ------------------------------------------------------------------------------------


def learning(
    every: Sequence[Side], family: str, options: argparse.Namespace, steps: int
) -> dict[str, list[float]]:
    """Losses of the arena's model over so many steps, by side: those that are compared must do their job."""
    own = argparse.Namespace(**{**vars(options), "steps": steps, "repeats": 1})
    cell = measured(SHAPES["arena"], family, every, own)
    return {
        label: [step["loss"] for step in several[0]["steps"]]
        for label, several in cell["sides"].items()
        if several and FAILED not in several[0]
    }


def fallen(losses: Sequence[float]) -> tuple[float, float]:
    """Mean loss over the first and over the last third of the steps."""
    third = max(1, len(losses) // 3)
    return sum(losses[:third]) / third, sum(losses[-third:]) / third


# --- from the command line ----------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=list(ON_CPU), metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--families", nargs="+", default=["sdft"], choices=list(PEERS))
    parser.add_argument(
        "--sides", nargs="+", metavar="LABEL", help='labels to run, such as "TRL SDFT" (default: all)'
    )
    parser.add_argument(
        "--ours-args", action="append", default=[], metavar='"NAME=OPTIONS"',
        help="another side of ours, with these options of selfteach train; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--before", default="", metavar="SRC", help="src folder of an earlier version of ours: a side"
    )
    parser.add_argument("--model", help="folder of SmolLM2, or of another Llama-like model")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--steps", type=positive, default=1, help="timed steps of a process")
    parser.add_argument(
        "--warmup-tokens", type=positive, default=8, help="length of answers in the step before them"
    )
    parser.add_argument(
        "--learn", type=int, default=0, metavar="STEPS",
        help="also train the arena's model so many steps on every side: does the loss fall?",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=0, help="of each process (0: torch's choice)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write speed.md, speed.json and speed.svg")
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="where to")
    parser.add_argument(
        "--page", action="store_true", help="run nothing: write the page of what speed.json holds"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a number from 1 on")
    return value


def plan(options: argparse.Namespace) -> list[tuple[Shape, str, list[Side]]]:
    """The cells that are asked for. ValueError for a shape or a side that does not exist."""
    families = {name: sides(name, options.ours_args, options.before) for name in options.families}
    known = list(dict.fromkeys(one.label for every in families.values() for one in every))
    if unknown := [name for name in options.sides or () if name not in known]:
        raise ValueError(f"no side {unknown[0]!r}: {', '.join(known)}")
    return [
        (parsed(shape), name, chosen(every, options.sides))
        for shape in options.shapes
        for name, every in families.items()
    ]


def main() -> None:
    parser = arguments()
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    record = options.out / "speed.json"
    found: dict[str, Any] = (
        json.loads(record.read_text()) if record.exists() else {"cells": {}, "learning": {}}
    )
    if not options.page:
        try:
            cells = plan(options)
        except ValueError as problem:
            parser.error(str(problem))
        run(cells, options, found)
    if options.page:
        write(found, options.out)
    if options.page or options.write:
        print(options.out / "speed.md")


def write(found: Mapping[str, Any], out: Path) -> None:
    """speed.json, and the page and the plot of it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "speed.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (out / "speed.md").write_text(page.written(found), encoding="utf-8")
    (out / "speed.svg").write_text(page.plotted(found), encoding="utf-8")


def run(
    cells: Sequence[tuple[Shape, str, list[Side]]], options: argparse.Namespace, found: dict[str, Any]
) -> None:
    """Measure the cells, and put them into what was found before; written down after each, if at all."""
    from stepbench.bounds import measured as rates

    if options.threads:
        torch.set_num_threads(options.threads)
    machine = asdict(rates(options.device))
    for shape, family, every in cells:
        began = time.perf_counter()
        cell = measured(shape, family, every, options)
        facts = page.facts(options.device, options.threads, sys.argv[1:], time.perf_counter() - began)
        found["cells"][f"{shape.name}/{family}/{options.device}"] = cell | {
            "machine": machine,
            "facts": facts,
            "threads": options.threads,
        }
        print(page.ratio_table(cell), flush=True)
        if options.write:
            write(found, options.out)
    for family in options.families if options.learn else ():
        every = chosen(sides(family, options.ours_args), options.sides)
        found["learning"][family] = learning(every, family, options, options.learn)
        if options.write:
            write(found, options.out)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
