"""Views of one private field, or of the beginning of the solution (cards 06, 19)."""

from __future__ import annotations

import pytest

from selfteach.roles.private import BEGINNING_ONLY, Field, Partial, segments, without_boxes
from selfteach.roles.view import Answer, Solution
from selfteach.task.example import Example, Message
from selfteach.task.trajectory import Trajectory

SOLUTION = "First, 2+2.\n\nThat is \\boxed{4}, I think.\n\nCheck: 4-2=2.\n\nSo \\boxed{4}."
ARENA = {"partial": "{problem}|{partial}>{answer}", "answer": "{problem}|>{answer}"}


def rollout(solution: str = SOLUTION, **private: str) -> Trajectory:
    told = {"solution": solution, "answer": "4", **private}
    example = Example("k", (Message(role="user", content="2+2?"),), {k: v for k, v in told.items() if v})
    return Trajectory.written(example, [1], [2], "4", group=0, finished=True)


def shown(view: Partial | Field, one: Trajectory, wording: dict[str, str] | None = None) -> str:
    messages = view(one, [one], wording or {})
    assert messages is not None
    return messages[-1]["content"]


@pytest.mark.parametrize(
    ("solution", "parts"),
    [
        ("a\nb\n\nc\n \nd", ["a\nb\n\n", "c\n \n", "d"]),
        ("1. one\n2. two\n   more\n3) three", ["1. one\n", "2. two\n   more\n", "3) three"]),
        ("It is so. Is it? Yes!", ["It is so. ", "Is it? ", "Yes!"]),
        ("2541", ["2", "5", "4", "1"]),
    ],
)
def test_a_solution_is_cut_at_blank_lines_else_items_else_sentences_else_characters(
    solution: str, parts: list[str]
) -> None:
    assert segments(solution) == parts
    assert "".join(segments(solution)) == solution


@pytest.mark.parametrize("wording", [{}, {"solution": "{problem}|{solution}"}])
def test_the_whole_share_is_the_solution_view_byte_for_byte(wording: dict[str, str]) -> None:
    one = rollout()
    assert Partial(1.0)(one, [one], wording) == Solution()(one, [one], wording)


@pytest.mark.parametrize("wording", [{}, ARENA])
def test_no_share_is_the_answer_view(wording: dict[str, str]) -> None:
    one = rollout()
    assert Partial(0.0)(one, [one], wording) == Answer()(one, [one], wording)


@pytest.mark.parametrize(
    ("share", "m", "count"),
    [(0.5, 5, 2), (0.99, 5, 4), (0.29, 100, 29), (0.1, 5, 0), (1.0, 5, 5), (0.0, 5, 0)],
)
def test_rounded_down_the_floor_of_share_times_m_segments_are_shown(share: float, m: int, count: int) -> None:
    assert Partial(share).count(m) == count


@pytest.mark.parametrize(
    ("share", "m", "count"), [(0.5, 5, 3), (0.5, 4, 2), (0.9, 4, 3), (1.0, 4, 3), (0.5, 1, 0)]
)
def test_rounded_up_never_all_segments_are_shown(share: float, m: int, count: int) -> None:
    assert Partial(share, "up").count(m) == count


def test_a_part_of_the_solution_comes_with_the_final_answer() -> None:
    text = shown(Partial(0.25), rollout(solution="Add.\n\nCarry.\n\nCheck.\n\nDone."))
    assert "Add." in text
    assert "Carry." not in text
    assert "The final answer is 4." in text


def test_in_a_worlds_own_wording_too() -> None:
    assert shown(Partial(0.5), rollout(solution="2541"), ARENA) == "2+2?|25>4"


def test_a_template_without_the_answer_hides_boxed_answers_as_well() -> None:
    view = Partial(0.5, "up", BEGINNING_ONLY)
    text = shown(view, rollout())
    assert "That is …, I think." in text
    assert "boxed" not in text
    assert "4" not in text
    assert view.fields == ("solution",)


def test_a_box_may_hold_braces() -> None:
    assert without_boxes(r"so \boxed{\frac{1}{2}} and \boxed {3}.") == "so … and …."
    assert without_boxes(r"an open \boxed{3") == r"an open \boxed{3"


@pytest.mark.parametrize("missing", [{"solution": ""}, {"answer": ""}])
def test_without_a_field_that_it_tells_it_is_unavailable(missing: dict[str, str]) -> None:
    one = rollout(**missing)
    assert Partial(0.5)(one, [one], {}) is None


@pytest.mark.parametrize("settings", [{"share": 1.1}, {"rounding": "even"}])
def test_an_impossible_share_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Partial(**settings)


def test_a_field_of_any_name_is_shown_under_the_tasks_wording_of_it() -> None:
    one = rollout(rumor="it is {5}")
    assert "here is a rumor: it is {5}" in shown(Field("rumor"), one)
    assert shown(Field("rumor"), one, {"rumor": "{problem}~{rumor}"}) == "2+2?~it is {5}"
    assert Field("hint")(one, [one], {}) is None
