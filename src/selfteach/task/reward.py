"""A user's own reward function as the verifier of any task, in the signatures that TRL's and verl's users have."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sized
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from inspect import Parameter
from itertools import takewhile
from typing import Any

from selfteach.errors import UserError
from selfteach.importing import code_of, in_one_line, is_reference, load_object, users_call
from selfteach.task.answer import INSTRUCTION, extract_answer
from selfteach.task.around import Around
from selfteach.task.example import Example, Grade, Task
from selfteach.task.judged import WANTED, judged
from selfteach.task.verdict import Verdict

Reward = Callable[..., Any]

BATCHED = "completions"
"""The parameter that makes a function TRL's: it gets lists, and gives one."""
LISTS = frozenset({BATCHED, "prompts"})
TEXTS = frozenset({"completion", "solution_str", "prompt", "problem", "example"})
"""What functions of one text may ask for. LISTS and TEXTS always mean the same, whatever columns the data has."""


@dataclass(frozen=True)
class RewardFunction:
    """How a user's function is called: by the names of its parameters, checked once.

    ``name`` and ``place`` ("file:line" of its definition, empty if unknown) are for messages.
    """

    function: Reward
    name: str
    place: str
    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, given: Reward | str) -> RewardFunction:
        """Of a function, or a reference to one (``my.py:score``). UserError if it cannot be called as a reward."""
        function = _loaded(given)
        name = getattr(function, "__qualname__", None) or type(function).__name__
        code = code_of(function)
        place = "" if code is None else f"{code.co_filename}:{code.co_firstlineno}"
        try:
            parameters = tuple(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            raise UserError(f"reward {name}: its parameters are unknown; wrap it in a function") from None
        one = cls(function, name, place, parameters)
        one._require_text()
        return one

    @property
    def batched(self) -> bool:
        return BATCHED in self.names

    @property
    def names(self) -> frozenset[str]:
        """Of its parameters, without ``*args`` and ``**kwargs``."""
        return frozenset(one.name for one in self.parameters if one.kind not in _ANY_NUMBER)

    @property
    def columns(self) -> frozenset[str]:
        """Its parameters that may be columns of the data."""
        return self.names - LISTS - TEXTS

    def lacks(self, fields: Collection[str]) -> str | None:
        """The first parameter that nothing could be given for, of an example with these private fields."""
        known = {*fields, *(LISTS if self.batched else TEXTS), "data_source", "extra_info"}
        known |= {"ground_truth"} if "answer" in known else set()
        needed = (one for one in self.parameters if one.default is Parameter.empty)
        return next(
            (one.name for one in needed if one.kind not in _ANY_NUMBER and one.name not in known), None
        )

    def __call__(self, example: Example, completion: str, source: str) -> tuple[Verdict, Grade]:
        """Reward of a completion, and what it counts as. UserError, one line, for whatever goes wrong in it."""
        positional, named = self.arguments(example, completion, source)
        what = f"reward {self.name} failed on example {example.key}"
        said = users_call(what, self.function, *positional, **named)
        try:
            return judged(_only(said) if self.batched else said)
        except ValueError as error:
            wanted = f"give a list of one reward ({WANTED})" if self.batched else WANTED
            raise UserError(f"{self} gave {error} for example {example.key}; {wanted}") from None

    def __str__(self) -> str:
        return f"reward {self.name} ({self.place})" if self.place else f"reward {self.name}"

    def arguments(self, example: Example, completion: str, source: str) -> tuple[list[Any], dict[str, Any]]:
        """(positional, by name) what it is called with; ``source``: the task's name. All are copies.

        UserError if it has a parameter without default that nothing is known for.
        """
        known = self._known(example, completion, source)
        lack = self.lacks(example.private)
        if lack is not None:
            raise UserError(
                f"{self}: nothing to give its parameter {lack!r} for example {example.key}; known: "
                f"{', '.join(sorted(known))}"
            )
        first = [one.name for one in self.parameters if one.kind is Parameter.POSITIONAL_ONLY]
        positional = [known[name] for name in takewhile(known.__contains__, first)]
        named = {one.name for one in self.parameters if one.kind in _BY_NAME}
        if self._takes_all:
            named |= set(known) - self.names
        return positional, {name: value for name, value in known.items() if name in named}

    def _known(self, example: Example, completion: str, source: str) -> dict[str, Any]:
        """What can be given, by name. TRL's functions get lists of one."""
        private = deepcopy(dict(example.private))
        fields: dict[str, Any] = {
            **({"ground_truth": private["answer"]} if "answer" in private else {}),
            "data_source": example.tag if example.tag is not None else source,
            "extra_info": dict(private),
            **private,
            **_as_dict(private.get("extra_info")),
        }
        if self.batched:
            lists = {name: [value] for name, value in fields.items()}
            return {**lists, "prompts": [example.problem], BATCHED: [completion]}
        own = replace(example, prompt=tuple(message.copy() for message in example.prompt), private=private)
        return {
            **fields,
            "completion": completion,
            "solution_str": completion,
            "prompt": example.problem,
            "problem": example.problem,
            "example": own,
        }

    @property
    def _takes_all(self) -> bool:
        return any(one.kind is Parameter.VAR_KEYWORD for one in self.parameters)

    def _require_text(self) -> None:
        if not (self._takes_all or {"completion", "solution_str", BATCHED} & self.names):
            raise UserError(
                f"{self} never sees the model's text: call the parameter for it completion (one text), completions "
                "(a list, as TRL) or solution_str (as verl)"
            )


class Rewarded(Around):
    """``task``, graded by a user's function. UserError at once if that has a parameter nothing is known for."""

    graded = True

    def __init__(self, task: Task, reward: RewardFunction | Reward | str) -> None:
        super().__init__(task)
        self.reward = reward if isinstance(reward, RewardFunction) else RewardFunction.of(reward)
        self.counted: Counter[Verdict] = Counter()
        self.reward.arguments(task.train(0), "", task.name)

    @property
    def verdicts(self) -> Mapping[Any, int]:
        """Answers judged so far: "right" (reward of 0.5 or more), "wrong", and "no reward" (the function gave None)."""
        return self.counted

    def grade(self, example: Example, answer: str) -> Grade:
        """The function's reward; ``claim`` is read out of the answer in the task's own answer format, if it has one."""
        verdict, grade = self.reward(example, answer, self.task.name)
        self.counted[verdict] += 1
        form = getattr(self.task, "answer_format", None)
        if grade.claim is None and form in INSTRUCTION:
            grade = replace(grade, claim=extract_answer(answer, form))
        return grade

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        about = self.task.describe() if hasattr(self.task, "describe") else {"source": self.name}
        return {**about, "verifier": str(self.reward)}


def _as_dict(written: str | None) -> dict[str, Any]:
    """verl's extra_info, which is a dict in its data and JSON in a private field."""
    try:
        found = json.loads(written or "")
    except ValueError:
        return {}
    return {"extra_info": found} if isinstance(found, dict) else {}


_ANY_NUMBER = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def _loaded(given: Reward | str) -> Reward:
    if isinstance(given, str):
        if not is_reference(given):
            raise UserError(
                f"reward {given!r} is no function: write path/to/file.py:NAME or package.module:NAME"
            )
        return _callable(load_object(given), given)
    return _callable(given, in_one_line(given))


def _callable(found: Any, label: str) -> Reward:
    if isinstance(found, type):
        raise UserError(f"reward {label} is a class: give a function, or an object that can be called")
    if not callable(found):
        raise UserError(f"reward {label} is of type {type(found).__name__}: give one function")
    kind = found if inspect.isroutine(found) or isinstance(found, partial) else type(found).__call__
    if inspect.iscoroutinefunction(kind):
        raise UserError(f"reward {label} is async: give a plain function")
    function: Reward = found
    return function


def _only(said: Any) -> Any:
    """The one reward of a list of one: a list, tuple, array or tensor."""
    try:
        listed = isinstance(said, Sized) and not isinstance(said, str | bytes | Mapping)
        rewards = list(said) if listed else None
    except Exception:  # a tensor without dimensions has a length by its type only
        rewards = None
    if rewards is None:
        raise ValueError(f"{type(said).__name__} {in_one_line(said)}")
    if len(rewards) != 1:
        raise ValueError(f"{len(rewards)} rewards for one completion")
    return rewards[0]
