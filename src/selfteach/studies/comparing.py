"""Several recipes, several seeds, at equal generated tokens or equal steps: which runs, and what they say together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.outside import read_text
from selfteach.recipes import Recipe
from selfteach.report import comparison_page
from selfteach.settings import Few, PositiveCount, PositiveInt, PositiveRows, settings
from selfteach.studies.runs import Planned, cells, condensed, curve, heads, labels, summary_of, write_aside
from selfteach.task.example import is_graded
from selfteach.training.config import TrainConfig
from selfteach.training.launch import table_of
from selfteach.training.runconfig import changes
from selfteach.training.running import FREE, versions


@settings
class Setup:
    """What is equal between the runs of a comparison."""

    seeds: Few = 3
    """Runs of each recipe, with seeds 0, 1, …"""
    equal: Literal["tokens", "steps"] = "tokens"
    """Give each the same number of generated tokens, or of steps. A recipe that generates none gets equal steps."""
    tokens: PositiveCount | None = None
    """The token budget (none: what the first recipe generates in its steps)."""
    steps: PositiveInt = 300
    """Steps of the first recipe, and of any that generates no tokens."""
    points: PositiveRows = 10
    """Evaluations along each run."""
    eval_problems: PositiveRows = 256
    """Held-out problems in each evaluation."""
    eval_samples: PositiveRows = 2
    """Answers sampled for each problem."""
    eval_max_tokens: PositiveInt | None = None
    """Longest answer of an evaluation, the same for all (none: the longest that any of the recipes trains on)."""


RESULTS = ("results.json", "results.md", "compare.html")
ALIKE = 1.25
"""What one recipe may spend of the other's and still count as equal: a run ends with a whole step."""


@dataclass
class Run(Planned):
    """A planned run with what is set of it beside recipe, model and task, by flat name."""

    knobs: Mapping[str, Any] | None = None


def compared(
    setup: Setup, recipes: Mapping[str, Recipe], out: Path, finish: Callable[[list[Run]], None]
) -> list[Run]:
    """Every run, brought to its end by ``finish``: those of the first recipe, whose tokens set the budget, then all
    others.

    ``recipes``: label → recipe. Finished runs of the same folder are kept.
    """
    require_distinct(recipes)
    longest = setup.eval_max_tokens or max(one.rollouts.max_tokens for one in recipes.values())
    setup = replace(setup, eval_max_tokens=longest)
    first, *others = recipes
    runs = [planned(setup, first, recipes[first], seed, out, None) for seed in range(setup.seeds)]
    finish(runs)
    spent = max(int(summary_of(run)["spent"]) for run in runs)
    if setup.equal == "tokens" and setup.tokens is None and others and not spent:
        raise UserError(
            f"{first} generates no tokens, so it sets no budget: name another first, or give tokens"
        )
    budget = setup.tokens or (spent if setup.equal == "tokens" else None)
    rest = [
        planned(setup, label, recipes[label], seed, out, budget)
        for label in others
        for seed in range(setup.seeds)
    ]
    finish(rest)
    return [*runs, *rest]


def planned(setup: Setup, label: str, recipe: Recipe, seed: int, out: Path, budget: int | None) -> Run:
    """One run. With a token budget the steps only bound it; the budget ends it."""
    samples = recipe.generates and not recipe.rollouts.stored
    budget = budget if samples and setup.equal == "tokens" else setup.tokens if samples else None
    knobs = {
        "steps": setup.steps if budget is None else setup.steps * 100,
        "eval_every": max(1, setup.steps // setup.points),
        "eval_problems": setup.eval_problems,
        "eval_samples": setup.eval_samples,
        "eval_max_tokens": setup.eval_max_tokens,
    }
    if budget is not None:
        knobs["token_budget"] = budget
    return Run(label, seed, out / f"{plain(label)}-{seed}", knobs=knobs)


def refuse_changed(run: Run, config: TrainConfig) -> None:
    """UserError where the run's folder holds one of other settings or inputs: it would be taken for this one."""
    if (run.folder / "config.toml").exists() and (changed := changes(run.folder, table_of(config), FREE)):
        raise UserError(
            f"{run.folder} holds a run with other settings ({changed[0]}); choose another folder, or delete it"
        )


def refuse_ungraded(config: TrainConfig) -> None:
    """UserError where nothing of what is compared could be measured."""
    require(
        is_graded(config.open_task()),
        f"nothing in {config.task_name} is graded, so nothing can be compared: give rows with answers, or a reward",
    )


def require_distinct(labels: Iterable[str]) -> None:
    """UserError where two labels would share one folder."""
    seen: dict[str, str] = {}
    for label in labels:
        if (other := seen.setdefault(plain(label), label)) != label:
            raise UserError(
                f"labels {other!r} and {label!r} are one folder's name: tell them apart by letters"
            )


def plain(label: str) -> str:
    """A label as a part of a folder's name."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in label).strip("-")


def refuse_another(out: Path, held: Mapping[str, Any]) -> None:
    """A folder holds one comparison: other settings would silently reuse its runs."""
    path = out / "comparison.json"
    held = json.loads(json.dumps(held))
    if path.exists() and read_text(path, str(path)) != json.dumps(held, indent=1):
        raise UserError(
            f"{out} holds a comparison with other settings; choose another --out, or repeat the same ones"
        )
    for name in RESULTS if not path.exists() else ():
        require(
            not (out / name).exists(),
            f"{out} holds {name} already, which a comparison writes itself; move it away, or choose another --out",
        )
    out.mkdir(parents=True, exist_ok=True)
    write_aside(path, json.dumps(held, indent=1))


# --- results ----------------------------------------------------------------------------------------------------


def summarized(setup: Setup, runs: Sequence[Run], *, task: str, model: str, command: str) -> dict[str, Any]:
    """What ``results.json`` holds: every run's curve, and per recipe the mean and standard error over seeds."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        curves.setdefault(run.label, []).append(curve(run))
    return {
        "task": task,
        "model": model,
        "equal": setup.equal,
        "seeds": setup.seeds,
        "command": command,
        "versions": versions(),
        **labels(runs),
        "recipes": {label: {"runs": each, **condensed(each)} for label, each in curves.items()},
    }


def write_results(results: Mapping[str, Any], out: Path) -> Path:
    """results.json, results.md and the page compare.html (returned) of a comparison."""
    write_aside(out / "results.json", json.dumps(results, indent=1))
    (out / "results.md").write_text(markdown(results), encoding="utf-8")
    return comparison_page(results, out / "compare.html")


def markdown(results: Mapping[str, Any]) -> str:
    top = heads(results["unit"])
    rows = [top, ["---"] * len(top), *(cells(label, row) for label, row in results["recipes"].items())]
    made = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([f"Command: `{results['command']}`", "", f"Made with {made}.", "", *lines, ""])


def about(results: Mapping[str, Any]) -> str:
    """A comparison's title; what was meant to be equal and is not is said in it."""
    title = f"{results['task']}, {results['headline']}, equal {results['equal']}, {results['seeds']} seeds"
    spent = {label: row["spent"] for label, row in results["recipes"].items() if row["spent"]}
    if results["equal"] != "tokens" or max(spent.values(), default=1) <= ALIKE * min(
        spent.values(), default=1
    ):
        return title
    most, least = max(spent, key=lambda label: spent[label]), min(spent, key=lambda label: spent[label])
    told = f"{most} spent {spent[most]:,.0f}, {least} {spent[least]:,.0f}: a step of it may be more than the budget"
    return f"{title}; not equal: {told}"
