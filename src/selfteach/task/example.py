"""What a task is made of: examples, how an answer is graded, where examples come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12


class Message(TypedDict):
    """One chat message, as chat templates take them."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """One task instance: what the student is asked, and what only a teacher may be shown.

    ``key`` names it (stable across runs); ``prompt`` is the student's conversation; ``private`` holds the
    privileged fields by name (``solution``, ``answer``, ``tests`` …); ``tag`` may route it to a teacher. ``question``:
    the task's own conversation, where a rollout put another prompt in its place (None: the prompt is the task's).
    """

    key: str
    prompt: tuple[Message, ...]
    private: Mapping[str, str] = field(default_factory=dict)
    tag: str | None = None
    question: tuple[Message, ...] | None = None

    @property
    def problem(self) -> str:
        """The last user message of the task's own: the question itself, without system prompt or earlier turns."""
        asked = self.prompt if self.question is None else self.question
        return next((m["content"] for m in reversed(asked) if m["role"] == "user"), "")

    def behind(self, prompt: tuple[Message, ...]) -> Example:
        """The same with another prompt; ``asked`` is what a verifier reads."""
        return replace(self, prompt=prompt, question=self.question or self.prompt)

    @property
    def asked(self) -> Example:
        """As the task gave it: with its own prompt."""
        return self if self.question is None else replace(self, prompt=self.question, question=None)

    def told(self, **fields: str) -> Example:
        """With further private fields."""
        return replace(self, private={**self.private, **fields})


@dataclass(frozen=True)
class Grade:
    """A verifier's result: ``reward``, any finite number (1.0 is right, 0.0 wrong), and ``feedback`` for a teacher.

    ``claim`` is the final answer as read out of the text, None if none was found. ``verdict``: what the check found
    (a ``Verdict``, such as "unparseable"), None where it told a reward only; ``outcome`` reads it. Grades are equal
    where the first three are.

    ``numbers``: what else was measured of the answer, by name (utility and integrity, a stated confidence and its
    Brier score). Recipes read them as numbers of the row (``stats.number(NAME)``), evaluations give their mean
    (``eval/NAME``); an answer may lack one.
    """

    reward: float
    feedback: str | None = None
    claim: str | None = None
    verdict: str | None = field(default=None, compare=False)
    numbers: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def correct(self) -> bool:
        """Whether the answer counts as right wherever methods and reports tell right from wrong."""
        return self.reward >= 0.5


class Task(Protocol):
    """A source of examples with a verifier.

    ``train(i)`` is a pure function of the task (its seed included) and the running index ``i`` = 0, 1, 2 …,
    so that a resumed run needs one integer to go on where it stopped; finite sets reshuffle each epoch.
    ``held_out(n)`` gives n examples that ``train`` never gives, always the same; all it has, if these are fewer.
    ``wording`` holds view templates the task's own model was taught (view name → format string with
    ``{problem}`` and the private fields), used instead of a view's default wording.
    ``verdicts`` counts what grading has met so far (right, wrong, unparseable, timed out …).
    """

    @property
    def name(self) -> str: ...

    @property
    def wording(self) -> Mapping[str, str]: ...

    @property
    def verdicts(self) -> Mapping[Any, int]: ...

    def train(self, index: int) -> Example: ...

    def held_out(self, count: int) -> list[Example]: ...

    def grade(self, example: Example, answer: str) -> Grade: ...


def is_graded(task: Task) -> bool:
    """Whether anybody grades its answers: a task of rows without answers says in ``graded`` that nobody does."""
    return bool(getattr(task, "graded", True))
