"""``selfteach eval``: how well a model answers benchmarks, or the problems that its run held out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table
from rich.text import Text

from selfteach.api.evaluated import Evaluated, Evaluations
from selfteach.api.evaluating import EvalSettings, drafted, evaluate, view_named
from selfteach.cli.brief import brief, option_lines
from selfteach.cli.console import output, parsed, refuse_unwritable, writable
from selfteach.errors import UserError
from selfteach.report.text import visible
from selfteach.roles.view import Messages, Prefix, View
from selfteach.task.options import yielding
from selfteach.training.text.estimates import INTERVAL
from selfteach.words import gathered, given_names, given_values, name_of, taken

ABOUT = (
    "How well a model answers. Defaults are those of the run that it is of: its own last evaluation comes\n"
    "out again. --help-all says more, and has the options of data (--split, --system-prompt …) and model."
)


@dataclass(frozen=True)
class What:
    model: Annotated[str, tyro.conf.Positional] = ""
    """A run, RUN/checkpoints/step-N, the folder of a model or an adapter, a hub id (empty: the arena world's own)."""
    task: tuple[str, ...] = ()
    """One or several: a world of the arena, gym:NAME, hf:ID or hf:ID?split=test, a file, or FILE:NAME of your own
    (none: that of the run, else world "table")."""
    base: str | None = None
    """Where the model is that an adapter or a checkpoint builds on, if no longer where it says."""
    reward: str | None = None
    """FILE:NAME of a reward function of your own (none: the run's, else the task's verifier)."""
    view: Literal["plain", "solution", "answer", "prefix"] = "plain"
    """What the model sees: the bare problem, or what a teacher would be shown."""
    prefix: Messages = ()
    """The turns of view "prefix": a JSON list of role and content."""
    out: Path | None = None
    """Write the result as JSON, with every answer."""
    csv: Path | None = None
    """Write the table as CSV, one row a number."""
    answers: Path | None = None
    """Write every answer as JSON Lines: key, prompt, answer, reference, outcome, tokens, finished."""


def command(words: Sequence[str]) -> int:
    rest, model = taken(own_names(words), "model")
    rest = gathered(rest, "task")
    if model:
        rest = [model, *rest]
    elif rest and not rest[0].startswith("-"):
        model = rest[0]
    draft = drafted(model or None)
    if "--help-all" not in rest and {"-h", "--help"} & set(rest):
        groups = [
            ("What", option_lines(What())),
            ("How (train calls these --eval-problems, --eval-samples …)", option_lines(draft.how)),
        ]
        print(brief("selfteach eval [MODEL] [OPTIONS]", ABOUT, groups))
        raise SystemExit(0)
    rest = ["--help" if word == "--help-all" else word for word in rest]
    data = yielding(draft.options, given_values(rest))
    parts = {"how": draft.how, "loading": draft.loading, "data": data}
    kind = arguments(parts)
    given = parsed(kind, rest, program="selfteach eval", default=kind(What(), **parts), description=ABOUT)
    what: What = given.what
    flat = {name: value for part in parts for name, value in asdict(getattr(given, part)).items()}
    settings = {name: value for name, value in flat.items() if name in given_names(rest) - {"model"}}
    several = list(what.task) if len(what.task) > 1 else next(iter(what.task), None)
    for path in (what.out, what.csv, what.answers):
        refuse_unwritable(path)
    found: Any = evaluate(
        what.model or None, several, reward=what.reward, view=viewed(what), base=what.base, **settings
    )
    files = list(written(found, what))  # before anything is printed: whoever reads it may go
    show(found if isinstance(found, Evaluations) else [found])
    for label, path in files:
        print(f"{label:<8} {path}")
    return 0


def own_names(words: Sequence[str]) -> list[str]:
    """The words with train's names of the settings (``--eval-problems``) as eval's own (``--problems``)."""
    own = {f"eval_{one.name}" for one in fields(EvalSettings)}
    return [re.sub("^--(no-)?eval[-_]", r"--\1", word) if name_of(word) in own else word for word in words]


def arguments(parts: Mapping[str, Any]) -> Any:
    """The command's options: its own, and those of the parts."""
    rest = [(name, type(part), field()) for name, part in parts.items()]
    return make_dataclass("Arguments", [("what", What, field()), *rest], frozen=True)


def viewed(what: What) -> View:
    if what.view != "prefix":
        return view_named(what.view)
    if not what.prefix:
        raise UserError("view prefix needs its turns: --prefix FILE")
    return Prefix(what.prefix)


def show(found: Sequence[Evaluated]) -> None:
    """Every estimate with its interval; below, of each task, what was asked and what became of the answers."""
    shown = Table("task", "measure", "value", "95 % interval", box=None, pad_edge=False)
    for one in found:
        for i, number in enumerate(one.estimates):
            interval = "not known" if math.isnan(number.low) else f"{number.low:.3f} – {number.high:.3f}"
            shown.add_row(Text(one.task if i == 0 else ""), number.measure, f"{number.value:.3f}", interval)
    console = output()
    console.print(Text(f"model  {visible(found[0].model)}"), soft_wrap=True)
    console.print(shown)
    for one in found:
        console.print(Text(f"{visible(one.task)}: {asked(one)}; {became(one)}"), soft_wrap=True)
    console.print(INTERVAL, soft_wrap=True)


def asked(one: Evaluated) -> str:
    count, how = one.result.problems, one.how
    problems = f"{count} held-out problems"
    if one.part == "all":
        problems = (
            f"all {count} rows" if count == one.available else f"the first {count} of {one.available} rows"
        )
    drawn = "greedy" if how["temperature"] == 0 else f"temperature {how['temperature']:g}"
    return f"{problems} × {one.result.k}, {drawn}, up to {how['max_tokens']} tokens, seed {how['seed']}"


def became(one: Evaluated) -> str:
    counted = ", ".join(f"{count} {name}" for name, count in one.outcomes.items())
    return f"{counted}; {one.result.length:.1f} tokens an answer, {one.result.finished:.2f} finished"


def written(found: Evaluated | Evaluations, what: What) -> Iterator[tuple[str, Path]]:
    """Write the files that were asked for; (what it is, path) of each."""
    for path, save, label in (
        (what.out, found.save, "result"), (what.csv, found.csv, "table"), (what.answers, found.save_answers, "answers"),
    ):  # fmt: skip
        if path is not None:
            with writable(path):
                save(path)
            yield label, path
