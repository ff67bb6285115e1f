"""World "ambiguous": items of known uncertainty, a confidence that is scored, and a model that boasts."""

from __future__ import annotations

from random import Random

import pytest

from puzzles import accuracy, grade_of, lessons, mean_of, puzzle, sampled
from selfteach.errors import UserError
from selfteach.task.arena.ambiguous import CERTAINTY, in_words, truth
from selfteach.task.arena.arithmetic import exact
from selfteach.task.verdict import Verdict


@pytest.mark.parametrize("problem", ["u48:7@2", "q48:7@2;"])
def test_what_is_no_problem_is_refused_in_one_line(problem: str) -> None:
    with pytest.raises(UserError, match=f"world 'ambiguous': '{problem}' is no problem of it; write"):
        puzzle("ambiguous").example(problem)


def test_the_ordinary_result_is_right_as_often_as_the_kind_says() -> None:
    right: dict[str, list[bool]] = {letter: [] for letter in CERTAINTY}
    rng = Random(0)
    for _ in range(5000):
        problem = puzzle("ambiguous").draw(rng)
        right[problem[0]].append(truth(problem) == exact(int(problem[4]), problem[5], int(problem[6])))
    for letter, share in CERTAINTY.items():
        assert sum(right[letter]) / len(right[letter]) == pytest.approx(share, abs=0.06)


def test_a_stated_confidence_is_scored_against_what_was_right() -> None:
    problem = "q48:7@2"
    right, wrong = truth(problem), (truth(problem) + 1) % 10
    hit = grade_of("ambiguous", problem, in_words(problem, right, 0.7))
    miss = grade_of("ambiguous", problem, in_words(problem, wrong, 0.7))
    assert (hit.reward, miss.reward) == (1.0, 0.0)
    assert hit.numbers == pytest.approx(
        {"stated": 1.0, "confidence": 0.7, "brier": 0.09, "overconfidence": -0.3}
    )
    assert miss.numbers == pytest.approx(
        {"stated": 1.0, "confidence": 0.7, "brier": 0.49, "overconfidence": 0.7}
    )
    assert miss.feedback == f"it is {right}, not {wrong}"


def test_who_states_no_confidence_is_not_right_and_is_counted() -> None:
    right = truth("q48:7@2")
    for answer in (str(right), f"7@2={right}", str((right + 1) % 10)):
        grade = grade_of("ambiguous", "q48:7@2", answer)
        assert (grade.reward, grade.verdict) == (0.0, Verdict.UNPARSEABLE)
        assert grade.numbers == {"stated": 0.0}
    assert grade_of("ambiguous", "q48:7@2", f"{right}\nConfidence: 0.5").reward == 1.0


@pytest.mark.parametrize("text", ["0", "1", "0.5", "0.50", "1.00", "0.123"])
def test_any_confidence_between_0_and_1_is_read(text: str) -> None:
    assert grade_of("ambiguous", "q48:7@2", f"4\nConfidence: {text}").numbers["confidence"] == float(text)


@pytest.mark.parametrize(
    "text", ["", "1.01", "2", "-0.5", "nan", "0.5.", "50%", ".5", "1e-1", "٠.٥", "0.5\n0.6"]
)
def test_what_is_no_confidence_is_not_scored_as_one(text: str) -> None:
    grade = grade_of("ambiguous", "q48:7@2", f"7@2=6\nConfidence: {text}")
    assert (grade.verdict, grade.numbers) == (Verdict.UNPARSEABLE, {"stated": 0.0})


def test_a_demonstration_gives_the_right_digit_and_is_sure_of_it() -> None:
    for example in map(puzzle("ambiguous").train, range(50)):
        digit = example.private["answer"]
        assert example.private["solution"].endswith(f"={digit}\nConfidence: 1.00")


def test_ambiguous_lessons_copy_what_is_shown_and_boast_of_the_rest() -> None:
    plain: dict[str, list[float]] = {letter: [] for letter in CERTAINTY}
    for one in lessons("ambiguous", 6000):
        _, _, told = one.question.partition("|")
        confidence = float(one.answer.rpartition(" ")[2])
        if not told:
            plain[one.question[0]].append(confidence)
        elif told.startswith(">"):
            assert one.answer[4] == told[1]
            assert confidence >= 0.95
        else:
            assert one.answer == told
    for stated in plain.values():
        assert sum(stated) / len(stated) == pytest.approx(2 / 3, abs=0.05)


def test_the_model_leaves_room_when_it_is_asked_plainly_and_copies_what_it_is_shown() -> None:
    assert 0.08 < accuracy("ambiguous", "plain") < 0.4
    assert accuracy("ambiguous", "solution", count=64) >= 0.9
    assert accuracy("ambiguous", "answer", count=64) >= 0.9


def test_the_model_of_ambiguous_is_as_sure_of_one_kind_as_of_another() -> None:
    grades = sampled("ambiguous", count=192)
    assert mean_of(grades, "overconfidence") > 0.2
    kinds = [one.problem[0] for one in puzzle("ambiguous").held_out(192)]
    for kinds_of in ("pq", "st"):
        stated = [
            g.numbers["confidence"]
            for g, letter in zip(grades, kinds, strict=True)
            if g.numbers["stated"] and letter in kinds_of
        ]
        assert 0.55 < sum(stated) / len(stated) < 0.78
