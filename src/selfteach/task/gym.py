"""reasoning-gym tasks by name: endless procedural examples, each with the library's own scorer as verifier.

Everything of reasoning-gym runs in a worker process: its scorers read untrusted text and may hang, and some of its
generators iterate over sets, so that only a fixed string-hash seed gives the same example in every run.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from selfteach.errors import UserError
from selfteach.task.answer import AnswerFormat, extract_answer, write_answer
from selfteach.task.example import Example, Grade
from selfteach.task.options import TaskOptions
from selfteach.task.split import is_held_out
from selfteach.task.timed import Outcome, TimedWorker
from selfteach.task.verdict import Verdict
from selfteach.task.worked import WORKED, worked_solution

DRAW_SECONDS = 60.0
MAX_REDRAWS = 1000
MAX_ANSWER_CHARS = 10_000

REFUSED = {"composite": "it mixes other tasks; open those one by one"}

# Scorers that hand the answer to Python's or SymPy's evaluator. The answers of the first kind are compared as text
# (the library pays full marks for nothing else); those of the others must first pass a filter of harmless characters.
EVALUATES_PYTHON = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
EVALUATES_ARITHMETIC = frozenset({"countdown", "puzzle24"})
EVALUATES_ALGEBRA = frozenset({"intermediate_integration", "polynomial_multiplication", "simple_integration"})
_ARITHMETIC = re.compile(r"[\d\s+\-*/().]+", re.ASCII)
_FUNCTIONS = r"(?:exp|log|sqrt|a?(?:sin|cos|tan)h?)\b"
_ALGEBRA = re.compile(
    rf"(?:[\d\s+\-*/^()]|\.(?!\s*[A-Za-z])|[A-Za-z](?![A-Za-z0-9])|{_FUNCTIONS})+", re.ASCII
)


@dataclass(frozen=True)
class GymTask:
    """One reasoning-gym dataset as a task.

    ``config`` overrides fields of the dataset's own configuration. About ``options.held_out_fraction`` of all
    questions are held out, by a hash of their text, so ``train`` and ``held_out`` share none. The private fields
    are ``answer`` and ``solution``, where the dataset has a reference answer; the solution is worked out step by
    step for the tasks in ``worked.WORKED`` and elsewhere no more than the answer (``has_worked_solution`` tells).
    The reward is 1 only for the scorer's full marks: many scorers give half marks to wrong answers.
    ``verdicts`` counts what the checks found; ``flawed`` counts the questions that were passed over because the
    library's own answer contradicts them, by side of the split.
    """

    dataset: str
    config: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    options: TaskOptions = field(default_factory=TaskOptions)
    wording: Mapping[str, str] = field(default_factory=dict)
    verdicts: Counter[Verdict] = field(default_factory=Counter, compare=False)
    flawed: Counter[str] = field(default_factory=Counter, compare=False)

    def __post_init__(self) -> None:
        self._check_name()
        self._check_config()
        self._check_scorer()

    @property
    def name(self) -> str:
        return f"gym:{self.dataset}"

    @property
    def answer_format(self) -> AnswerFormat:
        return self.options.answer_format or "line"

    @property
    def has_worked_solution(self) -> bool:
        """Whether the private ``solution`` shows steps; if not, it is the bare answer."""
        return self.dataset in WORKED

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        return {
            "source": self.name,
            "config": dict(self.config),
            "held_out": f"about {self.options.held_out_fraction:g} of the questions",
            "solution": "worked" if self.has_worked_solution else "answer only",
            "verifier": "reasoning-gym",
        }

    def train(self, index: int) -> Example:
        return self._draw("train", index)

    def held_out(self, count: int) -> list[Example]:
        """``count`` examples with different questions; UserError if the task has not so many."""
        found: dict[str, Example] = {}
        for index in range(20 * count + 200):
            if len(found) == count:
                break
            example = self._draw("held_out", index)
            found.setdefault(example.problem, example)
        if len(found) < count:
            raise UserError(
                f"{self.name} has only {len(found)} different held-out questions, {count} were asked for: "
                f"ask for fewer, raise held_out_fraction, or widen the task's config"
            )
        return list(found.values())

    def grade(self, example: Example, answer: str) -> Grade:
        claim = extract_answer(answer, self.answer_format)
        verdict = self._check(example, claim)
        self.verdicts[verdict] += 1
        return verdict.grade(claim)

    def _check(self, example: Example, answer: str | None) -> Verdict:
        if answer is None:
            return Verdict.NO_ANSWER
        if len(answer) > MAX_ANSWER_CHARS:
            return Verdict.UNPARSEABLE
        draw = int(example.key.rpartition("/")[2])
        seconds = self.options.grade_seconds
        outcome = _worker.call(_score, self.dataset, self._config, draw, answer, seconds=seconds)
        if outcome.status == "timed out":
            return Verdict.TIMED_OUT
        if outcome.status != "done":
            return Verdict.UNPARSEABLE
        return Verdict.RIGHT if outcome.value > 1 - 1e-6 else Verdict.WRONG

    @property
    def _config(self) -> str:
        return json.dumps(self.config, sort_keys=True)

    def _draw(self, side: str, index: int) -> Example:
        fraction = self.options.held_out_fraction
        stream = f"{self.seed}/{side}/{index}"
        drawn = self._ask(_draw, stream, side == "held_out", fraction)
        self.flawed[side] += drawn["flawed"]
        private = {}
        if drawn["answer"] is not None:
            final = write_answer(drawn["answer"], self.answer_format)
            steps = drawn["solution"]
            private = {"answer": drawn["answer"], "solution": final if steps is None else f"{steps}\n{final}"}
        prompt = self.options.prompt(drawn["question"], self.answer_format)
        return Example(key=f"{self.name}/{drawn['draw']}", prompt=prompt, private=private)

    def _ask(self, function: Any, *arguments: Any) -> Any:
        outcome: Outcome = _worker.call(
            function, self.dataset, self._config, *arguments, seconds=DRAW_SECONDS
        )
        if outcome.status != "done":
            raise UserError(f"{self.name} with config {self._config} gives no example: {outcome.reason}")
        return outcome.value

    def _check_name(self) -> None:
        if self.dataset in REFUSED:
            raise UserError(f"{self.name} cannot be used: {REFUSED[self.dataset]}")
        names = gym_names()
        if self.dataset not in names:
            near = get_close_matches(self.dataset, names, n=3, cutoff=0.5)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise UserError(f"reasoning-gym has no task {self.dataset!r}{hint}")

    def _check_config(self) -> None:
        known = [name for name in self._ask(_fields) if name not in ("seed", "size")]
        for name in self.config:
            if name not in known:
                near = get_close_matches(name, known, n=1, cutoff=0.4)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise UserError(f"{self.name} has no setting {name!r}{hint}; it has: {', '.join(known)}")

    def _check_scorer(self) -> None:
        """The reference answer must be right and junk wrong, through the very path that grading takes."""
        example = self._draw("train", 0)
        if self._check(example, "no such answer") is Verdict.RIGHT:
            raise UserError(f"{self.name} cannot be used: its scorer accepts any text")
        answer = example.private.get("answer")
        if answer is None:
            return
        written = write_answer(answer, self.answer_format)
        if self._check(example, extract_answer(written, self.answer_format)) is not Verdict.RIGHT:
            raise UserError(
                f"{self.name}: its answers ({answer[:40]!r} …) cannot be given in the form answer_format="
                f"{self.answer_format}; choose tags, which may span lines"
            )


def gym_names() -> list[str]:
    """All task names of the installed reasoning-gym."""
    return [name for name in _worker.call(_names, seconds=DRAW_SECONDS).value if name not in REFUSED]


# What follows runs in the worker.


def _warm_up() -> None:
    _score("chain_sum", "{}", 0, "1")


def _names() -> list[str]:
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS)


def _fields(name: str, config: str) -> list[str]:
    from reasoning_gym.factory import DATASETS

    return list(DATASETS[name][1].__dataclass_fields__)


def _dataset(name: str, config: str, draw: int) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, seed=draw, size=1, **json.loads(config))


@lru_cache(maxsize=1024)
def _entry(name: str, config: str, draw: int) -> dict[str, Any]:
    entry: dict[str, Any] = _dataset(name, config, draw)[0]
    return entry


def _draw(name: str, config: str, stream: str, held_out: bool, fraction: float) -> dict[str, Any]:
    """The first question of a stream of draws that is sound and on the wanted side of the split."""
    flaws: list[str] = []
    for attempt in range(MAX_REDRAWS):
        draw = int.from_bytes(blake2b(f"{stream}/{attempt}".encode(), digest_size=4).digest(), "big")
        entry = _entry(name, config, draw)
        if is_held_out(entry["question"], fraction) != held_out:
            continue
        try:
            solution = worked_solution(name, entry)
        except ValueError as error:
            flaws.append(str(error))
            continue
        found = {"question": entry["question"], "answer": entry["answer"], "solution": solution}
        return {**found, "draw": draw, "flawed": len(flaws)}
    side = "held-out" if held_out else "training"
    raise ValueError(f"{MAX_REDRAWS} draws gave no usable {side} question{f'; {flaws[-1]}' if flaws else ''}")


def _score(name: str, config: str, draw: int, answer: str) -> float:
    entry = _entry(name, config, draw)
    reference = entry["answer"]
    if reference is not None and answer == reference.strip():
        answer = reference
    if name in EVALUATES_PYTHON:
        return float(answer in entry["metadata"].get("valid_answers", [reference]))
    allowed = _ARITHMETIC if name in EVALUATES_ARITHMETIC else _ALGEBRA if name in EVALUATES_ALGEBRA else None
    if allowed is not None and not allowed.fullmatch(answer):
        return 0.0
    return float(_dataset(name, config, draw).score_answer(answer, entry))


_worker = TimedWorker(_warm_up)
