"""``selfteach eval``: held-out accuracy of a model on a task, as it is or under a teacher's view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from selfteach.api.evaluating import EvalSettings, evaluate
from selfteach.cli.console import parsed
from selfteach.errors import UserError
from selfteach.roles.view import Answer, Messages, Plain, Prefix, Solution, View
from selfteach.task.opening import TaskOptions
from selfteach.training.config import Loading


@dataclass(frozen=True)
class Arguments:
    task: str = "table"
    """A world of the arena, gym:NAME, hf:ID, a .jsonl or .parquet file, or FILE:NAME of your own."""
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
    found = evaluate(
        given.loading.model or None, given.task, reward=given.reward, view=viewed(given),
        task_options=given.task_options, loading=given.loading, **asdict(given.how),
    )  # fmt: skip
    print(found)
    if given.out is not None:
        found.save(given.out)
    return 0


def viewed(given: Arguments) -> View:
    if given.view == "prefix" and not given.prefix:
        raise UserError("view prefix needs its turns: --prefix FILE")
    views: Mapping[str, View] = {
        "plain": Plain(), "solution": Solution(), "answer": Answer(), "prefix": Prefix(given.prefix),
    }  # fmt: skip
    return views[given.view]
