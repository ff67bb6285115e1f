"""``selfteach compare RECIPE …``: several recipes, several seeds, at equal generated tokens or equal steps."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from selfteach.api.fit import chosen_sizes
from selfteach.api.resolve import safe
from selfteach.cli.console import parsed
from selfteach.cli.train import configured
from selfteach.errors import UserError
from selfteach.recipes import RECIPES
from selfteach.settings import Few, settings
from selfteach.studies.comparing import (
    Run,
    Setup,
    about,
    compared,
    refuse_another,
    refuse_changed,
    refuse_ungraded,
    summarized,
    write_results,
)
from selfteach.studies.runs import cells, finish, heads
from selfteach.words import given_names, option

ABOUT = "What stands after a lone -- goes to every run as it is: selfteach compare opsd grpo -- --lr 1e-4"


@settings
class What:
    """What is compared, and where it goes."""

    recipes: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Recipes to compare, each as RECIPE, RECIPE:PRESET or FILE:NAME of your own."""
    task: str = "table"
    """What is trained on, see ``selfteach train``."""
    reward: str | None = None
    """FILE:NAME of a reward function of your own (none: the task's verifier)."""
    model: str = ""
    """Which model (empty: the arena world's own)."""
    jobs: Few = 1
    """Runs at a time; each gets its share of the cores."""
    out: Path | None = None
    """Folder of the comparison (none: runs/compare-TASK). An interrupted comparison goes on where it stopped."""


@dataclass(frozen=True)
class Arguments:
    what: What = field(default_factory=What)
    setup: Setup = field(default_factory=Setup)


def command(words: Sequence[str]) -> int:
    own, extra = list(words), tuple[str, ...]()
    if "--" in words:
        own, extra = list(words[: words.index("--")]), tuple(words[words.index("--") + 1 :])
    if "suite" in given_names(own):
        raise UserError("compare --suite is a command of its own now: selfteach study [METHOD …]")
    given = parsed(Arguments, own, program="selfteach compare", default=Arguments(), description=ABOUT)
    what, setup = given.what, given.setup
    if not what.recipes:
        raise UserError(f"which recipes? selfteach compare RECIPE …; known: {', '.join(RECIPES)}")
    configs = {label: configured(asked(what, label, extra), "compare")[0] for label in what.recipes}
    refuse_ungraded(configs[what.recipes[0]])
    for label, config in configs.items():
        if config.fitted:
            print(f"{label}: {config.fitted}", file=sys.stderr)
    out = what.out or Path("runs") / f"compare-{safe(what.task)}"
    held = {k: v for k, v in asdict(what).items() if k not in ("out", "jobs", "recipes")}
    kept = {k: v for k, v in asdict(setup).items() if k != "seeds"}
    refuse_another(out, {**held, **kept, "extra": extra, "first": what.recipes[0]})

    def bring(planned: list[Run]) -> None:
        commands = [worded(what, run, chosen_sizes(configs[run.label]), extra) for run in planned]
        for one in commands:
            refuse_changed(one, configured(one.words[1:])[0])
        finish(commands, what.jobs)

    runs = compared(setup, {label: one.recipe for label, one in configs.items()}, out, bring)
    results = summarized(
        setup, runs, task=what.task, model=what.model or f"arena {what.task}", command=repeated(given, extra)
    )
    page = write_results(results, out)
    Console().print(table(results))
    print(f"plot     {page}\nnumbers  {out / 'results.json'}")
    return 0


def asked(what: What, label: str, extra: Sequence[str]) -> list[str]:
    """The words of a label's runs; what cannot be is refused here, and not in a run of its own."""
    words = [label, "--task", what.task]
    words += ["--model", what.model] if what.model else []
    words += ["--reward", what.reward] if what.reward else []
    return [*words, *extra]


def worded(what: What, run: Run, sizes: Mapping[str, Any], extra: Sequence[str]) -> Run:
    """The run as a command of its own."""
    knobs = {**sizes, **(run.knobs or {})}
    set_here = [word for name, value in knobs.items() for word in (option(name), str(value).lower())]
    where = ["--seed", str(run.seed), "--out", str(run.folder)]
    return replace(run, words=["train", *asked(what, run.label, (*where, *set_here, *extra))])


def repeated(given: Arguments, extra: Sequence[str]) -> str:
    """The command, with the options that differ from the defaults."""
    differ: Mapping[str, Any] = {
        one.name: getattr(part, one.name)
        for part, default in ((given.what, What()), (given.setup, Setup()))
        for one in fields(part)
        if one.name not in ("recipes", "out") and getattr(part, one.name) != getattr(default, one.name)
    }
    words = [word for name, value in differ.items() for word in (option(name), str(value))]
    return " ".join(["selfteach compare", *given.what.recipes, *words, *(["--", *extra] if extra else [])])


def table(results: Mapping[str, Any]) -> Table:
    shown = Table(*heads(results["unit"]), box=None, title=about(results))
    for label, row in results["recipes"].items():
        shown.add_row(*cells(label, row))
    return shown
