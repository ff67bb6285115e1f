"""A run's inputs are told apart: by content, not by name, place or time."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from selfteach.training.inputs import fingerprint, of_object


def score(completion: str, weight: float = 1.0) -> float:
    return weight


def closing(threshold: float) -> Any:
    return lambda completion: float(len(completion) > threshold)


class Judge:
    bonus = 1.0

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, completion: str) -> float:
        return self.weight * self.bonus

    def method(self, completion: str) -> float:
        return self.weight


class Generous(Judge):
    bonus = 2.0

    def __call__(self, completion: str) -> float:
        return self.weight * self.bonus


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (partial(score, weight=0.5), partial(score, weight=0.5), partial(score, weight=0.25)),
        (closing(1), closing(1), closing(2)),
        (Judge(0.5), Judge(0.5), Judge(0.25)),
        (Judge(0.5), Judge(0.5), Generous(0.5)),
        (Judge(0.5).method, Judge(0.5).method, Judge(0.25).method),
        (lambda c, w=1: w, lambda c, w=1: w, lambda c, w=2: w),
        ([{"a": 1}], [{"a": 1}], [{"a": 2}]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 2}], [{"a": 2}, {"a": 1}]),
    ],
    ids=["partial", "closure", "object", "class", "method", "default", "rows", "order"],
)
def test_objects_that_do_the_same_are_equal_and_others_are_not(one: Any, same: Any, other: Any) -> None:
    assert of_object(one) == of_object(same)
    assert of_object(one) != of_object(other)


def test_a_value_of_the_module_that_code_reads_is_part_of_it() -> None:
    def reward(completion: str) -> float:
        return FACTOR  # type: ignore[name-defined, no-any-return]  # noqa: F821

    found = [of_object(FunctionType(reward.__code__, {"FACTOR": factor})) for factor in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("changed", ["train/data-00000.arrow", "dataset_dict.json", "deep/er/rows.jsonl"])
def test_every_file_of_a_folder_of_data_counts(tmp_path: Path, changed: str) -> None:
    for name in ("dataset_dict.json", "train/state.json", "train/data-00000.arrow", "deep/er/rows.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    (tmp_path / changed).write_text("other")
    assert fingerprint(tmp_path) != before


def test_what_stands_beside_a_model_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("notes")
    assert fingerprint(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"others!")
    assert fingerprint(tmp_path) != before


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    code = (
        "from selfteach.training.inputs import of_object\n"
        "WORDS, TABLE = {'a', 'b', 'c', 'd'}, {1: object(), 'x': {2, 3}}\n"
        "def reward(completion):\n"
        "    return completion in {'right', 'true', 'yes', 'sure'} or completion in WORDS or TABLE\n"
        "print(of_object(reward))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1
