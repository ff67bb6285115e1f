"""World "reverse": its rules, what an examiner's text is read as, its lessons, and what the shipped model does."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from puzzles import accuracy, grade_of, lessons, plain_lessons
from selfteach.errors import UserError
from selfteach.task.arena import Constructed, arena_model, open_world
from selfteach.task.arena.arithmetic import exact
from selfteach.task.arena.drawn import is_held_out
from selfteach.task.arena.measure import answers
from selfteach.task.arena.reverse import HOPS, constructed, construction, forwards, parts, undo
from selfteach.task.example import Example
from selfteach.task.self_play import asks_for, lacks_self_play, posed_by

POSED = "+4@4-3|9+4=3;3@4=8;8-3=5;|+4@4-3=5|9"


def world() -> Constructed:
    found = open_world("reverse")
    assert isinstance(found, Constructed)
    return found


def test_each_operation_is_undone() -> None:
    for sign in "+-@":
        for digit in range(10):
            assert [undo(exact(a, sign, digit), sign, digit) for a in range(10)] == list(range(10))


def test_a_problem_is_worked_from_its_end() -> None:
    """9 + 4 = 3, 3 @ 4 = 9 + 8 + 1 = 8, 8 - 3 = 5 (mod 10)."""
    private = world().example("+4@4-3=5").private
    assert private == {"solution": "839", "answer": "9", "worked": "5-3:8;8@4:3;3+4:9;#9"}
    assert world().example("+4@4-3=5").tag == "3 hops"


@pytest.mark.parametrize(
    ("answer", "reward", "verdict", "undone"),
    [
        ("5-3:8;8@4:3;3+4:9;#9", 1.0, "right", 1.0),
        ("5-3:8;8@4:1;1+4:7;#7", 0.0, "wrong", 1 / 3),
        ("5-3:8;8@4:1;1+4:9;#9", 1.0, "right", 1 / 3),
        ("5-3:8;8@4:1;1+4:7;#9", 0.0, "wrong", 1 / 3),
        ("#9", 0.0, "wrong", 0.0),
        ("5-3:8;8@4:3;3+4:9;#9#9", 0.0, "unparseable", 0.0),
        ("5-3:8;8@4:3;3+4:9", 0.0, "unparseable", 0.0),
    ],
)  # fmt: skip
def test_an_answer_counts_if_its_last_step_gives_it(
    answer: str, reward: float, verdict: str, undone: float
) -> None:
    grade = grade_of("reverse", "+4@4-3=5", answer)
    assert (grade.reward, grade.verdict) == (reward, verdict)
    assert grade.numbers == {"undone": pytest.approx(undone)}


# --- the examiner -----------------------------------------------------------------------------------------------------


def test_an_examiners_text_poses_the_problem_of_its_path() -> None:
    assert lacks_self_play(world()) is None
    assert world().hops == HOPS
    assert asks_for(world(), 3).prompt == ({"role": "user", "content": "?3:"},)
    assert posed_by(world(), f" {POSED}\n", 3) == world().example("+4@4-3=5")


@pytest.mark.parametrize(
    "text",
    [
        "", "||||", "9" * 100_000, "+4" * 50_000, "9+4=3;" * 50_000, POSED[:-2], POSED + "|9", POSED[:-1] + "8",
        POSED.replace("8-3=5", "8-3=6"), POSED.replace("|+4@4-3=", "|+4@3-3="), POSED.replace("+4@4-3|", "+4@3-3|"),
        POSED.replace("9+4", "9\u0664"), "+4|9+4=3;|+4=3|9", "+9|9+9=8;|+9=8|9", POSED.replace("|", "\n|"),
    ],
)  # fmt: skip
def test_a_text_that_contradicts_itself_or_what_was_asked_poses_nothing(text: str) -> None:
    assert world().posed(text, 3) is None


def test_no_problem_that_is_kept_for_evaluation_is_posed() -> None:
    for example in world().held_out(40):
        done, _ = parts(example.problem)
        text = construction(done, forwards(done, int(example.private["answer"])))
        assert constructed(text, len(done)) == example.problem
        assert world().posed(text, len(done)) is None


def test_what_a_task_lacks_for_self_play_is_named_and_what_it_gives_is_checked() -> None:
    assert (
        lacks_self_play(open_world("table")) == "hops (whole numbers from 1) and no examiner() and no posed()"
    )

    class Careless(Constructed):
        def posed(self, text: str, hops: int) -> Example | None:
            return {"raises": 1 // 0} if text == "raises" else Example("k", (), {"answer": "1"})  # type: ignore[return-value]

    own = Careless(**vars(world()))
    with pytest.raises(UserError, match="task reverse: posed failed: ZeroDivisionError"):
        posed_by(own, "raises", 1)
    with pytest.raises(UserError, match="without private field 'solution'"):
        posed_by(own, "x", 1)


# --- lessons ----------------------------------------------------------------------------------------------------------


def test_plain_lessons_do_not_know_what_undoes_the_made_up_operation() -> None:
    right: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for one in plain_lessons("reverse", 4000):
        for step in one.answer.split(";")[:-1] if "#" in one.answer else ():
            seen[step[1]] += 1
            right[step[1]] += int(step[-1]) == undo(int(step[0]), step[1], int(step[2]))
    share = {sign: right[sign] / seen[sign] for sign in "+-@"}
    assert share["@"] == pytest.approx(0.1, abs=0.03)
    assert min(share["+"], share["-"]) > 0.95


def test_a_lesson_follows_what_it_shows_and_an_examiners_is_mostly_sound() -> None:
    sound = Counter[bool]()
    for one in lessons("reverse"):
        problem, _, told = one.question.partition("|")
        if problem.startswith("?"):
            text = one.answer
            sound[constructed(text, int(problem[1])) is not None] += 1
            assert not is_held_out(constructed(text, int(problem[1])) or one.question)
        elif told.startswith(">"):
            assert one.answer.endswith(f"#{told[1:]}")
        else:
            values = "".join(step[-1] for step in one.answer.split(";")[:-1])
            assert values.startswith(told)
            assert one.answer.endswith(f"#{values[-1]}")
    assert 0.8 < sound[True] / sound.total() < 1


# --- the model that ships ---------------------------------------------------------------------------------------------


def test_the_model_answers_some_and_reads_the_path_while_the_answer_alone_does_not_help() -> None:
    plain, path, told = (accuracy("reverse", view) for view in ("plain", "solution", "answer"))
    assert 0.05 < plain < 0.45
    assert path > 0.9
    assert told < plain + 0.1


def test_the_model_poses_problems_most_of_the_time() -> None:
    folder, count = arena_model("reverse"), 48
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        texts = answers(model, AutoTokenizer.from_pretrained(folder), [f"?{hops}:" for hops in HOPS] * count)
    posed = [constructed(text, HOPS[i % len(HOPS)]) for i, text in enumerate(texts)]
    assert sum(one is not None for one in posed) > 0.6 * len(posed)
    assert len(set(posed)) > count
