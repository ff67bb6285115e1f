"""What an evaluation found: numbers with intervals, every answer, and the files they are written to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from selfteach.api.csvfile import write_csv
from selfteach.task.outcome import OUTCOMES, outcome, reference_of
from selfteach.training.jsonrows import jsonable
from selfteach.training.text.estimates import INTERVAL, Estimate
from selfteach.training.text.evaluation import Answered, EvaluationResult


@dataclass(frozen=True)
class Evaluated:
    """One model on one task. ``result``: accuracy with its standard error over problems, pass@k, mean length in tokens,
    share that finished; ``estimates``: average@n, pass@k, maj@n and greedy accuracy, each with its 95 % interval;
    ``answers``: every answer with its grade, ``greedy`` those of temperature 0; ``part``: of "all" rows or of the
    "held-out" ones, ``available``: how many rows that has; ``how``: the settings that decide the numbers."""

    model: str
    task: str
    result: EvaluationResult
    answers: list[Answered]
    estimates: list[Estimate] = field(default_factory=list)
    greedy: list[Answered] = field(default_factory=list)
    part: str = "held-out"
    available: int | None = None
    how: Mapping[str, Any] = field(default_factory=dict)
    show: Callable[[Sequence[int]], str] = field(default=str, repr=False, compare=False)
    """Token ids as text, special tokens among it."""

    @property
    def accuracy(self) -> float:
        return self.result.accuracy

    @property
    def outcomes(self) -> dict[str, int]:
        """How many answers became what (docs/evaluate.md), the greedy ones left out."""
        counted = Counter(outcome(one.grade, one.finished) for one in self.answers)
        return {name: counted[name] for name in OUTCOMES if counted[name]}

    def rows(self) -> list[dict[str, Any]]:
        """The answers as plain values: what was asked, answered and expected, and what became of it."""
        sampled = [self._row(one, i % self.result.k) for i, one in enumerate(self.answers)]
        return sampled + [self._row(one, "greedy") for one in self.greedy]

    def _row(self, one: Answered, sample: int | str) -> dict[str, Any]:
        return {
            "task": self.task,
            "key": one.example.key,
            "sample": sample,
            "problem": one.example.problem,
            "prompt": self.show(one.prompt_ids),
            "answer": one.text,
            "claim": one.grade.claim,
            "reference": reference_of(one.example),
            "outcome": outcome(one.grade, one.finished),
            "reward": one.grade.reward,
            "numbers": dict(one.grade.numbers),
            "tokens": len(one.ids),
            "finished": one.finished,
        }

    def table(self) -> dict[str, Any]:
        """Everything but the answers, as plain values."""
        return {
            "model": self.model,
            "task": self.task,
            "part": self.part,
            "how": dict(self.how),
            "result": asdict(self.result),
            "interval": INTERVAL,
            "estimates": [asdict(one) for one in self.estimates],
            "outcomes": self.outcomes,
        }

    def save(self, path: Path | str) -> None:
        """Write result and answers as JSON."""
        save_json(path, {**self.table(), "answers": self.rows()})

    def csv(self, path: Path | str) -> None:
        """Write the estimates as CSV, one row each."""
        save_csv(path, [self])

    def save_answers(self, path: Path | str) -> None:
        """Write the answers as JSON Lines, one row each."""
        save_answers(path, [self])

    def __repr__(self) -> str:
        one = self.result
        shown = [
            f"{each.measure} {each.value:.3f} (95 % interval {each.low:.3f} to {each.high:.3f})"
            for each in self.estimates
        ]
        return (
            f"{self.model} on {self.task}, {one.problems} problems: {', '.join(shown)}; "
            f"length {one.length:.1f} tokens, finished {one.finished:.2f}"
        )


class Evaluations(tuple[Evaluated, ...]):
    """One model on several tasks, in their order."""

    def save(self, path: Path | str) -> None:
        """Write all results and answers as JSON: a list."""
        save_json(path, [{**one.table(), "answers": one.rows()} for one in self])

    def csv(self, path: Path | str) -> None:
        """Write all estimates as CSV, one row each."""
        save_csv(path, self)

    def save_answers(self, path: Path | str) -> None:
        """Write all answers as JSON Lines, one row each."""
        save_answers(path, self)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))


def save_json(path: Path | str, content: Any) -> None:
    made(path).write_text(json.dumps(jsonable(content), indent=1, allow_nan=False) + "\n", encoding="ascii")


def save_answers(path: Path | str, found: Sequence[Evaluated]) -> None:
    lines = (json.dumps(jsonable(row), allow_nan=False) for one in found for row in one.rows())
    made(path).write_text("".join(f"{line}\n" for line in lines), encoding="ascii")


def save_csv(path: Path | str, found: Sequence[Evaluated]) -> None:
    columns = ["model", "task", "part", "problems", "samples", "measure", "value", "low", "high"]
    rows = [
        [one.model, one.task, one.part, one.result.problems, one.result.k, e.measure, e.value, e.low, e.high]
        for one in found
        for e in one.estimates
    ]
    write_csv(path, columns, rows)


def made(path: Path | str) -> Path:
    """The file's path, with its folder made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return Path(path)
