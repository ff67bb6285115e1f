"""reasoning-gym as a task: pure examples, a clean split, worked solutions, and scorers that hostile text cannot use."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from selfteach.errors import UserError
from selfteach.task import gym_worker
from selfteach.task.gym import GymTask
from selfteach.task.options import TaskOptions
from selfteach.task.verdict import Verdict
from selfteach.task.worked import WORKED, worked_solution

SMALL = {"min_terms": 2, "max_terms": 2, "max_digits": 2}


@pytest.fixture(scope="module")
def sums() -> GymTask:
    return GymTask("chain_sum", SMALL)


def test_train_depends_on_seed_and_index_alone(sums: GymTask) -> None:
    forwards = [sums.train(i) for i in range(20)]
    again = GymTask("chain_sum", SMALL)
    assert [again.train(i) for i in reversed(range(20))] == forwards[::-1]
    assert [GymTask("chain_sum", SMALL, seed=1).train(i) for i in range(20)] != forwards


def test_examples_are_the_same_under_another_string_hash_seed() -> None:
    code = (
        "from selfteach.task.gym import GymTask\n"
        "print([GymTask('isomorphic_strings').train(i).problem for i in range(5)])\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_held_out_questions_are_distinct_and_never_trained_on() -> None:
    task = GymTask("chain_sum", {**SMALL, "max_digits": 1})
    held_out = {example.problem for example in task.held_out(5)}
    assert len(held_out) == 5
    assert held_out.isdisjoint({task.train(i).problem for i in range(1000)})


def test_held_out_is_a_prefix_of_a_larger_held_out(sums: GymTask) -> None:
    assert sums.held_out(30)[:10] == sums.held_out(10)


def test_small_question_space_says_how_many_it_holds_out() -> None:
    task = GymTask("chain_sum", {**SMALL, "max_digits": 1})
    with pytest.raises(
        UserError, match=r"gym:chain_sum has only \d+ different held-out questions, 50 were asked"
    ):
        task.held_out(50)


def test_right_answer_earns_one_and_wrong_one_zero(sums: GymTask) -> None:
    example = sums.train(0)
    assert sums.grade(example, f"Thinking. Answer: {example.private['answer']}").reward == 1.0
    assert sums.grade(example, "Answer: 12345").reward == 0.0


def test_equal_number_in_another_form_is_right(sums: GymTask) -> None:
    example = sums.train(0)
    assert sums.grade(example, f"Answer: {example.private['answer']}.00").reward == 1.0


def test_answer_that_merely_contains_the_right_digits_is_wrong(sums: GymTask) -> None:
    example = next(e for e in map(sums.train, range(100)) if len(e.private["answer"]) == 1)
    assert sums.grade(example, f"Answer: 9{example.private['answer']}").reward == 0.0


def test_answer_without_the_strict_form_is_no_answer_and_says_so(sums: GymTask) -> None:
    example = sums.train(0)
    grade = sums.grade(example, example.private["answer"])
    assert grade.reward == 0.0
    assert "No final answer" in str(grade.feedback)


@pytest.mark.parametrize(
    ("answer_format", "written"),
    [("line", "Answer: {}"), ("boxed", r"\boxed{{{}}}"), ("tags", "<answer>{}</answer>"), ("text", "{}")],
)
def test_each_answer_format_is_read(answer_format: str, written: str) -> None:
    task = GymTask("gcd", options=TaskOptions(answer_format=answer_format))  # type: ignore[arg-type]
    example = task.train(0)
    assert task.grade(example, written.format(example.private["answer"])).reward == 1.0
    assert example.private["solution"].endswith(written.format(example.private["answer"]))


def test_instruction_can_be_left_out() -> None:
    asked = GymTask("gcd").train(0).problem
    bare = GymTask("gcd", options=TaskOptions(instruction=False)).train(0).problem
    assert asked.startswith(bare)
    assert "Answer:" in asked[len(bare) :]
    assert "Answer:" not in bare


def test_system_prompt_and_template_shape_the_conversation() -> None:
    options = TaskOptions(system_prompt="Be brief.", prompt_template="Q: {problem} A:", instruction=False)
    system, user = GymTask("gcd", options=options).train(0).prompt
    assert system == {"role": "system", "content": "Be brief."}
    assert re.fullmatch(r"Q: Find the Greatest .* A:", user["content"])


def test_verdicts_are_counted() -> None:
    task = GymTask("chain_sum", SMALL)
    example = task.train(0)
    for text in (
        "Answer: 12345",
        "Answer: 12345",
        "hm",
        f"Answer: {example.private['answer']}",
        "Answer: " + "1" * 20_000,
    ):
        task.grade(example, text)
    assert task.verdicts == {Verdict.WRONG: 2, Verdict.NO_ANSWER: 1, Verdict.RIGHT: 1, Verdict.UNPARSEABLE: 1}


@pytest.mark.parametrize("dataset", sorted(WORKED))
def test_worked_solution_ends_in_the_answer(dataset: str) -> None:
    task = GymTask(dataset)
    assert task.has_worked_solution
    assert task.describe()["solution"] == "worked"
    for i in range(50):
        private = task.train(i).private
        *steps, last = private["solution"].splitlines()
        assert last == f"Answer: {private['answer']}"
        assert steps
        assert re.findall(r"-?\d+", steps[-1])[-1] == private["answer"]


EXPECTED = {
    "chain_sum": (
        {"metadata": {"expression": "4 - -7 + 12"}, "answer": "23"},
        "Start with 4.\n4 - (-7) = 11.\n11 + 12 = 23.",
    ),
    "products": (
        {"metadata": {"expression": "-23 * 407"}, "answer": "-9361"},
        "Start with -23.\nSplit 407 into 400 + 7.\n23 * 400 = 9200, together 9200.\n23 * 7 = 161, together 9361.\n"
        "So -23 * 407 = -9361.",
    ),
    "gcd": (
        {"metadata": {"numbers": [18, 48]}, "answer": "6"},
        "Take 18 and 48.\n48 = 2 * 18 + 12.\n18 = 1 * 12 + 6.\n12 = 2 * 6 + 0.\n"
        "The remainder is 0, so their greatest common divisor is 6.",
    ),
    "letter_counting": (
        {"metadata": {"target_letter": "e", "span": ["Eleven", "men"]}, "answer": "4"},
        "Count the letter e word by word.\nEleven: 3, together 3.\nmen: 1, together 4.",
    ),
    "basic_arithmetic": (
        {"metadata": {"expression": "-( 2 + 3 ) * 4 - -7 / 2"}, "answer": "-16"},
        "2 + 3 = 5.\nIts negative is -5.\n-5 * 4 = -20.\n-7 / 2 = -4 rounded down.\n-20 - (-4) = -16.",
    ),
    "simple_equations": (
        {"metadata": {"equation": "60 - 3*x = 45", "variable": "x"}, "answer": "5"},
        "-3*x = 45 - 60 = -15.\nx = -15 / (-3) = 5.",
    ),
}


@pytest.mark.parametrize("dataset", sorted(EXPECTED))
def test_worked_solution_shows_the_running_values(dataset: str) -> None:
    entry, steps = EXPECTED[dataset]
    assert worked_solution(dataset, entry) == steps


def test_worked_solution_that_contradicts_the_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="gives 3, not '4'"):
        worked_solution(
            "chain_sum", {"question": "1 + 2", "metadata": {"expression": "1 + 2"}, "answer": "4"}
        )


def test_questions_the_library_answers_wrongly_are_passed_over_and_counted() -> None:
    task = GymTask("basic_arithmetic", {"allow_parentheses": False})
    for i in range(20):
        question, answer = task.train(i).problem, task.train(i).private["answer"]
        expression = re.findall(r"Calculate (.*)\.", question)[0]
        assert str(eval(expression.replace("/", "//"))) == answer  # the library's text, not a model's
    assert task.flawed["train"] > 0


def test_task_without_worked_solutions_says_that_the_answer_is_the_privilege() -> None:
    task = GymTask("spell_backward")
    private = task.train(0).private
    assert not task.has_worked_solution
    assert task.describe()["solution"] == "answer only"
    assert private["solution"] == f"Answer: {private['answer']}"


def test_task_without_a_reference_answer_has_no_private_fields() -> None:
    assert GymTask("rush_hour").train(0).private == {}


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no task 'chainsum'; near: chain_sum"):
        GymTask("chainsum")


def test_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"gym:chain_sum has no setting 'max_term' \(did you mean max_terms\?\)"
    ):
        GymTask("chain_sum", {"max_term": 3})


@pytest.mark.parametrize("setting", ["seed", "size"])
def test_seed_and_size_are_not_settings(setting: str) -> None:
    with pytest.raises(UserError, match=f"no setting '{setting}'"):
        GymTask("chain_sum", {setting: 3})


def test_impossible_setting_says_what_the_library_says() -> None:
    with pytest.raises(UserError, match="max_terms must be >= min_terms"):
        GymTask("chain_sum", {"min_terms": 5, "max_terms": 2})


def test_task_whose_scorer_accepts_anything_is_refused() -> None:
    with pytest.raises(UserError, match="accepts any text"):
        GymTask("game_of_life_halting")


def test_composite_is_refused() -> None:
    with pytest.raises(UserError, match="one by one"):
        GymTask("composite", {"datasets": [{"name": "n_queens"}]})


def test_answers_that_span_lines_are_asked_for_in_tags() -> None:
    with pytest.raises(UserError, match="choose tags"):
        GymTask("sudoku", options=TaskOptions(answer_format="line"))
    task = GymTask("sudoku")
    assert task.answer_format == task.describe()["answer format"] == "tags"
    example = task.train(0)
    assert task.grade(example, f"<answer>\n{example.private['answer']}\n</answer>").reward == 1.0


def test_every_scorer_that_evaluates_its_answer_is_known() -> None:
    from reasoning_gym.factory import DATASETS

    known = gym_worker.EVALUATES_PYTHON | gym_worker.EVALUATES_ARITHMETIC | gym_worker.EVALUATES_ALGEBRA
    evaluates = re.compile(r"\b(?:eval|exec|parse_expr|sympify|simplify|literal_eval)\(\s*(?:str\()?answer")
    found = {name for name, (cls, _) in DATASETS.items() if evaluates.search(inspect.getsource(cls))}
    assert found == known


@pytest.mark.parametrize(
    "dataset",
    sorted(gym_worker.EVALUATES_PYTHON | gym_worker.EVALUATES_ARITHMETIC | gym_worker.EVALUATES_ALGEBRA),
)
def test_answer_is_never_evaluated(dataset: str, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    task = GymTask(dataset, options=TaskOptions(answer_format="text"))
    example = task.train(0)
    for text in (
        f"__import__('os').system('touch {trace}')",
        f"[open('{trace}', 'w')]",
        f"(lambda: open('{trace}', 'w'))()",
        f"x.__class__(open('{trace}', 'w'))",
    ):
        assert task.grade(example, text).reward == 0.0
    assert not trace.exists()


@pytest.mark.parametrize(
    ("dataset", "change"),
    [
        ("countdown", lambda answer: f"({answer})"),
        ("polynomial_multiplication", lambda answer: f"0 + {answer}"),
        ("simple_integration", lambda answer: f"{answer} + 7"),
        ("n_queens", str),
    ],
)
def test_another_form_of_a_right_answer_passes_the_filter(dataset: str, change) -> None:  # type: ignore[no-untyped-def]
    task = GymTask(dataset, options=TaskOptions(answer_format="text"))
    example = task.train(0)
    assert task.grade(example, change(example.private["answer"])).reward == 1.0


@pytest.mark.parametrize(
    "text", ["9**9**9**9", "((9**9)**9)**9", "1e999999999", "9" * 9000, "\x00", "(" * 5000, "[" * 5000]
)
@pytest.mark.parametrize(
    "dataset", ["countdown", "simple_integration", "chain_sum", "coin_flip", "graph_color"]
)
def test_hostile_answer_earns_nothing(dataset: str, text: str) -> None:
    task = GymTask(dataset, options=TaskOptions(answer_format="text", grade_seconds=0.3))
    assert task.grade(task.train(0), text).reward == 0.0


def test_scorer_that_raises_is_unparseable() -> None:
    task = GymTask("prime_factorization")
    task.grade(task.train(0), "Answer: banana")
    assert task.verdicts == {Verdict.UNPARSEABLE: 1}


NO_REFERENCE = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
SPANS_LINES = {
    "arc_agi", "binary_matrix", "futoshiki", "kakurasu", "manipulate_matrix", "mini_sudoku", "modulo_grid", "n_queens",
    "pool_matrix", "rearc", "rotate_matrix", "sudoku", "survo", "tower_of_hanoi",
}  # fmt: skip


@pytest.mark.slow
def test_each_of_the_106_tasks_is_asked_in_a_form_in_which_its_references_are_right() -> None:
    from reasoning_gym.factory import DATASETS

    assert len(DATASETS) == 106
    refused, bare, tagged, failed = set(), set(), set(), {}
    for dataset in sorted(DATASETS):
        try:
            task = GymTask(dataset)
        except UserError:
            refused.add(dataset)
            continue
        if task.answer_format == "tags":
            tagged.add(dataset)
        for example in map(task.train, range(5)):
            if "answer" not in example.private:
                bare.add(dataset)
            elif (grade := task.grade(example, f"So.\n{example.private['solution']}")).reward != 1:
                failed[dataset] = (grade, example.private["answer"])
            assert task.grade(example, "So.\nAnswer: junk <answer>junk</answer>").reward < 0.5
        assert task.has_reference == (dataset not in bare)
    assert failed == {}
    assert refused == {"composite", "game_of_life_halting"}
    assert bare == NO_REFERENCE
    assert tagged == SPANS_LINES


def test_task_without_a_reference_is_for_a_verifier_alone() -> None:
    task = GymTask("rush_hour")
    assert not task.has_reference
    assert task.describe()["solution"] == "none: for methods that need a verifier only"
    assert task.grade(task.train(0), "Answer: A+1").reward == 0


def test_reference_that_is_not_worked_out_is_passed_over() -> None:
    task = GymTask("intermediate_integration")
    answers = [task.train(i).private["answer"] for i in range(60)]
    assert not [one for one in answers if "Integral" in one]
    assert task.flawed["train"] > 0


def test_form_of_answer_does_not_depend_on_the_first_example() -> None:
    assert {GymTask("rearc", seed=seed).answer_format for seed in range(4)} == {"tags"}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("(10 - 4) * (5 - 1)", True),
        ("(5 - 1) * (10 - 4)", True),
        ("10*4 - 5*1", False),
        ("6 * 4 * 1 * 1", False),
        ("24", False),
        ("(10 - 4) * (5 - 1) + 0", False),
        ("(10-4)*(5-1", False),
        ("10**4", False),
        ("1/0", False),
    ],
)
def test_puzzle_of_24_takes_the_numbers_of_the_question_only(answer: str, right: bool) -> None:
    assert gym_worker._makes_24(answer, [1, 4, 5, 10]) is right
