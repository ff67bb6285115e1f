"""A run as it goes on: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from selfteach.train.evaluation import Result


class Silent:
    """Shows nothing (other processes of a distributed run)."""

    def say(self, text: str) -> None: ...

    def start(self, steps: int, step: int) -> None: ...

    def step(self, row: Mapping[str, Any]) -> None: ...

    def evaluated(self, step: int, result: Result) -> None: ...

    def stop(self) -> None: ...


class Lines:
    """One line now and then: for logs and pipes."""

    def __init__(self, every: int = 10) -> None:
        self.every, self.steps = every, 0

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def start(self, steps: int, step: int) -> None:
        self.steps = steps

    def step(self, row: Mapping[str, Any]) -> None:
        if row["step"] % self.every == 0 or row["step"] in (1, self.steps):
            self.say(f"step {row['step']}/{self.steps}  {state(row)}")

    def evaluated(self, step: int, result: Result) -> None:
        self.say(f"step {step}  {accuracy(result)}")

    def stop(self) -> None: ...


class Live:
    """A bar with loss, reward, last accuracy and tokens a second."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=self.console,
        )
        self.task = self.bar.add_task("training", total=1, state="", visible=False)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def start(self, steps: int, step: int) -> None:
        self.bar.update(self.task, total=steps, completed=step, visible=True)
        self.bar.start()

    def step(self, row: Mapping[str, Any]) -> None:
        self.bar.update(self.task, completed=row["step"], state=state(row))

    def evaluated(self, step: int, result: Result) -> None:
        self.say(f"step {step:>5}  {accuracy(result)}")

    def stop(self) -> None:
        self.bar.stop()


def progress_for_here() -> Lines | Live:
    return Live() if sys.stderr.isatty() else Lines()


def state(row: Mapping[str, Any]) -> str:
    return (
        f"loss {row['loss']:.4f}  reward {row['reward/mean']:.2f}  length {row['length/mean']:.0f}  "
        f"{row['tokens_per_second']:,.0f} tokens/s"
    )


def accuracy(result: Result) -> str:
    return (
        f"accuracy {result.accuracy:.3f} ± {result.accuracy_se:.3f}  pass@{result.k} {result.pass_at_k:.3f}  "
        f"({result.problems} held-out problems)"
    )
