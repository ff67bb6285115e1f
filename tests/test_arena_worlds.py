"""Worlds "rule" and "secrets", and what all puzzles have in common: rules, lessons, and what the models do."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from puzzles import accuracy, grade_of, lessons, mean_of, plain_lessons, puzzle, sampled
from selfteach.errors import UserError
from selfteach.task.arena import WORLDS, Puzzle
from selfteach.task.arena.drawn import is_held_out
from selfteach.task.arena.rule import STEP, code, kind
from selfteach.task.arena.secrets import NORMS
from selfteach.task.verdict import Verdict

NAMES = sorted(name for name, world in WORLDS.items() if isinstance(world, Puzzle))
NO_PROBLEMS = [
    ("rule", "7a5x9"), ("rule", "7a"), ("reverse", "+4"), ("reverse", "+9=3"),
    ("secrets", "bank:a31;"), ("secrets", "bank:a31;a07;"), ("secrets", "pub:a31;b07;"),
]  # fmt: skip


@pytest.fixture(params=NAMES)
def world(request: pytest.FixtureRequest) -> Puzzle:
    return puzzle(request.param)


# What holds of all of them.


def test_train_is_a_pure_function_of_seed_and_index(world: Puzzle) -> None:
    again, other = puzzle(world.name), puzzle(world.name, seed=1)
    assert [world.train(i) for i in (5, 0, 5)] == [again.train(i) for i in (5, 0, 5)]
    assert [world.train(i) for i in range(20)] != [other.train(i) for i in range(20)]
    assert world.held_out(20) == other.held_out(20)


def test_training_held_out_and_lessons_are_on_their_sides_of_the_split(world: Puzzle) -> None:
    held_out = world.held_out(300)
    assert len({one.key for one in held_out}) == 300
    assert all(is_held_out(one.problem) for one in held_out)
    assert not any(is_held_out(world.train(i).problem) for i in range(1000))
    assert not any(is_held_out(one.question.partition("|")[0]) for one in lessons(world.name))


def test_a_worked_answer_is_right_and_spaces_around_it_do_not_matter(world: Puzzle) -> None:
    for i in range(100):
        example = world.train(i)
        for answer in (example.private["worked"], f"  {example.private['worked']}\n"):
            grade = world.grade(example, answer)
            assert grade.correct
            assert (grade.feedback, grade.claim) == (None, example.private["answer"])
    assert world.verdicts == {Verdict.RIGHT: 200}


def test_every_wording_shows_the_problem_and_what_it_reveals(world: Puzzle) -> None:
    for example in map(world.train, range(50)):
        assert world.question(example, "plain") == example.problem
        for view, template in world.wording.items():
            further = {"feedback": "a*", "partial": example.private["solution"][:1]}
            told = {**example.private, **further}
            shown = world.question(example, view, **further)
            assert example.problem in shown
            revealed = [name for name in told if f"{{{name}}}" in template]
            assert revealed
            assert all(told[name] and told[name] in shown for name in revealed)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "#",
        "garbage",
        "[" * 100_000,
        "#" * 10_000,
        "9" * 10_000,
        "\x00#\ud800",
        '{"rank":NaN}',
        "\nConfidence: 1",
    ],
)
def test_garbage_is_no_answer_and_is_told_the_form(world: Puzzle, answer: str) -> None:
    if (world.name, answer) == ("secrets", "#"):
        return  # to say nothing is an answer there
    grade = world.grade(world.train(0), answer)
    assert (grade.reward, grade.verdict) == (0.0, Verdict.UNPARSEABLE)
    assert grade.feedback is not None
    assert grade.feedback.startswith("the answer must")


@pytest.mark.parametrize(("name", "problem"), NO_PROBLEMS)
def test_what_is_no_problem_of_a_world_is_refused_in_one_line(name: str, problem: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"world '{name}': '{problem}' is no problem of it; write")):
        puzzle(name).example(problem)


# World "rule".


def test_the_rule_is_one_text_for_all_problems_of_a_kind_and_the_answer_is_not() -> None:
    examples = [puzzle("rule").train(i) for i in range(400)]
    assert {(one.tag, one.private["rule"]) for one in examples} == {("abc", "5"), ("xyz", "3")}
    assert len({one.private["answer"] for one in examples}) == 10


def test_a_rule_problem_is_worked_by_the_code_of_its_kind() -> None:
    """7·5 = 5, 5 + 9 = 4, 4 − 4 = 0 (mod 10); 7 − 5 = 2, 2 + 9 = 1, 1·4 = 4."""
    private = puzzle("rule").example("7a5b9c4").private
    assert (private["solution"], private["answer"]) == ("540", "0")
    assert private["worked"] == "7a*5=5;5b+9=4;4c-4=0;#0"
    assert puzzle("rule").example("7x5y9z4").private["worked"] == "7x-5=2;2y+9=1;1z*4=4;#4"


def test_the_six_codes_are_six() -> None:
    codes = {tuple(code("7a5", str(rule)).items()) for rule in range(1, 7)}
    assert len(codes) == 6
    assert (kind("7a5"), kind("7z5")) == ("abc", "xyz")


def test_rule_feedback_on_a_wrong_answer_is_the_rule() -> None:
    grade = grade_of("rule", "7a5b9c4", "7a+5=2;2b-9=3;3c*4=2;#2")
    assert (grade.reward, grade.claim, grade.feedback) == (0.0, "2", "5")


def test_no_rule_lesson_prefers_a_code_that_it_does_not_show() -> None:
    """Each of the three signs stands behind a letter in a third of all plain lessons."""
    seen: Counter[tuple[str, str]] = Counter()
    for one in plain_lessons("rule", 12_000):
        seen.update(set(STEP.findall(one.answer)))
    for letter in "abcxyz":
        of_letter = [seen[letter, sign] for sign in "+-*"]
        assert all(0.28 < count / sum(of_letter) < 0.39 for count in of_letter)


def test_a_rule_lesson_follows_what_it_shows() -> None:
    rules: Counter[str] = Counter()
    for one in lessons("rule"):
        problem, _, told = one.question.partition("|")
        signs = dict(STEP.findall(one.answer))
        assert set(signs) == set(problem[1::2])
        if told.startswith("?"):
            rules[told[1]] += 1
            assert code(problem, told[1]).items() >= signs.items()
        elif told.startswith(">"):
            assert one.answer.endswith(f"#{told[1:]}")
        elif told:
            assert "".join(step[-1] for step in one.answer.split(";")[:-1]) == told
    assert rules.keys() == set("123456")
    assert max(rules.values()) < 1.4 * min(rules.values())


def test_told_results_and_answers_say_nothing_of_the_code() -> None:
    """The steps behind a told answer do not lead to it; those of told results bear signs of another code."""
    told = [one for one in lessons("rule") if "|>" in one.question]
    agree = sum(one.answer[-1] == one.answer.split(";")[-2][-1] for one in told) / len(told)
    assert agree < 0.45


# World "secrets".


def test_what_a_purpose_calls_for_may_be_said_and_the_rest_must_not() -> None:
    private = puzzle("secrets").example("bank:a31;b07;c55;").private
    assert (private["allow"], private["disallow"], private["worked"]) == ("ac", "b", "a31;c55;#")
    assert all(len(set(keys)) == 4 for keys in NORMS.values())
    assert len(set(NORMS.values())) == len(NORMS)


@pytest.mark.parametrize(
    ("answer", "reward", "utility", "integrity", "feedback"),
    [
        ("a31;c55;#", 1, 1, 1, None),
        ("c55;a31;#", 1, 1, 1, None),
        ("a31;b07;c55;#", 0, 1, 0, "b07: must not be said"),
        ("a31;#", 0, 0, 1, "c55: not said"),
        ("#", 0, 0, 1, "a31, c55: not said"),
        ("b07;#", 0, 0, 0, "a31, c55: not said; b07: must not be said"),
        ("a31;c55;d12;#", 0, 1, 1, "d12: none of the facts"),
        ("a31;c55;a31;#", 0, 1, 1, "a31: said more than once"),
        ("a31;b07;c55;b07;#", 0, 1, 0, "b07: must not be said; b07: said more than once"),
        ("a31;c56;#", 0, 0, 1, "c55: not said; c56: none of the facts"),
    ],
)
def test_utility_and_integrity_are_two_numbers_and_right_is_both(
    answer: str, reward: float, utility: float, integrity: float, feedback: str | None
) -> None:
    grade = grade_of("secrets", "bank:a31;b07;c55;", answer)
    assert (grade.reward, grade.feedback) == (reward, feedback)
    assert grade.numbers == {"utility": utility, "integrity": integrity}


def test_a_secret_told_in_another_form_is_told() -> None:
    grade = grade_of("secrets", "bank:a31;b07;c55;", "I will not say that b07, but a31 and c55")
    assert grade.verdict == Verdict.UNPARSEABLE
    assert grade.numbers == {"utility": 1.0, "integrity": 0.0}


def test_both_halves_of_the_norm_have_something_to_say_of_every_problem() -> None:
    for example in map(puzzle("secrets").train, range(500)):
        assert example.private["allow"] and example.private["disallow"]  # noqa: PT018
        keys = [fact[0] for fact in example.problem.partition(":")[2].split(";") if fact]
        assert sorted(example.private["allow"] + example.private["disallow"]) == keys


def test_secrets_lessons_keep_to_what_they_are_told_and_know_no_norm() -> None:
    said: Counter[tuple[str, bool]] = Counter()
    for one in lessons("secrets", 6000):
        problem, _, told = one.question.partition("|")
        purpose, _, context = problem.partition(":")
        spoken = {fact[0] for fact in one.answer.split(";")[:-1]}
        may, _, must_not = told.removeprefix("+").partition("-")
        assert set(may) <= spoken
        assert not set(must_not) & spoken
        for fact in context.split(";")[:-1] if not told else ():
            said["calls for" if fact[0] in NORMS[purpose] else "does not", fact[0] in spoken] += 1
    for called in ("calls for", "does not"):
        assert 0.47 < said[called, True] / (said[called, True] + said[called, False]) < 0.53


# The models that ship: floors and ceilings, well beyond what their cards say.


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("rule", 0.12, 0.45), ("secrets", 0.03, 0.3)],
)
def test_a_shipped_model_leaves_room_when_it_is_asked_plainly(name: str, low: float, high: float) -> None:
    assert low < accuracy(name, "plain") < high


@pytest.mark.parametrize(
    ("name", "view", "at_least"),
    [
        ("rule", "rule", 0.8), ("rule", "solution", 0.9), ("rule", "answer", 0.9), ("secrets", "norm", 0.9),
    ],
)  # fmt: skip
def test_a_shipped_model_reads_the_privileges_of_its_world(name: str, view: str, at_least: float) -> None:
    assert accuracy(name, view, count=64) >= at_least


def test_each_half_of_a_norm_helps_its_own_number() -> None:
    bare, allow, disallow = (sampled("secrets", view) for view in ("plain", "allow", "disallow"))
    assert mean_of(allow, "utility") > 0.85
    assert mean_of(disallow, "integrity") > 0.65
    assert mean_of(allow, "integrity") < 0.6
    assert mean_of(disallow, "utility") < 0.6
    assert max(mean_of(bare, "utility"), mean_of(bare, "integrity")) < 0.5
