"""A run as it goes on: a small dashboard on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live as Display
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from selfteach.training.progress import Silent as Silent
from selfteach.wording import duration

EVERY = 15.0
"""Seconds between two lines about a piece of work; what takes less is not spoken of."""


class Pace:
    """How long the rest of a piece of work takes at most, at its pace so far."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.what, self.share, self.began, self.told = "", 0.0, 0.0, 0.0

    def line(self, what: str, share: float, every: float = EVERY) -> str | None:
        """What is done and what is left, if ``every`` seconds have passed since the last line (else None)."""
        now = self.clock()
        if what != self.what or share < self.share:
            self.what, self.began, self.told = what, now, now
        self.share = share
        if now - self.told < every or not 0 < share < 1:
            return None
        self.told = now
        left = (now - self.began) * (1 - share) / share
        return f"{what}: {share:.0%}, at most {duration(left)} left"


class Lines:
    """One line now and then: for logs and pipes."""

    def __init__(self, every: int = 10) -> None:
        self.every, self.steps, self.headline = every, 0, "headline"
        self.pace = Pace()

    def working(self, what: str, share: float) -> None:
        if line := self.pace.line(what, share):
            self.say(line)

    def say(self, text: str) -> None:
        try:
            print(text, file=sys.stderr, flush=True)
        except BrokenPipeError:
            # Whoever read (head, tee, a lost ssh) has gone; the run goes on in its folder.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

    def start(self, steps: int, step: int, headline: str) -> None:
        self.steps, self.headline = steps, headline

    def step(self, row: Mapping[str, Any]) -> None:
        if row["step"] % self.every == 0 or row["step"] in (1, self.steps):
            self.say(f"step {row['step']}/{self.steps}  {state(row)}")
        for alarm in alarms(row):
            self.say(alarm)

    def evaluated(self, step: int, row: Mapping[str, Any]) -> None:
        self.say(f"step {step}  {evaluation(self.headline, row)}")

    def stop(self) -> None: ...


class Live:
    """A bar, the last numbers with their recent course, and the latest alarms; what is said scrolls by above."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.bar.add_task("training", total=1)
        self.rows: deque[Mapping[str, Any]] = deque(maxlen=RECENT)
        self.headline, self.last = "headline", ""
        self.alarms: deque[str] = deque(maxlen=MOST_ALARMS)
        self.pace, self.work = Pace(), ""
        self.display = Display(console=self.console, get_renderable=self.picture, refresh_per_second=4)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def start(self, steps: int, step: int, headline: str) -> None:
        self.headline = headline
        self.bar.update(self.task, total=steps, completed=step)
        self.display.start()

    def step(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)
        self.alarms.extend(alarms(row))
        self.bar.update(self.task, completed=row["step"])

    def evaluated(self, step: int, row: Mapping[str, Any]) -> None:
        self.last = f"{value_of(row)} at step {step}"
        self.say(f"step {step:>5}  {evaluation(self.headline, row)}")

    def working(self, what: str, share: float) -> None:
        self.work = "" if share >= 1 else self.pace.line(what, share, every=1.0) or self.work

    def stop(self) -> None:
        self.display.stop()

    def picture(self) -> RenderableType:
        table = numbers(self.rows)
        if self.last:
            table.add_row(self.headline, self.last, "")
        if self.work:
            table.add_row("now", self.work, "")
        return Group(self.bar, table, *(Text(a, style="yellow") for a in self.alarms))


RECENT = 40
"""Steps in a sparkline."""
MOST_ALARMS = 4
BARS = "▁▂▃▄▅▆▇█"
SHOWN = (
    ("loss", r"loss", "{:.4f}"),
    ("reward", r"reward/mean", "{:.3f}"),
    ("length", r"length/mean", "{:.0f} tokens"),
    ("entropy", r"entropy/student", "{:.3f} nats"),
    ("divergence {}", r"divergence/([^/]+)", "{:.4f} nats"),
    ("speed", r"tokens_per_second", "{:,.0f} tokens/s"),
)
"""Lines of the dashboard: label, the metrics whose names match, how a value is written."""


def numbers(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The last value of each shown metric with a sparkline of the recent ones."""
    table = Table.grid(padding=(0, 2))
    for line in courses(rows):
        table.add_row(*line)
    return table


def courses(rows: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, str, str]]:
    """(label, last value, sparkline) of each shown metric."""
    for label, pattern, form in SHOWN:
        for name in rows[-1] if rows else ():
            if found := re.fullmatch(pattern, name):
                course = [row.get(name, math.nan) for row in rows]
                yield label.format(*found.groups()), form.format(course[-1]), sparkline(course)


def sparkline(values: Iterable[float]) -> str:
    """Values as bars from the least to the greatest of them; a blank where a value is not finite."""
    line = [value if math.isfinite(value) else None for value in values]
    finite = [value for value in line if value is not None]
    low, span = min(finite, default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    return "".join(
        " " if value is None else BARS[round((value - low) / span * (len(BARS) - 1)) if span else 0]
        for value in line
    )


class Notebook:
    """In a notebook's cell: a bar and the last numbers with their recent course, in the place where they first
    stood."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self.html: Any = HTML
        self.handle: Any = display(HTML(""), display_id=True)
        self.rows: deque[Mapping[str, Any]] = deque(maxlen=RECENT)
        self.said: deque[str] = deque(maxlen=MOST_ALARMS)
        self.steps, self.headline, self.last = 0, "headline", ""
        self.pace, self.work = Pace(), ""

    def say(self, text: str) -> None:
        self.said.append(text)
        self.show()

    def start(self, steps: int, step: int, headline: str) -> None:
        self.steps, self.headline = steps, headline
        self.show()

    def step(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)
        self.said.extend(alarms(row))
        self.show()

    def evaluated(self, step: int, row: Mapping[str, Any]) -> None:
        self.last = f"{value_of(row)} at step {step}"
        self.show()

    def working(self, what: str, share: float) -> None:
        before = self.work
        self.work = "" if share >= 1 else self.pace.line(what, share, every=1.0) or before
        if self.work != before:
            self.show()

    def stop(self) -> None:
        self.show()

    def show(self) -> None:
        done = self.rows[-1]["step"] if self.rows else 0
        lines = [(label, *shown) for label, *shown in courses(self.rows)]
        lines += [(self.headline, self.last, "")] if self.last else []
        lines += [("now", self.work, "")] if self.work else []
        cells = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in line) + "</tr>" for line in lines)
        said = "".join(f"<div>{escape(text)}</div>" for text in self.said)
        bar = f"<progress value='{done}' max='{max(1, self.steps)}'></progress> step {done} of {self.steps}"
        self.handle.update(self.html(f"<div>{bar}<table>{cells}</table>{said}</div>"))


def in_notebook() -> bool:
    """Whether this process serves a notebook's cells."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def progress_for_here() -> Lines | Live | Notebook:
    """A notebook's, a terminal's, or a line now and then for logs and pipes."""
    if in_notebook():
        return Notebook()
    return Live() if sys.stderr.isatty() else Lines()


LOGGED = (
    ("loss", "loss {:.4f}"),
    ("reward/mean", "reward {:.2f}"),
    ("length/mean", "length {:.0f}"),
    ("tokens_per_second", "{:,.0f} tokens/s"),
)


def state(row: Mapping[str, Any]) -> str:
    """A row in one line: those of ``LOGGED`` that it has."""
    return "  ".join(form.format(row[name]) for name, form in LOGGED if name in row)


def alarms(row: Mapping[str, Any]) -> list[str]:
    """The alarms that a row brings, one line each."""
    return [
        f"alarm: {one['name']} (since step {one['since']}): {one['seen']}; {one['advice']}"
        for one in row.get("alarms", ())
    ]


def evaluation(headline: str, row: Mapping[str, Any]) -> str:
    """An evaluation in one line: the headline, and pass@k where there is one."""
    further = [
        f"{name.removeprefix('eval/')} {row[name]:.3f}" for name in row if name.startswith("eval/pass@")
    ]
    problems = [f"({row['eval/problems']} problems)"] if "eval/problems" in row else []
    return "  ".join([f"{headline} {value_of(row)}", *further, *problems])


def value_of(row: Mapping[str, Any]) -> str:
    """The headline with its standard error, as far as that is known."""
    error = f" ± {row['eval/headline_se']:.3f}" if "eval/headline_se" in row else ""
    if row.get("eval/headline_se") == 0:
        error = " (no spread)"  # not certainty: few problems may agree by chance
    return f"{row['eval/headline']:.3f}{error}"
