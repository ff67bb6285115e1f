"""``selfteach compare RECIPE …``: several recipes, several seeds, at equal generated tokens or equal steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from selfteach.cli.console import parsed
from selfteach.cli.train import chosen_preset, require_model, safe
from selfteach.errors import UserError
from selfteach.recipes import RECIPES, recipe_named
from selfteach.report import comparison_page
from selfteach.studies.runs import (
    Planned,
    cells,
    condensed,
    curve,
    finish,
    heads,
    labels,
    summary_of,
    write_aside,
)
from selfteach.studies.study import names_option
from selfteach.train.launch import versions

ABOUT = "What stands after a lone -- goes to every run as it is: selfteach compare opsd grpo -- --lr 1e-4"


@dataclass(frozen=True)
class Arguments:
    recipes: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Recipes to compare, each as RECIPE or RECIPE:PRESET."""
    task: str = "table"
    """What is trained on, see ``selfteach train``."""
    model: str = ""
    """Which model (empty: the arena world's own)."""
    seeds: int = 3
    """Runs of each recipe, with seeds 0, 1, …"""
    equal: Literal["tokens", "steps"] = "tokens"
    """Give each the same number of generated tokens, or of steps. A recipe that generates none gets equal steps."""
    tokens: int | None = None
    """The token budget (none: what the first recipe generates in its steps)."""
    steps: int = 300
    """Steps of the first recipe, and of any that generates no tokens."""
    points: int = 10
    """Evaluations along each run."""
    eval_problems: int = 256
    """Held-out problems in each evaluation."""
    eval_samples: int = 2
    """Answers sampled for each problem."""
    jobs: int = 1
    """Runs at a time; each gets its share of the cores."""
    out: Path | None = None
    """Folder of the comparison (none: runs/compare-TASK). An interrupted comparison goes on where it stopped."""
    extra: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Further knobs for every run: what stands after a lone --, as in ``-- --lr 1e-4 --micro-batch 16``."""


def command(words: Sequence[str]) -> int:
    own, extra = list(words), tuple[str, ...]()
    if "--" in words:
        own, extra = list(words[: words.index("--")]), tuple(words[words.index("--") + 1 :])
    if names_option(own, "--suite"):
        raise UserError("compare --suite is a command of its own now: selfteach study [METHOD …]")
    given = parsed(Arguments, own, program="selfteach compare", description=ABOUT)
    if not given.recipes:
        raise UserError(f"which recipes? selfteach compare RECIPE …; known: {', '.join(RECIPES)}")
    given = replace(given, extra=extra)
    if given.seeds < 1 or given.steps < 1 or given.jobs < 1 or given.points < 1:
        raise UserError("seeds, steps, points and jobs must each be at least 1")
    for label in given.recipes:
        recipe_named(*split(label))
    require_model(given.model, given.task)
    out = given.out or Path("runs") / f"compare-{safe(given.task)}"
    out.mkdir(parents=True, exist_ok=True)
    refuse_another_comparison(out, given)
    first = [planned(given, out, given.recipes[0], seed, None) for seed in range(given.seeds)]
    finish(first, given.jobs)
    budget = given.tokens or (max(map(generated, first)) if given.equal == "tokens" else None)
    rest = [
        planned(given, out, label, seed, budget) for label in given.recipes[1:] for seed in range(given.seeds)
    ]
    finish(rest, given.jobs)
    results = summarized(given, [*first, *rest])
    write_aside(out / "results.json", json.dumps(results, indent=1))
    (out / "results.md").write_text(markdown(results), encoding="utf-8")
    Console().print(table(results))
    print(f"plot     {comparison_page(results, out / 'compare.html')}\nnumbers  {out / 'results.json'}")
    return 0


def split(label: str) -> tuple[str, str | None]:
    name, _, preset = label.partition(":")
    return name, preset or None


def planned(given: Arguments, out: Path, label: str, seed: int, budget: int | None) -> Planned:
    """The command of one run. With a token budget the steps only bound it; the budget ends it."""
    name, preset = split(label)
    recipe = recipe_of(given, label)
    samples = recipe.generates and not recipe.rollouts.stored
    budget = budget if samples and given.equal == "tokens" else given.tokens if samples else None
    steps = given.steps if budget is None else given.steps * 100
    folder = out / f"{label.replace(':', '-')}-{seed}"
    words = [
        "train",
        name,
        "--task",
        given.task,
        "--seed",
        str(seed),
        "--out",
        str(folder),
        "--steps",
        str(steps),
    ]
    words += ["--eval-every", str(max(1, given.steps // given.points))]
    words += ["--eval-problems", str(given.eval_problems), "--eval-samples", str(given.eval_samples)]
    words += ["--preset", preset] if preset else []
    words += ["--model", given.model] if given.model else []
    words += ["--token-budget", str(budget)] if budget is not None else []
    return Planned(label, seed, folder, [*words, *given.extra])


def recipe_of(given: Arguments, label: str) -> Any:
    return chosen_preset(*split(label), given.task)[0]


def generated(run: Planned) -> int:
    return int(summary_of(run)["spent"])


def refuse_another_comparison(out: Path, given: Arguments) -> None:
    """A folder holds one comparison: other settings would silently reuse its runs."""
    path = out / "comparison.json"
    settings = {k: v for k, v in vars(given).items() if k not in ("out", "jobs", "seeds", "recipes")}
    settings = json.loads(json.dumps({**settings, "first": given.recipes[0]}))
    if path.exists() and json.loads(path.read_text()) != settings:
        raise UserError(
            f"{out} holds a comparison with other settings; choose another --out, or repeat the same ones"
        )
    write_aside(path, json.dumps(settings, indent=1))


# --- results ----------------------------------------------------------------------------------------------------


def summarized(given: Arguments, runs: Sequence[Planned]) -> dict[str, Any]:
    """What ``results.json`` holds: every run's curve, and per recipe the mean and standard error over seeds."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        curves.setdefault(run.label, []).append(curve(run))
    return {
        "task": given.task,
        "model": given.model or f"arena {given.task}",
        "equal": given.equal,
        "seeds": given.seeds,
        "command": " ".join(["selfteach compare", *given.recipes, *options_that_differ(given)]),
        "versions": versions(),
        **labels(runs),
        "recipes": {label: {"runs": each, **condensed(each)} for label, each in curves.items()},
    }


def options_that_differ(given: Arguments) -> list[str]:
    """The options that differ from the defaults, for the command to repeat."""
    default = Arguments(recipes=())
    names = [
        k
        for k in vars(given)
        if k not in ("recipes", "extra", "out") and getattr(given, k) != getattr(default, k)
    ]
    words = [f"--{name.replace('_', '-')} {getattr(given, name)}" for name in names]
    return [*words, *(["--", *given.extra] if given.extra else [])]


def table(results: dict[str, Any]) -> Table:
    about = f"{results['task']}, {results['headline']}, equal {results['equal']}, {results['seeds']} seeds"
    shown = Table(*heads(results["unit"]), box=None, title=about)
    for label, row in results["recipes"].items():
        shown.add_row(*cells(label, row))
    return shown


def markdown(results: dict[str, Any]) -> str:
    top = heads(results["unit"])
    rows = [top, ["---"] * len(top), *(cells(label, row) for label, row in results["recipes"].items())]
    made = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([f"Command: `{results['command']}`", "", f"Made with {made}.", "", *lines, ""])
