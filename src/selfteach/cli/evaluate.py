"""``selfteach eval``: held-out accuracy of a model on a task, as it is or under a teacher's view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from selfteach.api.evaluating import EvalSettings, evaluate, view_named
from selfteach.cli.console import parsed
from selfteach.errors import UserError
from selfteach.roles.view import Messages, Prefix, View
from selfteach.task.opening import TaskOptions
from selfteach.training.config import Loading


@dataclass(frozen=True)
class Arguments:
    task: str = ""
    """A world of the arena, gym:NAME, hf:ID, a data file, or FILE:NAME of your own (empty: that of the
    run that --model names, else world "table")."""
    reward: str | None = None
    """FILE:NAME of a reward function of your own (none: the task's verifier)."""
    view: Literal["plain", "solution", "answer", "prefix"] = "plain"
    """What the model sees: the bare problem, or what a teacher would be shown."""
    prefix: Messages = ()
    """The turns of view "prefix": a JSON list of role and content."""
    out: Path | None = None
    """Write the result as JSON, with every answer."""
    how: EvalSettings = field(default_factory=EvalSettings)
    loading: Loading = field(default_factory=Loading)
    task_options: TaskOptions = field(default_factory=TaskOptions)


def command(words: Sequence[str]) -> int:
    given = parsed(Arguments, words, program="selfteach eval", default=Arguments())
    settings = {**asdict(given.how), **asdict(given.task_options), **asdict(given.loading)}
    model = settings.pop("model") or None
    found = evaluate(model, given.task or None, reward=given.reward, view=viewed(given), **settings)
    print(found)
    if given.out is not None:
        found.save(given.out)
    return 0


def viewed(given: Arguments) -> View:
    if given.view != "prefix":
        return view_named(given.view)
    if not given.prefix:
        raise UserError("view prefix needs its turns: --prefix FILE")
    return Prefix(given.prefix)
