"""reasoning-gym tasks by name: endless procedural examples, each with the library's own scorer as verifier.

Everything of reasoning-gym runs in a worker process: its scorers read untrusted text and may hang, and some of its
generators iterate over sets, so that only a fixed string-hash seed gives the same example in every run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from selfteach.errors import UserError
from selfteach.task import gym_worker
from selfteach.task.answer import AnswerFormat, extract_answer, write_answer
from selfteach.task.example import Example, Grade
from selfteach.task.options import TaskOptions
from selfteach.task.split import FRACTION
from selfteach.task.timed import Outcome, TimedWorker
from selfteach.task.verdict import Verdict
from selfteach.task.worked import WORKED

DRAW_SECONDS = 60.0
MAX_ANSWER_CHARS = 10_000

FORMS: tuple[AnswerFormat, ...] = ("line", "tags")
"""What a task may ask for by itself: the first that all its references fit."""
TRIED = 8
"""So many references are tried for it."""

REFUSED = {"composite": "it mixes other tasks; open those one by one"}


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
    answer_format: AnswerFormat = field(init=False)

    def __post_init__(self) -> None:
        self._check_name()
        self._check_config()
        object.__setattr__(self, "answer_format", self._form())

    @property
    def name(self) -> str:
        return f"gym:{self.dataset}"

    @property
    def has_worked_solution(self) -> bool:
        """Whether the private ``solution`` shows steps; if not, it is the bare answer."""
        return self.dataset in WORKED

    @property
    def has_reference(self) -> bool:
        """Whether there is a right answer to show a teacher; if not, the task is one for a verifier alone."""
        return "answer" in self.train(0).private

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        return {
            "source": self.name,
            "config": dict(self.config),
            "held_out": f"about {self.options.held_out_fraction or FRACTION:g} of the questions",
            "solution": self._privilege,
            "answer format": self.answer_format,
            "verifier": "reasoning-gym",
        }

    @property
    def _privilege(self) -> str:
        if not self.has_reference:
            return "none: for methods that need a verifier only"
        return "worked" if self.has_worked_solution else "answer only"

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
        return self._graded(draw, answer, seconds)

    def _graded(self, draw: int, answer: str, seconds: float) -> Verdict:
        outcome = _worker.call(gym_worker.score, self.dataset, self._config, draw, answer, seconds=seconds)
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
        drawn = self._ask(gym_worker.draw, stream, side == "held_out", fraction, self.answer_format)
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
        known = [name for name in self._ask(gym_worker.fields) if name not in ("seed", "size")]
        for name in self.config:
            if name not in known:
                near = get_close_matches(name, known, n=1, cutoff=0.4)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise UserError(f"{self.name} has no setting {name!r}{hint}; it has: {', '.join(known)}")

    def _form(self) -> AnswerFormat:
        """The form of answer that is asked for: what the options say, else the first in which references are right.

        UserError if there is none, or if the scorer takes any text for right.
        """
        fraction = self.options.held_out_fraction
        drawn = [
            self._ask(gym_worker.draw, f"{self.seed}/train/{index}", False, fraction, None)
            for index in range(TRIED)
        ]
        if self._graded(drawn[0]["draw"], "no such answer", DRAW_SECONDS) is Verdict.RIGHT:
            raise UserError(f"{self.name} cannot be used: its scorer accepts any text")
        known = [one for one in drawn if one["answer"] is not None]
        named = self.options.answer_format
        for form in FORMS if named is None else (named,):
            if all(self._ask(gym_worker.fits, one["draw"], form) for one in known) and self._pays(known[:2]):
                return form
        answer = known[0]["answer"]
        advice = "choose tags, which may span lines" if named not in (None, "tags") else "choose another task"
        raise UserError(
            f"{self.name}: its answers ({answer[:40]!r} …) cannot be given in the form answer_format="
            f"{named or FORMS[-1]}; {advice}"
        )

    def _pays(self, known: list[dict[str, Any]]) -> bool:
        """Whether the library's scorer gives its own references full marks."""
        return all(
            self._graded(one["draw"], one["answer"].strip(), DRAW_SECONDS) is Verdict.RIGHT for one in known
        )


def gym_names() -> list[str]:
    """All task names of the installed reasoning-gym."""
    return [
        name for name in _worker.call(gym_worker.names, seconds=DRAW_SECONDS).value if name not in REFUSED
    ]


_worker = TimedWorker(gym_worker.warm_up)
