"""``selfteach show RUN``: what a run wrote, in the terminal; its metrics as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.text import Text

from selfteach.api.result import load_run
from selfteach.api.showing import PHASES
from selfteach.cli.console import output, parsed, writable
from selfteach.report.reading import outcome_of
from selfteach.report.text import cut, number, visible
from selfteach.report.turns import ending_of, is_plain, turns_told
from selfteach.task.outcome import Outcome

STYLES = {"right": "green", "wrong": "red"}
CUT = 2000
"""Characters of a text that are shown unless all are asked for."""


@dataclass(frozen=True)
class Arguments:
    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    step: int | None = None
    """Answers of this step alone."""
    phase: Literal["before", "train", "probe", "after"] | None = None
    """Held-out answers before or after training, rollouts of a step, or greedy answers to the probes alone."""
    key: str | None = None
    """Answers to this problem alone (a problem's key stands above each answer)."""
    outcome: Outcome | None = None
    """Answers alone of which this became."""
    by: Literal["step", "key"] = "step"
    """Group by step, or by problem: so one sees how the answer to a probe changed."""
    prompts: bool = False
    """Show the rendered prompts too, the student's and the teachers'."""
    full: bool = False
    """Show texts whole, however long they are."""
    csv: Path | None = None
    """Write the metrics as CSV, one row a step, and show nothing ("-": to standard output)."""


def command(words: Sequence[str]) -> int:
    given = parsed(Arguments, words, program="selfteach show")
    run = load_run(given.run)
    if given.csv is not None:
        with writable(given.csv):
            run.csv(given.csv)
        if str(given.csv) != "-":
            print(f"metrics  {given.csv}")
        return 0
    rows = run.samples(step=given.step, phase=given.phase, key=given.key, outcome=given.outcome)
    console = output()
    for label, value in run.lines():
        console.print(Text(f"{label:<18} {visible(value)}"), soft_wrap=True)
    for line in shown(ordered(rows, given.by), given):
        console.print(line, soft_wrap=True)
    return 0


def ordered(rows: Sequence[Mapping[str, Any]], by: str) -> list[Mapping[str, Any]]:
    """In the order they were written, or problem by problem."""
    if by == "step":
        return list(rows)
    keys = list(dict.fromkeys(row.get("key") for row in rows))
    return sorted(rows, key=lambda row: (keys.index(row.get("key")), row["step"], phase_place(row)))


def phase_place(row: Mapping[str, Any]) -> int:
    return PHASES.index(row["phase"]) if row.get("phase") in PHASES else len(PHASES)


def shown(rows: Sequence[Mapping[str, Any]], given: Arguments) -> Iterator[Text]:
    """The answers as lines, with a heading wherever step and phase, or the problem, change."""
    last = None
    for row in rows:
        step, key = f"step {number(row['step'])}, {row.get('phase', '')}", str(row.get("key", ""))
        head, own = (step, key) if given.by == "step" else (key, step)
        if head != last:
            yield Text(f"\n{visible(head)}", style="bold")
            if given.by == "key":
                yield from labeled("problem", row.get("problem"), given)
        last = head
        outcome = outcome_of(row)
        length = row.get("length")
        tokens = "" if length is None else f"  {number(length)} tokens"
        yield Text(f"\n  {visible(own)}  ").append(outcome, STYLES.get(outcome, "yellow")).append(tokens)
        if given.by == "step" and not given.prompts:
            yield from labeled("problem", row.get("problem"), given)
        if given.prompts:
            yield from labeled("prompt", row.get("prompt"), given)
            for name, prompt in dict(row.get("teacher_prompts") or {}).items():
                yield from labeled(str(name), prompt, given)
        yield from spoken(row, given)
        if outcome != "right":
            yield from labeled("expected", row.get("reference"), given)


def spoken(row: Mapping[str, Any], given: Arguments) -> Iterator[Text]:
    """The answer; of an episode its turns, with what each earned and what the environment made of it."""
    turns = turns_told(row)
    for one in turns:
        yield Text(f"    {visible(' · '.join([f'turn {one.number}', *one.facts]))}", style="bold")
        yield from labeled("answer", one.text or "(nothing)", given)
        for role, said in one.reply:
            yield from labeled("reply" if is_plain(role) else cut(role, 40), said or "(nothing)", given)
    if ending := ending_of(row) if turns else "":
        yield from labeled("ended", ending, given)
    if not turns:
        yield from labeled("answer", row.get("answer"), given)


def labeled(label: str, text: object, given: Arguments) -> Iterator[Text]:
    """A text under its label: of one line beside it, of several indented."""
    if text in (None, ""):
        return
    whole = str(text)
    most = len(whole) if given.full else CUT
    plain = visible(whole[:most])
    if len(whole) > most:
        plain += f" … ({number(len(whole) - most)} more characters, --full)"
    indented = plain.replace("\n", "\n" + " " * 13)
    yield Text(f"    {label:<8} ", style="dim").append(indented, style="default")
