"""Segments, flat columns, edits, forks, and rows."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfteach.task.annotation import Annotation
from selfteach.task.example import Example, Grade, Message
from selfteach.task.segment import EDIT, UNKNOWN, Segment
from selfteach.task.trajectory import Trajectory

EXAMPLE = Example("k", (Message(role="user", content="2+2?"),), {"answer": "4"}, tag="sum")


def two_turns(**more: object) -> Trajectory:
    """The student calls a tool, reads what it says, and answers."""
    segments = (
        Segment([1, 2, 3], behavior=[-0.1, -0.2, -0.3]),
        Segment([4, 5], "tool", trains=False),
        Segment([6, 7], behavior=[-0.6, -0.7], turn=1),
    )
    whole = Trajectory(EXAMPLE, [90, 91], segments, "the answer", 0, True, grade=Grade(1.0), trajectory=8)
    return replace(whole, **more)  # type: ignore[arg-type]


NAN = pytest.approx(math.nan, nan_ok=True)


def test_flat_columns_run_over_all_segments() -> None:
    one = two_turns()
    assert one.ids == [1, 2, 3, 4, 5, 6, 7]
    assert one.mask == [True] * 3 + [False] * 2 + [True] * 2
    assert one.behavior == [-0.1, -0.2, -0.3, NAN, NAN, -0.6, -0.7]
    assert one.turn == [0, 0, 0, 0, 0, 1, 1]
    assert one.authors == ["student"] * 3 + ["tool"] * 2 + ["student"] * 2


def test_it_is_sampled_where_every_trained_token_has_a_behavior_log_prob() -> None:
    assert two_turns().sampled
    assert not Trajectory.written(EXAMPLE, [90], [1], "a", group=0, finished=True).sampled


def test_one_turn_of_text_is_one_segment() -> None:
    one = Trajectory.written(
        EXAMPLE, [90], [1, 2], "a", group=3, finished=False, behavior=[-1.0, -2.0], origin="teacher"
    )
    assert one.segments == (Segment([1, 2], "teacher", behavior=[-1.0, -2.0]),)
    assert (one.origin, one.group, one.finished, one.turn) == ("teacher", 3, False, [0, 0])


@pytest.mark.parametrize(
    "columns",
    [{"marks": {"key": [True]}}, {"numbers": {"score": [1.0]}}, {"log_probs": {"teacher": [0.0] * 8}}],
)
def test_a_column_of_another_length_is_refused_by_name(columns: dict) -> None:  # type: ignore[type-arg]
    (name,) = next(iter(columns.values()))
    with pytest.raises(ValueError, match=name):
        two_turns(**columns)


def test_a_behavior_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="behavior"):
        Segment([1, 2], behavior=[-1.0])


def test_turns_that_go_back_and_forks_outside_are_refused() -> None:
    with pytest.raises(ValueError, match="turns"):
        two_turns(segments=(Segment([1], turn=1), Segment([2], turn=0)))
    with pytest.raises(ValueError, match="fork"):
        two_turns(fork=9)


# --- changed copies ---------------------------------------------------------------------------------------------


def test_an_edit_voids_the_behavior_of_all_it_puts_in_and_drops_what_was_said_of_the_old_tokens() -> None:
    one = two_turns(
        marks={"key": [True] * 7},
        numbers={"rate": 0.5, "score": [1.0] * 7},
        log_probs={"teacher": [-1.0] * 7},
        annotation=Annotation("sum"),
    )
    edited = one.edited(2, [30, 31], text="edited", finished=True)
    assert edited.ids == [1, 2, 30, 31]
    assert edited.behavior == [-0.1, -0.2, NAN, NAN]
    assert edited.authors == ["student", "student", EDIT, EDIT]
    assert (edited.origin, edited.text, edited.sampled) == (EDIT, "edited", False)
    assert edited.numbers == {"rate": 0.5}
    assert (edited.grade, edited.annotation, edited.marks, edited.log_probs) == (None, None, {}, {})
    assert one.ids == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("begin", "turn"), [(0, 0), (3, 0), (5, 1), (7, 1)])
def test_an_edit_stands_in_the_turn_where_it_begins(begin: int, turn: int) -> None:
    assert two_turns().edited(begin, [30], text="", finished=True).turn[-1] == turn


def test_an_edit_behind_a_tools_answer_is_the_next_turn() -> None:
    answered = two_turns().cut(1, text="")
    assert answered.edited(5, [30], text="", finished=True).turn == [0, 0, 0, 0, 0, 1]


def test_an_edit_within_a_tools_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="begin is 4, within what 'tool' answered"):
        two_turns().edited(4, [30], text="", finished=True)


@pytest.mark.parametrize("finished", [True, False])
def test_an_edit_says_anew_whether_the_trajectory_is_finished(finished: bool) -> None:
    one = two_turns(finished=not finished)
    assert one.edited(6, [30], text="", finished=finished).finished is finished


@pytest.mark.parametrize("finished", [True, False])
def test_a_fork_behind_the_last_turn_ends_as_that_turn_did(finished: bool) -> None:
    assert two_turns(finished=finished).cut(2, text="").finished is finished


def test_an_edit_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="begin"):
        two_turns().edited(8, [1], text="", finished=True)


def test_a_segment_is_appended_with_everything_unknown_about_it() -> None:
    one = two_turns(marks={"key": [True] * 7}, numbers={"score": [1.0] * 7, "rate": 0.5})
    more = one.extended(Segment([8], "tool", trains=False, turn=1), "the answer!", finished=False)
    assert more.ids[-1] == 8
    assert more.marks["key"] == [True] * 7 + [False]
    assert more.numbers == {"score": [1.0] * 7 + [NAN], "rate": 0.5}
    assert (more.grade, more.text, more.finished) == (None, "the answer!", False)


def test_a_replay_up_to_a_turn_keeps_what_the_environment_said_to_it() -> None:
    fork = two_turns(marks={"key": [True] * 7}).cut(1, text="call", parent="k/8")
    assert fork.ids == [1, 2, 3, 4, 5]
    assert fork.marks["key"] == [True] * 5
    assert (fork.parent, fork.fork, fork.finished, fork.grade) == ("k/8", 5, False, None)
    assert two_turns().cut(0, text="").ids == []
    with pytest.raises(ValueError, match="turns"):
        two_turns().cut(3, text="")


def test_numbers_are_added_by_name() -> None:
    one = two_turns().with_numbers(rate=0.25).with_numbers(score=[0.0] * 7)
    assert one.numbers == {"rate": 0.25, "score": [0.0] * 7}


# --- rows -------------------------------------------------------------------------------------------------------


def test_turns_that_extend_one_another_are_one_row() -> None:
    one = two_turns()
    assert one.rows() == [one]


def test_turns_that_do_not_are_rows_of_their_own_after_the_ids_they_were_sampled_after() -> None:
    one = two_turns(
        marks={"key": [True] * 3 + [False] * 4}, numbers={"rate": 0.5, "reward": [1.0] * 5 + [2.0] * 2}
    )
    last = replace(one.segments[2], context=[90, 91, 80])  # the template strips the thoughts of turn 0
    first, second = replace(one, segments=(*one.segments[:2], last)).rows()
    assert (first.prompt_ids, first.ids) == ([90, 91], [1, 2, 3, 4, 5])
    assert (second.prompt_ids, second.ids) == ([90, 91, 80], [6, 7])
    assert (second.turn, second.mask, second.behavior) == ([1, 1], [True, True], [-0.6, -0.7])
    assert (first.marks["key"], second.marks["key"]) == ([True] * 3 + [False] * 2, [False] * 2)
    assert (first.numbers["reward"], second.numbers) == ([1.0] * 5, {"rate": 0.5, "reward": [2.0] * 2})
    assert first.trajectory == second.trajectory == 8
    assert first.rows() == [first]


def test_a_turn_without_a_context_of_its_own_follows_what_the_last_one_was_sampled_after() -> None:
    one = two_turns()
    first = replace(one.segments[0], context=[70])
    whole = replace(one, segments=(first, *one.segments[1:]))
    (row,) = whole.rows()
    assert (row.prompt_ids, row.ids) == ([70], one.ids)
    assert whole.next_context == [70, *one.ids]


def test_several_rows_need_the_trajectorys_number() -> None:
    one = two_turns(trajectory=None)
    with pytest.raises(ValueError, match="trajectory"):
        replace(one, segments=(replace(one.segments[0], context=[1]), *one.segments[1:])).rows()


# --- as JSON ----------------------------------------------------------------------------------------------------

FLOATS = st.floats(allow_nan=True, allow_infinity=False)
SEGMENTS = st.lists(
    st.builds(
        lambda pairs, author, trains, media, context: Segment(
            [token for token, _ in pairs], author, trains, [b for _, b in pairs], 0, tuple(media), context
        ),
        st.lists(st.tuples(st.integers(0, 99), FLOATS), max_size=3),
        st.sampled_from(["student", "tool", "teacher"]),
        st.booleans(),
        st.lists(st.sampled_from(["a.png", "b.wav"]), max_size=2),
        st.none() | st.lists(st.integers(0, 9), max_size=2),
    ),
    max_size=3,
)


@given(segments=SEGMENTS, rate=FLOATS, known=st.booleans())
def test_json_gives_it_back_exactly(segments: list[Segment], rate: float, known: bool) -> None:
    length = sum(len(one.ids) for one in segments)
    one = Trajectory(
        EXAMPLE,
        [90],
        tuple(segments),
        "é",
        2,
        False,
        grade=Grade(0.5, "near", None) if known else None,
        annotation=Annotation("sum", ((0, 1),), ()) if known else None,
        marks={"key": [True] * length},
        numbers={"rate": UNKNOWN if math.isnan(rate) else rate, "score": [UNKNOWN] * length},
        log_probs={"teacher": [-0.1] * length},
        pair=3,
        parent="k/1",
        fork=length,
        temperature=0.7,
        trajectory=4,
    )
    assert Trajectory.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False))) == one


def test_json_of_something_else_is_refused() -> None:
    row = two_turns().to_json()
    for wrong in ({"ids": [1]}, {**row, "more": 1}, {**row, "marks": {"key": [True]}}):
        with pytest.raises((KeyError, ValueError)):
            Trajectory.from_json(wrong)
