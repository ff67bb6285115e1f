"""A user's reward function: how it is called, what its result means, and what each mistake is told."""

from __future__ import annotations

import asyncio
import copy
import inspect
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfteach.errors import UserError
from selfteach.task.example import Example, Grade, Message
from selfteach.task.judged import judged
from selfteach.task.one import OneQuestion
from selfteach.task.opening import TaskOptions, open_task
from selfteach.task.reward import Rewarded, RewardFunction
from selfteach.task.verdict import Verdict

HERE = __file__
PRIVATE = {"solution": "Count.", "answer": "4", "hint": "add"}


def example_of(**changes: Any) -> Example:
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"})
    prompt = tuple(Message(role=m["role"], content=m["content"]) for m in messages)
    return Example(**{"key": "rows:7", "prompt": prompt, "private": PRIVATE, "tag": None, **changes})


@dataclass
class Two:
    """A task of one training and one held-out example, whose own verifier must not be asked."""

    example: Example = field(default_factory=example_of)
    name: str = "two"
    wording: dict[str, str] = field(default_factory=dict)
    verdicts: Counter[Any] = field(default_factory=Counter)

    def train(self, index: int) -> Example:
        return self.example

    def held_out(self, count: int) -> list[Example]:
        return [example_of(key="rows:8")][:count]

    def grade(self, example: Example, answer: str) -> Grade:
        raise AssertionError("the task's own verifier was asked")


def reward_of(function: Any, text: str = "It is 4.", task: Any = None) -> float:
    rewarded = Rewarded(task or Two(), function)
    return rewarded.grade(rewarded.train(0), text).reward


def refusal(function: Any, task: Any = None) -> str:
    with pytest.raises(UserError) as error:
        reward_of(function, task=task)
    message = str(error.value)
    assert "\n" not in message
    return message


def line_of(function: Callable[..., Any], offset: int = 0) -> str:
    return f"{HERE}:{function.__code__.co_firstlineno + offset}"


# --- how it is called ---------------------------------------------------------------------------------------------


def test_a_function_of_a_completion_and_an_example() -> None:
    def reward(completion: str, example: Example) -> float:
        assert example == example_of()
        return len(completion)

    assert reward_of(reward, "four") == 4.0


def test_parameters_are_matched_by_name_whatever_their_order_and_kind() -> None:
    def reward(hint: str, completion: str, /, answer: str, *more: Any, problem: str, prompt: str) -> float:
        assert (hint, answer, problem, prompt, more) == ("add", "4", "2 + 2?", "2 + 2?", ())
        return float(answer in completion)

    assert reward_of(reward) == 1.0
    assert reward_of(reward, "5") == 0.0


def test_a_parameter_with_a_default_may_lack_a_field_but_gets_it_where_there_is_one() -> None:
    def reward(completion: str, hint: str = "none", nothing: str = "none") -> float:
        return float((hint, nothing) == ("add", "none"))

    def early(completion: str, nothing: str = "none", hint: str = "none", /) -> float:
        return float((hint, nothing) == ("none", "none"))

    assert reward_of(reward) == reward_of(early) == 1.0


def test_verls_function_gets_its_four_arguments() -> None:
    seen: list[tuple[Any, ...]] = []

    def compute_score(
        data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None
    ) -> float:
        seen.append((data_source, solution_str, ground_truth, extra_info))
        return 1.0

    assert reward_of(compute_score) == 1.0
    assert reward_of(compute_score, task=Two(example_of(tag="gsm8k"))) == 1.0
    columns = {**PRIVATE, "data_source": "math", "ground_truth": "IV", "extra_info": "more"}
    assert reward_of(compute_score, task=Two(example_of(private=columns))) == 1.0
    assert seen == [
        ("two", "It is 4.", "4", PRIVATE),
        ("gsm8k", "It is 4.", "4", PRIVATE),
        ("math", "It is 4.", "IV", "more"),
    ]


def test_trls_function_gets_lists_of_one_by_name() -> None:
    seen: list[dict[str, Any]] = []

    def all_of_it(completions: list[str], **kwargs: Any) -> list[float]:
        seen.append({"completions": completions, **kwargs})
        return [0.25 * len(completions)]

    def some_of_it(prompts: list[str], completions: list[str], answer: list[str]) -> list[float]:
        return [float(a in c) for c, a in zip(completions, answer, strict=True)]

    assert reward_of(all_of_it) == 0.25
    assert reward_of(some_of_it) == 1.0
    lists = {name: [text] for name, text in PRIVATE.items()}
    assert seen == [
        {"completions": ["It is 4."], "prompts": ["2 + 2?"], **lists, "ground_truth": ["4"], "data_source": ["two"],
         "extra_info": [PRIVATE]}
    ]  # fmt: skip


def test_a_function_of_anything_gets_all_that_is_known() -> None:
    def reward(**known: Any) -> float:
        texts = {"completion", "solution_str", "prompt", "problem", "example"}
        assert set(known) == {*texts, *PRIVATE, "ground_truth", "data_source", "extra_info"}
        return 1.0

    assert reward_of(reward) == 1.0


def test_a_field_that_has_the_name_of_the_text_does_not_hide_it() -> None:
    def reward(completion: str, problem: str) -> float:
        return float((completion, problem) == ("It is 4.", "2 + 2?"))

    def batched(completions: list[str]) -> list[float]:
        return [float(completions == ["It is 4."])]

    task = Two(example_of(private={"completion": "5", "completions": "5", "problem": "5"}))
    assert reward_of(reward, task=task) == reward_of(batched, task=task) == 1.0


class Weighted:
    """A reward that is an object."""

    def __call__(self, completion: str, answer: str) -> float:
        return 2.0 * (answer in completion)

    def method(self, completion: str) -> float:
        return 3.0

    @staticmethod
    def static(completion: str) -> float:
        return 4.0


def weighted(completion: str, weight: float, answer: str) -> float:
    return weight * (answer in completion)


def twice(function: Callable[..., float]) -> Callable[..., float]:
    @wraps(function)
    def inner(*args: Any, **kwargs: Any) -> float:
        return 2 * function(*args, **kwargs)

    return inner


def test_what_can_be_called_is_a_reward_function() -> None:
    given = [
        Weighted(), Weighted().method, Weighted.static, partial(weighted, weight=5.0), lambda completion: 6,
        twice(partial(weighted, weight=3.5)),
    ]  # fmt: skip
    assert [reward_of(one) for one in given] == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_a_reward_function_by_reference(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text("def score(completion, answer):\n    return answer in completion\n")
    assert reward_of(f"{tmp_path}/my.py:score") == 1.0


def test_the_example_cannot_be_changed_by_the_function() -> None:
    private = {"answer": "4", "tests": ["a", "b"]}
    task = Two(example_of(private=private))
    before = copy.deepcopy(task.example)

    def vandal(completion: str, example: Example, tests: list[str], extra_info: dict[str, Any]) -> float:
        example.prompt[0]["content"] = "Be rude."
        example.private["answer"] = "5"  # type: ignore[index]
        example.private["tests"].clear()  # type: ignore[attr-defined]
        tests.append("c")
        extra_info.clear()
        return float(example.private == {"answer": "5", "tests": ["c"]})

    def batched(completions: list[str], tests: list[list[str]], prompts: list[str]) -> list[float]:
        tests[0].clear()
        return [float(len(completions.pop()) + len(prompts.pop()))]

    for function in (vandal, vandal, batched, batched):
        assert reward_of(function, task=task) > 0
    assert task.example == before


def test_a_function_may_print_and_draw_random_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    def reward(completion: str) -> float:
        print("scoring", completion)
        return random.random()

    assert 0 <= reward_of(reward) < 1
    assert capsys.readouterr().out == "scoring It is 4.\n"


# --- what its result means ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reward"),
    [
        (1, 1.0), (0.25, 0.25), (True, 1.0), (False, 0.0), (-3.5, -3.5), (1e38, 1e38), (Fraction(1, 2), 0.5),
        (np.float64(0.5), 0.5), (np.float16(0.5), 0.5), (np.int64(2), 2.0), (np.bool_(True), 1.0), (np.array(0.5), 0.5),
        (np.array([0.5]), 0.5), (torch.tensor(0.5), 0.5), (torch.tensor([2]), 2.0), (torch.tensor(True), 1.0),
        (torch.tensor(0.5, requires_grad=True), 0.5), (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (Grade(0.75), 0.75), (Grade(np.float32(0.5)), 0.5), ({"score": 0.5}, 0.5), ({"reward": 2}, 2.0),  # type: ignore[arg-type]
        ({"score": 0.5, "reward": 1.0, "acc": True}, 0.5), ({"score": np.float64(1)}, 1.0), (None, 0.0),
        ({"score": None}, 0.0),
    ],
)  # fmt: skip
def test_what_counts_as_a_reward_in_every_signature(said: Any, reward: float) -> None:
    for found in (
        reward_of(lambda completion: said),
        reward_of(lambda completions, **kwargs: [said]),
        reward_of(lambda data_source, solution_str, ground_truth, extra_info: said),
    ):
        assert (type(found), found) == (float, reward)


@pytest.mark.parametrize("said", [[0.5], (0.5,), np.array([0.5]), torch.tensor([0.5]), torch.tensor([[0.5]])])
def test_what_counts_as_a_list_of_one(said: Any) -> None:
    assert reward_of(lambda completions: said) == 0.5


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (float("nan"), "gave nan for"), (float("-inf"), "gave -inf for"), (np.float32("nan"), "gave nan for"),
        (torch.tensor(float("inf")), "gave inf for"), (10**400, "gave 1000"), (-1e39, "gave -1e+39"),
        ("0.5", "gave str '0.5' for"), ("", "gave str '' for"), (b"1", "gave bytes"), ([0.5], "gave list [0.5]"),
        ((), "gave tuple ()"), (1j, "complex 1j"),
        (np.zeros(2), "gave ndarray of several numbers"), (torch.zeros(0), "gave Tensor of several numbers"),
        (np.array("a"), "gave str 'a'"), ({}, "gave a dict without 'score' ([])"),
        ({"acc": 1.0}, "without 'score' (['acc'])"),
        ({"score": "1"}, "gave str '1'"), ({"score": 1, "feedback": ["x"]}, "gave feedback that is no text (['x'])"),
        (Grade(float("nan")), "gave nan"), (Grade("1"), "gave str '1'"), (object, "gave type <class 'object'>"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_is_no_reward_is_named_with_function_place_and_example(said: Any, shown: str) -> None:
    def one(completion: str) -> Any:
        return said

    def many(completions: list[str]) -> Any:
        return [said]

    for function in (one, many):
        message = refusal(function)
        assert shown in message
        assert f"{function.__qualname__} ({line_of(function)}) gave" in message
        assert "for example rows:7; give " in message
        assert len(message) < 1000


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ([], "0 rewards for one completion"), ([1.0, 0.0], "2 rewards for one completion"), (1.0, "float 1.0"),
        (None, "NoneType None"), ("1", "str '1'"), ({"score": 1.0}, "dict {'score': 1.0}"),
        (torch.tensor(1.0), "Tensor"), ((one for one in [1.0]), "generator"), (Grade(1.0), "Grade"),
    ],
)  # fmt: skip
def test_trls_function_must_give_a_list_of_one(said: Any, shown: str) -> None:
    message = refusal(lambda completions: said)
    assert f"gave {shown}" in message
    assert "for example rows:7; give a list of one reward" in message


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    def item(self) -> float:
        raise RuntimeError("no")


def test_a_result_that_cannot_even_be_shown_is_refused() -> None:
    assert "gave Hostile of several numbers (Hostile) for example rows:7" in refusal(
        lambda completion: Hostile()
    )
    assert "gave list [" in refusal(lambda completion: ["x\n"] * 10_000)


def test_verdicts_tell_right_wrong_and_no_reward() -> None:
    rewarded = Rewarded(Two(), lambda completion: eval(completion))
    for said in ("1", "0.5", "0.49", "-1", "None", "{'score': 3}"):
        grade = rewarded.grade(rewarded.train(0), said)
        assert grade.correct == (grade.reward >= 0.5)
    with pytest.raises(UserError):
        rewarded.grade(rewarded.train(0), "'x'")
    assert rewarded.verdicts == {Verdict.RIGHT: 3, Verdict.WRONG: 2, Verdict.NO_REWARD: 1}
    assert not rewarded.task.verdicts


def test_feedback_and_claim_reach_the_teacher() -> None:
    given = Grade(0.0, feedback="Count again.", claim="5")
    assert Rewarded(Two(), lambda completion: given).grade(example_of(), "x") == given
    by_dict = Rewarded(Two(), lambda completion: {"score": 0, "feedback": "Count again."})
    assert by_dict.grade(example_of(), "x") == Grade(0.0, "Count again.", None)
    assert judged({"score": 1, "feedback": ""}) == (Verdict.RIGHT, Grade(1.0))
    assert judged(Grade(1.0), claim="4")[1].claim == "4"


def test_the_claim_is_read_in_the_tasks_own_answer_format(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"problem": "2 + 2?", "solution": "Count."}\n')
    task = open_task(str(path), reward=RewardFunction.of(lambda completion: 1))
    assert task.grade(task.train(0), r"so \boxed{4}").claim == "4"
    assert task.grade(task.train(0), "so 4").claim is None


# --- around the task ----------------------------------------------------------------------------------------------


def test_everything_else_is_the_tasks() -> None:
    task = Two(wording={"solution": "{problem}"})
    rewarded = Rewarded(task, lambda completion: 1)
    assert (rewarded.name, rewarded.wording) == ("two", task.wording)
    assert rewarded.train(3) is task.example
    assert [one.key for one in rewarded.held_out(5)] == ["rows:8"]
    assert rewarded.describe() == {"source": "two", "verifier": str(rewarded.reward)}
    with pytest.raises(AttributeError, match="no_such"):
        _ = rewarded.no_such
    assert copy.copy(rewarded).name == copy.deepcopy(rewarded).name == "two"


def test_an_annotator_stays_one() -> None:
    from selfteach.training.text.annotate import Annotator

    tutor = open_task("tutor")
    assert isinstance(Rewarded(tutor, lambda completion: 1), Annotator)
    one = OneQuestion(Rewarded(tutor, lambda completion: 1), 0)
    assert isinstance(one, Annotator)
    assert callable(inspect.getattr_static(one, "annotate"))  # where isinstance looks from Python 3.12 on
    assert not isinstance(Rewarded(Two(), lambda completion: 1), Annotator)


def test_a_task_of_any_kind_can_be_rewarded() -> None:
    for name in ("table", "gym:chain_sum"):
        task = open_task(
            name, seed=1, reward=RewardFunction.of(lambda completion, answer: answer in completion)
        )
        example = task.train(0)
        assert example == open_task(name, seed=1).train(0)
        assert task.grade(example, f"I say {example.private['answer']}").reward == 1.0
        assert task.verdicts == {Verdict.RIGHT: 1}


def test_one_question_is_rewarded_too() -> None:
    task = open_task("table", options=TaskOptions(only=2), reward=RewardFunction.of(lambda completion: 0.75))
    assert task.train(5) == open_task("table").held_out(3)[2]
    assert task.grade(task.train(0), "x").reward == 0.75
    assert task.verdicts == {Verdict.RIGHT: 1}


# --- mistakes -----------------------------------------------------------------------------------------------------


def test_an_unmatched_parameter_is_refused_before_anything_is_graded() -> None:
    def reward(completion: str, tests: str) -> float:
        return 1.0

    with pytest.raises(UserError) as error:
        Rewarded(Two(), reward)
    assert str(error.value) == (
        f"reward {reward.__qualname__} ({line_of(reward)}): nothing to give its parameter 'tests' for example rows:7; "
        "known: answer, completion, data_source, example, extra_info, ground_truth, hint, problem, prompt, solution, "
        "solution_str"
    )


@pytest.mark.parametrize("name", ["completion_ids", "trainer_state", "completion", "log_metric"])
def test_trls_parameters_that_only_its_trainer_has_are_refused_by_name(name: str) -> None:
    message = refusal(eval(f"lambda completions, {name}: [1.0]"))
    assert f"nothing to give its parameter '{name}'" in message
    assert (
        "known: answer, completions, data_source, extra_info, ground_truth, hint, prompts, solution"
        in message
    )


def test_a_ground_truth_without_an_answer_is_refused() -> None:
    task = Two(example_of(private={"solution": "Count."}))
    assert "'ground_truth'" in refusal(lambda data_source, solution_str, ground_truth: 1, task)


@pytest.mark.parametrize("function", [lambda: 1.0, lambda text: 1.0, lambda answer, *rest: 1.0])
def test_a_function_that_never_sees_the_text_is_told_what_to_call_it(function: Any) -> None:
    assert "never sees the model's text: call the parameter for it completion" in refusal(function)


async def awaited(completion: str) -> float:
    return 1.0


class Awaited:
    async def __call__(self, completion: str) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gym:gcd", "reward 'gym:gcd' is no function: write path/to/file.py:NAME or package.module:NAME"),
        ("os.path:sep", "reward os.path:sep is of type str: give one function"),
        ([awaited], "is of type list: give one function"),
        (3, "reward 3 is of type int"),
        (Weighted, "is a class: give a function, or an object that can be called"),
        (awaited, "is async: give a plain function"),
        (partial(awaited), "is async"),
        (Awaited(), "is async"),
        (dict.update, "its parameters are unknown; wrap it in a function"),
    ],
)
def test_what_is_no_reward_function_is_refused(given: Any, said: str) -> None:
    assert said in refusal(given)


class Stop(BaseException):
    pass


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError("a\nb"), "ZeroDivisionError: a b"), (KeyError("tests"), "KeyError: 'tests'"),
        (SystemExit(3), "SystemExit: 3"), (GeneratorExit(), "GeneratorExit"), (Stop("now"), "Stop: now"),
        (Mute(), "Mute"), (asyncio.CancelledError(), "CancelledError"), (UserError("my own"), "my own"),
        (ValueError("x" * 5000), "ValueError: xxx"), (MemoryError(), "MemoryError"),
    ],
)  # fmt: skip
def test_whatever_the_function_raises_is_told_with_line_and_example(error: BaseException, said: str) -> None:
    def one(completion: str) -> float:
        raise error

    def many(completions: list[str]) -> list[float]:
        return [one(completions[0])]

    for function in (one, many):
        message = refusal(function)
        assert f"reward {function.__qualname__} failed on example rows:7: {said}" in message
        assert message.endswith(f"({line_of(one, 1)})")
        assert len(message) < 1000


def test_an_error_in_a_library_names_the_users_line() -> None:
    import json

    def reward(completion: str) -> float:
        return float(json.loads(completion))

    assert refusal(reward).endswith(f"({line_of(reward, 1)})")
    assert refusal(partial(reward)).endswith(f"({line_of(reward, 1)})")


def test_a_recursion_without_end_is_told() -> None:
    def reward(completion: str) -> float:
        return reward(completion)

    assert f"RecursionError: maximum recursion depth exceeded ({line_of(reward, 1)})" in refusal(reward)


def test_ctrl_c_in_the_function_interrupts() -> None:
    def reward(completion: str) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reward_of(reward)
