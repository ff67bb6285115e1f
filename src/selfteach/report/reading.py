"""A run folder, read as it is: whatever is missing or broken becomes a sentence, not an error."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfteach.errors import LONGEST, UserError, one_line
from selfteach.outside import read_toml
from selfteach.report.older import row_of_today, summary_of_today
from selfteach.report.others import Other, other
from selfteach.report.rows import Row, read_object, read_rows
from selfteach.report.text import as_number
from selfteach.report.tokens import Look, read_looks
from selfteach.report.turns import Turn, ending_of, turns_told, whole
from selfteach.task.outcome import WHY, Outcome, outcome_told

DEEPEST = 40
TOO_DEEP = "(nested too deeply to be shown)"


LOST = "The episode earned less than half of what counts as success."
"""Why an episode that came to its end is wrong."""


@dataclass(frozen=True)
class Sample:
    """One answer of samples.jsonl (kind text); what a row lacks is "" or None. ``row``: its place in the look.

    ``turns``: those of an episode that stand in the row; ``rollout``: shared by the rows of one; ``ending``: why an
    episode was not done.
    """

    step: float
    phase: str
    key: str
    problem: str
    prompt: str
    teacher_prompts: Mapping[str, str]
    answer: str
    reward: float | None
    cut_off: bool
    length: float | None
    row: int | None = None
    outcome: Outcome = "ungraded"
    claim: str | None = None
    reference: str | None = None
    feedback: str | None = None
    turns: tuple[Turn, ...] = ()
    rollout: int | None = None
    ending: str = ""

    @property
    def right(self) -> bool | None:
        """Whether the verifier liked it; None if nobody judged it."""
        return None if self.outcome in ("ungraded", "no reward") else self.outcome == "right"

    @property
    def why(self) -> str:
        """Its outcome in a sentence. Of an episode no answer is read out and compared."""
        if self.ending and self.outcome in ("cut off", "wrong", "no reward"):
            return self.ending
        return LOST if self.turns and self.outcome == "wrong" else WHY[self.outcome]


@dataclass(frozen=True)
class RunData:
    """One run folder's content. ``notes`` says what could not be read."""

    name: str
    config: Row
    metrics: list[Row]
    samples: list[Sample]
    summary: Row
    failure: Row
    notes: list[str]
    looks: dict[int, Look] = field(default_factory=dict)
    others: list[Other] = field(default_factory=list)
    stopped: str = ""
    """After which step a run stopped by itself, and why; "" if it did not."""

    @property
    def recipe(self) -> str:
        return str(table(self.config, "recipe").get("name", "unknown recipe"))

    @property
    def headline(self) -> str:
        """What ``eval/headline`` is."""
        return str(table(self.config, "run").get("headline", "held-out accuracy"))

    @property
    def unit(self) -> str:
        """What ``spent`` counts."""
        return str(table(self.config, "run").get("unit", "tokens"))

    @property
    def last_step(self) -> int:
        return int(max((row["step"] for row in self.metrics), default=0))


def read_run(folder: Path) -> RunData:
    """Read a run folder. Raises ``UserError`` if it is none."""
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is no folder; give the --out of a run")
    if not any((folder / name).exists() for name in ("config.toml", "metrics.jsonl", "summary.json")):
        raise UserError(f"{folder} holds no run (no config.toml, metrics.jsonl or summary.json)")
    notes: list[str] = []
    samples = read_rows(folder / "samples.jsonl", notes)
    return RunData(
        name=folder.resolve().name,
        config=read_config(folder / "config.toml", notes),
        metrics=[row_of_today(row) for row in read_rows(folder / "metrics.jsonl", notes)],
        samples=[sample(row) for row in samples if row.get("kind", "text") == "text"],
        summary=summary_of_today(read_object(folder / "summary.json", notes)),
        failure=read_failure(folder / "failed", notes),
        notes=notes,
        looks=read_looks(folder / "tokens", notes),
        others=[other(row, folder) for row in samples if row.get("kind", "text") != "text"],
        stopped=read_stop(folder / "stopped.txt"),
    )


def read_config(path: Path, notes: list[str]) -> Row:
    if not os.path.lexists(path):
        notes.append("There is no config.toml: what was run is not known.")
        return {}
    try:
        return read_toml(path, "config.toml")
    except UserError as error:
        notes.append(f"config.toml could not be read: {error}.")
        return {}


def sample(row: Row) -> Sample:
    prompts = table(row, "teacher_prompts")
    return Sample(
        step=row["step"],
        **{name: str(row.get(name, "")) for name in ("phase", "key", "problem", "prompt", "answer")},
        teacher_prompts={name: str(prompt) for name, prompt in prompts.items()},
        reward=as_number(row.get("reward")),
        cut_off=row.get("finished") is False,
        length=as_number(row.get("length")),
        row=row["row"] if isinstance(row.get("row"), int) else None,
        outcome=outcome_of(row),
        turns=turns_told(row),
        rollout=whole(row.get("rollout")),
        ending=ending_of(row),
        **{name: row[name] for name in ("claim", "reference", "feedback") if isinstance(row.get(name), str)},
    )


def outcome_of(row: Mapping[str, Any]) -> Outcome:
    """What became of the answer of a row of samples.jsonl, of an earlier version's too."""
    return outcome_told(row.get("outcome"), as_number(row.get("reward")), row.get("finished") is not False)


def read_stop(path: Path) -> str:
    """The line that says why the run stopped by itself; "" if there is none that can be read."""
    try:
        with path.open("rb") as file:
            return one_line(file.read(4 * LONGEST).decode("utf-8", "replace"))
    except OSError:
        return ""


def read_failure(folder: Path, notes: list[str]) -> Row:
    """The newest batch that stopped the run, if any."""
    files = sorted(folder.glob("step-*.json"), key=lambda path: (len(path.name), path.name))
    return read_object(files[-1], notes) if files else {}


def table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table of a config; empty if it is absent or no table."""
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """A nested table as one with dotted names, in its own order; one nested deeper than ``DEEPEST`` as a word."""
    flat: dict[str, Any] = {}
    left: list[tuple[tuple[str, ...], Any]] = [((), values)]
    while left:
        path, value = left.pop()
        if isinstance(value, Mapping) and len(path) < DEEPEST:
            left += [((*path, str(key)), part) for key, part in reversed(list(value.items()))]
        else:
            flat[".".join(path)] = TOO_DEEP if isinstance(value, Mapping) else value
    return flat
