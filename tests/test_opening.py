"""Opening a task by its name."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from selfteach.errors import UserError
from selfteach.task.arena import WORLDS
from selfteach.task.files import FileTask
from selfteach.task.gym import GymTask
from selfteach.task.opening import HEEDED, TaskOptions, open_task

ROWS = """
{"problem": "1 + 1?", "solution": "Count.", "answer": "2"}
{"problem": "1 + 2?", "solution": "Count.", "answer": "3"}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "sums.jsonl"
    path.write_text(ROWS)
    return str(path)


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_world_opens_with_its_seed(name: str) -> None:
    assert open_task(name).name == name
    assert open_task(name, seed=1).train(0) != open_task(name, seed=2).train(0)


def test_world_comes_before_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table").mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_task("table").name == "table"


def test_gym_name_carries_its_settings() -> None:
    task = open_task("gym:chain_sum?min_terms=2&max_terms=2&allow_negation=true", seed=3)
    assert isinstance(task, GymTask)
    assert (task.dataset, task.seed) == ("chain_sum", 3)
    assert task.config == {"min_terms": 2, "max_terms": 2, "allow_negation": True}


def test_gym_settings_may_be_lists_and_words() -> None:
    task = open_task('gym:basic_arithmetic?operators=["%2B"]&whitespace=no_space')
    assert isinstance(task, GymTask)
    assert task.config == {"operators": ["+"], "whitespace": "no_space"}
    assert re.search(r"Calculate [-\d+()]+\.", task.train(0).problem)


def test_file_opens_with_seed_and_options(file: str) -> None:
    task = open_task(file, seed=5, options=TaskOptions(system_prompt="Be brief."))
    assert isinstance(task, FileTask)
    assert task.seed == 5
    assert task.train(0).prompt[0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("tabel", "did you mean table or trail?"),
        ("gcd", "did you mean gym:gcd"),
        ("sums.tsv", "if it is a file, give its path with .jsonl, .json, .csv or .parquet"),
        ("someone/some_set", "if it is on the hub, write hf:ID"),
        (
            "qqqqqq",
            "give one of ambiguous, calculator, chain, doors, facts, json, known, reverse, rule, secrets, stream, sums",
        ),
        ("gym:chain_sumo", "near: chain_sum"),
    ],
)
def test_unknown_name_is_answered_with_advice(name: str, advice: str) -> None:
    with pytest.raises(UserError, match=re.escape(advice)) as error:
        open_task(name)
    assert name.removeprefix("gym:") in str(error.value)


def test_missing_file_says_so() -> None:
    with pytest.raises(UserError, match=r"gone\.jsonl: there is no such file"):
        open_task("gone.jsonl")


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("table", {"system_prompt": "x"}),
        ("gym:gcd", {"problem_column": "q"}),
        ("gym:gcd", {"verifier": "exact"}),
        ("FILE", {"split": "test"}),
        ("FILE", {"revision": "main"}),
    ],
)
def test_option_the_source_does_not_heed_is_an_error(name: str, option: dict[str, str], file: str) -> None:
    with pytest.raises(UserError, match=f"does not heed {next(iter(option))}"):
        open_task(file if name == "FILE" else name, options=TaskOptions(**option))  # type: ignore[arg-type]


def test_every_option_is_heeded_by_some_source() -> None:
    assert frozenset().union(*HEEDED.values()) == {f.name for f in dataclasses.fields(TaskOptions)}


@pytest.mark.parametrize(
    "options",
    [
        {"prompt_template": "no place for it"},
        {"held_out_fraction": 0.0},
        {"held_out_fraction": 1.0},
        {"grade_seconds": 0.0},
        {"verifier": "guess"},
        {"answer_format": "xml"},
    ],
)
def test_impossible_option_is_named(options: dict[str, str]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        TaskOptions(**options)  # type: ignore[arg-type]


def test_braces_in_problem_and_template_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"problem": "{x} \\\\frac{1}{2} {problem}", "solution": "s", "answer": "2"}\n')
    options = TaskOptions(prompt_template="{problem} in \\boxed{}", instruction=False)
    assert open_task(str(path), options=options).train(0).problem == "{x} \\frac{1}{2} {problem} in \\boxed{}"
