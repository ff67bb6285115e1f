"""Answers are compared by what they are: a table of graded pairs, types by how references look, hostile text."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from selfteach.task.answer import extract_answer
from selfteach.task.answer_type import infer_type, split_list, types_of
from selfteach.task.compare import compare
from selfteach.task.math_answer import check_math, is_readable
from selfteach.task.number import read_number
from selfteach.task.plain import latex_of, unframed
from selfteach.task.verdict import Verdict

LINES = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "graded_pairs.jsonl").read_text("utf-8").splitlines()
]
PAIRS = [line for line in LINES if "gold" in line]
GROUPS = list(dict.fromkeys(line["group"] for line in LINES))
REFUSED = {
    ("7", "7 \\text{ (seven)}"),  # remarks in parentheses
    ("7", "7 (units)"),
    ("9", "nine"),  # numbers in words
    ("\\sin(30^\\circ)", "1/2"),  # degrees in a function
}
"""Right answers that are graded wrong, and known to be."""


def verdict(pair: dict[str, Any]) -> Verdict:
    return check_math(pair["answer"], pair["gold"], 60, pair.get("type"))


@pytest.mark.parametrize("group", GROUPS)
def test_wrong_answers_are_never_graded_right(group: str) -> None:
    wrong = [pair for pair in PAIRS if pair["group"] == group and not pair["right"]]
    assert wrong
    assert [pair for pair in wrong if verdict(pair) is Verdict.RIGHT] == []


@pytest.mark.parametrize("group", GROUPS)
def test_right_answers_are_graded_right_but_for_the_known_ones(group: str) -> None:
    right = [pair for pair in PAIRS if pair["group"] == group and pair["right"]]
    refused = {(pair["gold"], pair["answer"]) for pair in right if verdict(pair) is not Verdict.RIGHT}
    assert refused <= REFUSED


def test_the_table_is_large_and_its_known_refusals_are_few() -> None:
    right = [pair for pair in PAIRS if pair["right"]]
    assert len(PAIRS) >= 300
    assert len(REFUSED) <= 0.01 * len(right)
    assert {(pair["gold"], pair["answer"]) for pair in right} >= REFUSED


def test_every_group_has_a_note() -> None:
    assert all(line["note"] for line in LINES if "gold" not in line)
    assert {line["group"] for line in LINES if "note" in line} == set(GROUPS)


def test_every_reference_of_the_table_can_be_read() -> None:
    known = (pair for pair in PAIRS if pair["right"])
    unreadable = {p["gold"] for p in known if not is_readable(p["gold"], 60, p.get("type"))}
    assert unreadable == set()


@pytest.mark.parametrize("gold", ["He has 3.\n#### 5 \\frac{", "\\frac{\\frac{", "x ==> }{", ""])
def test_a_reference_that_cannot_be_read_is_known(gold: str) -> None:
    assert not is_readable(gold)


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("7", "number"),
        ("-3.5", "number"),
        ("\\frac{1}{2}", "number"),
        ("5 cm", "number"),
        ("50\\%", "number"),
        ("1011_2", "number"),
        ("2 1/2", "number"),
        ("2\\sqrt{3}", "expression"),
        ("ab", "expression"),
        ("xyz", "expression"),
        ("nRT", "expression"),
        ("x=5", "equation"),
        ("x<5", "equation"),
        ("[1,2)", "interval"),
        ("(-\\infty,2)\\cup(3,\\infty)", "interval"),
        ("(1,2)", "tuple"),
        ("[1,2,3]", "tuple"),
        ("\\{1,2\\}", "set"),
        ("1,2", "set"),
        ("x=1 or x=2", "set"),
        ("\\pm 2", "set"),
        ("1,234", "number"),
        ("(1,2),(3,4)", "set"),
        ("B", "choice"),
        ("(B)", "choice"),
        ("B. 7", "choice"),
        ("CAB", "text"),
        ("blue", "text"),
        ("no solution", "text"),
        ("on", "text"),
        ("10:30", "text"),
        ("2024-01-05", "text"),
    ],
)
def test_type_is_inferred_from_how_the_reference_is_written(reference: str, kind: str) -> None:
    assert infer_type(reference) == kind


def test_types_are_counted() -> None:
    assert types_of(["1", "2", "blue"]) == {"number": 2, "text": 1}


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("1,2", ["1", "2"]),
        ("1,234", ["1,234"]),
        ("1,234, 5", ["1,234", "5"]),
        ("(1,2),(3,4)", ["(1,2)", "(3,4)"]),
        ("1 and 2", ["1", "2"]),
        ("\\text{for}", ["\\text{for}"]),
        ("sand", ["sand"]),
    ],
)
def test_lists_are_split_at_their_top_level(text: str, items: list[str]) -> None:
    assert split_list(text) == items


HOSTILE = {
    "a tower of powers": "9**9**9",
    "a tower in LaTeX": "9^{9^{9^{9}}}",
    "100 kB": "7" * 100_000,
    "100 kB of words": "word " * 20_000,
    "a million digits": "1" * 1_000_000,
    "a million decimals": "0." + "3" * 1_000_000,
    "2000 digits to the power of itself": "9" * 900 + "^{" + "9" * 900 + "}",
    "a huge exponent": "1e999999999",
    "a huge exponent below nought": "1e-999999999",
    "deep parentheses": "(" * 900 + "7" + ")" * 900,
    "deep braces": "{" * 900 + "7" + "}" * 900,
    "deep roots": "sqrt(" * 300 + "7" + ")" * 300,
    "unclosed": "(" * 1900,
    "closed only": ")" * 1900,
    "a list without end": ",".join("7" for _ in range(900)),
    "plus and minus without end": "\\pm " * 450,
    "null bytes": "\x007\x00" * 500,
    "half a surrogate pair": "\ud835",
    "directions": "\u202e7\u202d" * 500,
    "combining marks": "7" + "\u0301" * 1900,
    "fractions": "½" * 1900,
    "superscripts": "7" + "⁹" * 1900,
    "units": "7" + " cm" * 600,
    "commands": "\\text{" * 300 + "}" * 300,
    "equals": "x=" * 900 + "7",
    "factorials": "7" + "!" * 1000,
    "spaces": " " * 1900 + "7 7",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("gold", ["8", "blue", "\\{1,2\\}", "(1,2)", "[1,3)", "B. 7", "x^2+1", "1,2,3"])
def test_hostile_answer_is_never_right_whatever_the_type(name: str, gold: str) -> None:
    assert check_math(HOSTILE[name], gold, seconds=0.6) in (
        Verdict.WRONG,
        Verdict.UNPARSEABLE,
        Verdict.TIMED_OUT,
        Verdict.NO_ANSWER,
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_reference_does_no_harm(name: str) -> None:
    assert check_math("8", HOSTILE[name], seconds=0.6) is not Verdict.RIGHT
    is_readable(HOSTILE[name], seconds=0.6)


@pytest.mark.parametrize("name", HOSTILE)
def test_reading_hostile_text_takes_little_memory(name: str) -> None:
    text = HOSTILE[name][:2000]
    tracemalloc.start()
    try:
        infer_type(text)
        read_number(latex_of(text))
        split_list(latex_of(text))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("$7$", "7"),
        ("**7**", "7"),
        ("\\boxed{7}", "7"),
        ("$\\boxed{\\text{7.}}$", "7"),
        ("2**3", "2**3"),
        ("$1$ and $2$", "$1$ and $2$"),
        ("\\text{a} or \\text{b}", "\\text{a} or \\text{b}"),
    ],
)
def test_frames_are_taken_off_that_enclose_all(text: str, bare: str) -> None:
    assert unframed(text) == bare


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("1:2:3", "2:4:6", True),
        ("0:1:2", "0:3:6", True),
        ("0:1:2", "0:5:9", False),
        ("0:0:0", "1:2:3", False),
        ("1:2:3", "0:0:0", False),
        ("-1:-2:-3", "1:2:3", True),
    ],
)
def test_ratios_are_equal_up_to_a_factor_that_is_not_zero(answer: str, reference: str, right: bool) -> None:
    assert compare(answer, reference) is right


@pytest.mark.parametrize(
    ("text", "form", "found"),
    [
        (r"<think>\boxed{3}</think> so it is \boxed{4}", "boxed", "4"),
        (r"<think>\boxed{3}</think> the answer is 4", "boxed", None),
        ("<think>#### 3</think>\n#### 4", "hashes", "4"),
        ("<think>7</think> It is 8", "number", "8"),
        (r"<think>I never stop: \boxed{3}", "boxed", "3"),
    ],
)
def test_what_a_closed_thought_holds_is_no_answer(text: str, form: Any, found: str | None) -> None:
    assert extract_answer(text, form) == found
