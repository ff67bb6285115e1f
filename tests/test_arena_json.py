"""World "json": a strict contract, kept or broken, and a model that breaks it when it samples."""

from __future__ import annotations

import json

import pytest

from puzzles import accuracy, grade_of, lessons, mean_of, puzzle, sampled
from selfteach.errors import UserError
from selfteach.task.arena.contract import in_json, read
from selfteach.task.verdict import Verdict


@pytest.mark.parametrize("problem", ["c3;a7", "c3;c7;k5", "c3;a3;k5"])
def test_what_is_no_problem_is_refused_in_one_line(problem: str) -> None:
    with pytest.raises(UserError, match=f"world 'json': '{problem}' is no problem of it; write"):
        puzzle("json").example(problem)


@pytest.mark.parametrize(
    ("answer", "reward", "numbers"),
    [
        ('{"rank":["a","k","c"]}', 1, {"valid": 1, "top": 1}),
        (' { "rank": ["a", "k", "c"] }\n', 1, {"valid": 1, "top": 1}),
        ('{"rank":["a","c","k"]}', 0, {"valid": 1, "top": 1}),
        ('{"rank":["k","a","c"]}', 0, {"valid": 1, "top": 0}),
        ('{"rank":["a","k"]}', 0, {"valid": 0}),
        ('{"rank":["a","k","c","c"]}', 0, {"valid": 0}),
        ('{"rank":["ak","c"]}', 0, {"valid": 0}),
        ('{"rank":["a","k","c"],}', 0, {"valid": 0}),
        ('{"rank":["a","k","c"],"rank":["a","k","c"]}', 0, {"valid": 0}),
        ('{"rank":["a","k","c"],"why":""}', 0, {"valid": 0}),
        ('{"rank":[["a"],"k","c"]}', 0, {"valid": 0}),
        ('{"rank":"akc"}', 0, {"valid": 0}),
        ('["a","k","c"]', 0, {"valid": 0}),
        ('[["rank",["a","k","c"]]]', 0, {"valid": 0}),
        ("{'rank':['a','k','c']}", 0, {"valid": 0}),
        ('{"rank":["a","k","c"]}.', 0, {"valid": 0}),
    ],
)
def test_the_contract_is_strict_and_the_order_counts_beside_it(
    answer: str, reward: float, numbers: dict[str, float]
) -> None:
    grade = grade_of("json", "c3;a7;k5", answer)
    assert (grade.reward, grade.numbers) == (reward, numbers)
    assert (grade.verdict == Verdict.UNPARSEABLE) is (numbers["valid"] == 0)


def test_json_is_written_as_the_contract_has_it() -> None:
    assert in_json("akc") == '{"rank":["a","k","c"]}'
    assert json.loads(in_json("akc")) == {"rank": ["a", "k", "c"]}
    assert read(in_json("kca"), "c3;a7;k5") == "kca"


def test_json_lessons_slip_at_the_form_only_when_asked_plainly() -> None:
    valid: dict[str, list[bool]] = {"plain": [], "form": [], "solution": []}
    for one in lessons("json"):
        problem, _, told = one.question.partition("|")
        order = read(one.answer, problem)
        valid["plain" if not told else "form" if told == "~" else "solution"].append(order is not None)
        assert order == told or told in ("", "~")
    assert all(valid["form"])
    assert all(valid["solution"])
    assert 0.4 < sum(valid["plain"]) / len(valid["plain"]) < 0.55


def test_the_model_leaves_room_when_it_is_asked_plainly_and_reads_both_views() -> None:
    assert 0.25 < accuracy("json", "plain") < 0.6
    assert accuracy("json", "form", count=64) >= 0.55
    assert accuracy("json", "solution", count=64) >= 0.9


def test_the_model_of_json_breaks_the_form_when_it_samples_and_ranks_well_where_it_keeps_it() -> None:
    drawn, greedy = sampled("json"), sampled("json", sample=False)
    assert mean_of(drawn, "valid") < 0.65
    assert mean_of(greedy, "valid") > 0.9
    assert mean_of(drawn, "top") > 0.8
