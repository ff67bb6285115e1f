"""Tasks of the user's own: rows in memory, objects, functions that make them, and references to each."""

from __future__ import annotations

import json
import sys
from collections import Counter, UserDict, UserList
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import selfteach
from runs import run_of, with_task
from selfteach.errors import UserError
from selfteach.policy.draws import Sampling
from selfteach.policy.loading import load_policy
from selfteach.task.example import Example, Grade, Message, Task
from selfteach.task.files import FileTask
from selfteach.task.one import OneQuestion
from selfteach.task.opening import TaskOptions, open_task
from selfteach.task.own import OwnTask
from selfteach.task.reward import Rewarded
from selfteach.task.rows import make_task
from selfteach.task.verdict import Verdict
from selfteach.training.progress import Silent
from selfteach.training.text.evaluation import evaluate

datasets = pytest.importorskip("datasets")
pandas = pytest.importorskip("pandas")

Rows = list[dict[str, Any]]


def sum_row(i: int, **changes: Any) -> dict[str, Any]:
    return {
        "problem": f"What is {i} + {i}?",
        "solution": f"It is \\boxed{{{2 * i}}}.",
        "answer": str(2 * i),
        **changes,
    }


SUMS = [sum_row(i) for i in range(40)]
BARE = [{"problem": f"Say {i}."} for i in range(40)]
BARE_OPTIONS = TaskOptions(solution_column=None)


def of_rows(task: Task) -> FileTask:
    found = task.task if isinstance(task, Rewarded) else task
    assert isinstance(found, FileTask)
    return found


def refusal(task: Any, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        make_task(task, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def write(path: Path, text: str) -> str:
    path.write_text(dedent(text), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that loaded files add are gone after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))


# --- rows ---------------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[Rows], Any]] = {
    "list": list,
    "tuple": tuple,
    "own sequence": UserList,
    "own mappings": lambda rows: [UserDict(row) for row in rows],
    "array": np.array,
    "dataset": lambda rows: datasets.Dataset.from_list(rows),
    "frame": lambda rows: pandas.DataFrame(rows),
    "frame of an odd index": lambda rows: pandas.DataFrame(rows, index=range(7, 7 + len(rows))),
    "frame of a repeated index": lambda rows: pandas.DataFrame(rows, index=[0] * len(rows)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_kind_give_what_a_file_gives(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    read = of_rows(open_task(f"{file}.jsonl", seed=3))
    task = of_rows(make_task(KINDS[kind](SUMS), seed=3))
    assert task.name == "rows"
    named = [replace(one, key=one.key.replace("rows.jsonl", "rows")) for one in map(read.train, range(100))]
    assert [task.train(i) for i in range(100)] == named
    assert [one.problem for one in task.held_out(40)] == [one.problem for one in read.held_out(40)]
    assert task.grade(task.train(0), rf"\boxed{{{task.train(0).private['answer']}.0}}").reward == 1.0


def test_rows_are_read_once() -> None:
    rows = [dict(row) for row in SUMS]
    task = make_task(rows)
    before = [task.train(i) for i in range(40)]
    rows[0].clear()
    del rows[5:]
    assert [task.train(i) for i in range(40)] == before


def test_column_options_are_those_of_a_file() -> None:
    rows = [{"Q": f"{i}?", "key": i, "level": "easy", "hint": "look", 5: "x"} for i in range(3)]
    options = TaskOptions(
        problem_column="q", solution_column=None, answer_column="key", tag_column="level", extra_columns=("hint",),
        held_out_fraction=1e-9, instruction=False, verifier="exact",
    )  # fmt: skip
    task = make_task(rows, options=options)
    by_problem = {example.problem: example for example in map(task.train, range(3))}
    assert by_problem["2?"] == Example(
        "rows:3", (Message(role="user", content="2?"),), {"answer": "2", "hint": "look"}, "easy"
    )


def test_held_out_files_filters_and_single_questions_work_for_rows(tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps(sum_row(3)))
    task = of_rows(make_task(SUMS, options=TaskOptions(held_out_file=str(held_out))))
    assert (len(task.rows), len(task.held_out_rows)) == (39, 1)
    long = [*SUMS, sum_row(99, solution="x" * 999), {"problem": "p"}]
    task = of_rows(make_task(long, options=TaskOptions(max_chars=200, skip_incomplete_rows=True)))
    assert task.counts["rows left out: longer than max_chars"] == 1
    assert task.counts["rows left out: a needed field is missing"] == 1
    one = make_task(SUMS, options=TaskOptions(only=0))
    assert isinstance(one, OneQuestion)
    assert one.train(9) == make_task(SUMS).held_out(1)[0]


HUGE: dict[str, dict[str, Any]] = {
    "problem": sum_row(99, problem="x" * 1_000_001),
    "messages": sum_row(99, problem=[{"role": "user", "content": "x" * 600_000}] * 2),
}


@pytest.mark.parametrize("what", HUGE)
def test_a_huge_cell_of_rows_in_memory_is_refused_or_left_out(what: str) -> None:
    with pytest.raises(UserError, match=r"rows, row 41, field 'problem': 1,[02]00,00[01] characters"):
        make_task([*SUMS, HUGE[what]])
    left = of_rows(make_task([*SUMS, HUGE[what]], options=TaskOptions(max_chars=200)))
    assert left.counts["rows left out: longer than max_chars"] == 1


def test_a_huge_cell_for_a_reward_function_is_counted_as_it_is_written() -> None:
    rows = [dict(row, extra={"tests": "x" * 10}) for row in SUMS]
    rows[4]["extra"] = {"tests": "x" * 1_000_000}
    with pytest.raises(UserError, match="row 5, field 'extra': 1,000,013 characters"):
        make_task(rows, reward=lambda completion, extra: 1.0)


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan])
def test_values_that_tables_leave_out_are_missing_fields(missing: Any) -> None:
    for kind in ("list", "frame", *(["dataset"] if missing is None else [])):
        rows = KINDS[kind]([*SUMS, sum_row(99, answer=missing), sum_row(98)])
        private = {e.private["answer"] for e in map(of_rows(make_task(rows)).train, range(41))}
        assert "198" in private  # the solution's box
        rows = KINDS[kind]([*SUMS, sum_row(99, solution=missing)])
        assert refusal(rows) == (
            "rows, row 41: field 'solution' is missing or empty; mend the row or set skip_incomplete_rows"
        )


def test_missing_values_of_every_pandas_kind_are_missing_fields() -> None:
    frame = pandas.DataFrame([sum_row(1), sum_row(2)])
    frame["answer"] = pandas.array([2, None], dtype="Int64")
    frame["solution"] = ["It is two.", pandas.NaT]
    assert "rows, row 2: field 'solution' is missing" in refusal(frame)
    options = TaskOptions(solution_column=None)
    assert "rows, row 2: field 'answer' is missing" in refusal(frame, options=options)
    task = make_task(frame[:1], options=options)
    assert task.train(0).private == {"answer": "2"}


def test_numpys_numbers_are_answers() -> None:
    rows = [sum_row(i, answer=np.int64(2 * i)) for i in range(40)]
    task = make_task(rows)
    assert task.train(0).private["answer"] in {row["answer"] for row in SUMS}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*SUMS[:6], sum_row(6, problem=7)], "rows, row 7, field 'problem': of type int, not a string; write it as"),
        ([*SUMS[:6], sum_row(6, answer=True)], "rows, row 7, field 'answer': of type bool, not a string"),
        ([*SUMS[:6], sum_row(6, problem="ab\ud800")], "rows, row 7, field 'problem': character 2 is half a surrogate"),
        ([*SUMS[:6], "text"], "rows, row 7: of type str, not a dict; write {\"problem\": …} for each row"),
        ([[1, 2]], "rows, row 1: of type list, not a dict"),
        (np.zeros(3), "rows, row 1: of type float64, not a dict"),
        ([{"question": "p"}], "rows, row 1: no field 'problem', it has 'question'; set problem_column to one of these"),
        ([{"prompt": "p", "chosen": "c"}], "of a preference they lack 'rejected'"),
        ([{"Prompt": "p", "Rejected": "c"}], "of a preference they lack 'chosen'"),
        ([{"problem": "p"}], "rows, row 1: no field 'solution', it has 'problem'; set solution_column to one of"),
        ([], "rows: there are no rows"), ((), "rows: there are no rows"),
        ([{}], "rows, row 1: no field 'problem', it has "),
        (datasets.Dataset.from_list([]), "rows: the dataset holds no rows"),
        (pandas.DataFrame(), "rows: there are no rows"),
        (datasets.DatasetDict({"test": datasets.Dataset.from_list(SUMS)}), "rows: splits test: choose one, such as"),
        ({"problem": ["p"]}, "a dict is no list of rows: give [{'problem': …}, …], or datasets.Dataset.from_dict(…)"),
        ((row for row in SUMS), "a generator has no length: give a list of its rows"),
        (datasets.Dataset.from_list(SUMS).to_iterable_dataset(), "a IterableDataset has no length: give a list of"),
        (7, "no task can be made of int 7: give a name, rows (a list of dicts, a Dataset, a DataFrame)"),
        (None, "no task can be made of NoneType None"),
        (b"table", "no task can be made of bytes b'table'"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_named(rows: Any, said: str) -> None:
    assert said in refusal(rows)


def test_an_option_that_rows_do_not_heed_is_an_error() -> None:
    assert "rows does not heed split" in refusal(SUMS, options=TaskOptions(split="test"))


# --- rows with a reward -------------------------------------------------------------------------------------------


def test_forty_bare_rows_and_a_reward_are_a_task() -> None:
    task = make_task(BARE, reward=lambda completion: len(completion), options=BARE_OPTIONS)
    example = task.train(0)
    assert example.private == {}
    assert example.prompt == ({"role": "user", "content": example.problem},)  # no instruction for a verifier
    assert task.grade(example, "four").reward == 4.0
    held_out = task.held_out(128)
    assert 1 <= len(held_out) <= 10
    assert {one.problem for one in held_out}.isdisjoint(task.train(i).problem for i in range(40))


def test_without_a_reward_the_same_rows_need_answers() -> None:
    assert "no field 'answer'" in refusal(BARE, options=BARE_OPTIONS)


def test_columns_that_the_reward_has_parameters_for_come_with_the_rows(tmp_path: Path) -> None:
    rows = [{**row, "tests": f"t{i}", "level": "", "unused": 5} for i, row in enumerate(BARE)]
    rows[3]["level"] = "hard"
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen: list[tuple[str, str | None]] = []

    def reward(completions: list[str], tests: list[str], level: tuple[str | None] = (None,)) -> list[float]:
        seen.append((tests[0], level[0]))
        return [1.0]

    for given in (rows, file, str(file)):
        task = make_task(given, reward=reward, options=BARE_OPTIONS)
        for example in (*map(task.train, range(len(of_rows(task).rows))), *task.held_out(40)):
            task.grade(example, "x")
        assert sorted(seen) == sorted((f"t{i}", "hard" if i == 3 else None) for i in range(40))
        seen.clear()


def test_rows_without_a_column_that_the_reward_needs_are_incomplete() -> None:
    def reward(completion: str, tests: str) -> float:
        return 1.0

    rows = [{**row, "tests": "t"} for row in BARE]
    del rows[6]["tests"]
    message = refusal(rows, reward=reward, options=BARE_OPTIONS)
    assert message.startswith(f"rows, row 7: field 'tests', which reward {reward.__qualname__} ({__file__}:")
    assert message.endswith(
        "has a parameter for, is missing or empty; mend the row or set skip_incomplete_rows"
    )
    task = make_task(rows, reward=reward, options=replace(BARE_OPTIONS, skip_incomplete_rows=True))
    assert of_rows(task).counts["rows left out: a needed field is missing"] == 1
    rows[8]["tests"] = ["a", "b"]  # type: ignore[assignment]
    options = replace(BARE_OPTIONS, skip_incomplete_rows=True)
    assert "rows, row 9, field 'tests': of type list, not a string" in refusal(
        rows, reward=reward, options=options
    )


def test_a_column_that_no_row_has_is_named_with_the_columns_there_are() -> None:
    message = refusal(BARE, reward=lambda completion, test: 1, options=BARE_OPTIONS)
    assert message.startswith("rows, row 1: no field 'test', which reward ")
    assert message.endswith("has a parameter for; it has 'problem'")


def test_a_parameter_means_the_field_that_the_options_name_and_else_the_column() -> None:
    rows = [
        {"problem": f"{i}?", "solution": "old", "working": "new", "answer": "1", "key": "2"} for i in range(9)
    ]

    def reward(completion: str, solution: str, answer: str, working: str) -> dict[str, Any]:
        return {"score": 1, "feedback": f"{solution} {answer} {working}"}

    for solution, answer, read in (("working", "key", "new 2 new"), (None, None, "old 1 new")):
        options = TaskOptions(solution_column=solution, answer_column=answer)
        task = make_task(rows, reward=reward, options=options)
        assert task.grade(task.train(0), "x").feedback == read


def test_a_reward_that_needs_an_answer_needs_it_in_every_row() -> None:
    def by_answer(completion: str, answer: str) -> float:
        return float(answer in completion)

    def by_truth(
        data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, str]
    ) -> float:
        return float(ground_truth in solution_str)

    rows = [{**row, "answer": str(i)} for i, row in enumerate(BARE)]
    for reward in (by_answer, by_truth):
        task = make_task(rows, reward=reward, options=BARE_OPTIONS)
        example = task.train(0)
        assert task.grade(example, f"I say {example.private['answer']}").reward == 1.0
        assert task.grade(example, "no").reward == 0.0
        broken = [*rows[:6], {"problem": "p"}]
        name = "answer" if reward is by_answer else "ground_truth"
        assert f"rows, row 1: no field '{name}'" in refusal(BARE, reward=reward, options=BARE_OPTIONS)
        boxed = [{"problem": f"{i}?", "solution": f"\\boxed{{{i}}}"} for i in range(9)]
        assert make_task(boxed, reward=reward).held_out(1)
        assert f"rows, row 7: field '{name}'" in refusal(broken, reward=reward, options=BARE_OPTIONS)


def test_a_misspelled_answer_column_is_not_passed_over() -> None:
    options = replace(BARE_OPTIONS, answer_column="anwser")
    assert "no field 'anwser'" in refusal(BARE, reward=lambda completion: 1, options=options)


def test_two_verifiers_are_one_too_many() -> None:
    options = replace(BARE_OPTIONS, verifier="exact")
    message = refusal(BARE, reward=lambda completion: 1, options=options)
    assert message.startswith("verifier is exact, but reward ")


# --- objects ------------------------------------------------------------------------------------------------------


class Coin:
    """As little of a task as will do."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def train(self, index: int) -> Example:
        return Example(f"coin:{self.seed}:{index}", (Message(role="user", content=f"Flip {index}."),))

    def held_out(self, count: int) -> Any:
        return [self.train(-1 - i) for i in range(2 * count)]

    def grade(self, example: Example, answer: str) -> Any:
        return answer == "heads"


class Whole(Coin):
    name = "whole"
    wording = {"solution": "{problem}"}

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.verdicts = Counter({"lucky": 3})

    def grade(self, example: Example, answer: str) -> Grade:
        return Grade(2.0, "well done", answer)


def test_an_object_lacking_name_wording_and_verdicts_gets_them() -> None:
    task = make_task(Coin(5))
    assert (task.name, dict(task.wording), dict(task.verdicts)) == ("Coin", {}, {})
    assert task.train(2).key == "coin:5:2"
    assert [one.key for one in task.held_out(2)] == ["coin:5:-1", "coin:5:-2"]
    assert [task.grade(task.train(0), text).reward for text in ("heads", "tails")] == [1.0, 0.0]
    assert task.verdicts == {Verdict.RIGHT: 1, Verdict.WRONG: 1}
    assert task.seed == 5  # type: ignore[attr-defined]


def test_a_whole_task_keeps_what_it_has() -> None:
    task = make_task(Whole())
    assert (task.name, task.wording, task.verdicts) == ("whole", Whole.wording, {"lucky": 3})
    assert task.grade(task.train(0), "x") == Grade(2.0, "well done", "x")


def test_a_task_of_this_package_comes_back_as_it_is() -> None:
    world = open_task("table", seed=2)
    assert make_task(world) is world
    assert isinstance(make_task(world, reward=lambda completion: 1), Rewarded)


def test_a_reward_grades_an_object_that_has_no_grade() -> None:
    class Ungraded:
        train, held_out = Coin.train, Coin.held_out
        seed = 1

    task = make_task(Ungraded(), reward=lambda completion: 0.5)
    assert task.grade(task.train(0), "x") == Grade(0.5)
    assert task.name == "Ungraded"
    assert refusal(Ungraded()) == "a Ungraded is no task: it has train, held_out, but lacks grade"


def test_one_question_of_an_object(tmp_path: Path) -> None:
    task = make_task(Coin(), options=TaskOptions(only=1))
    assert task.train(7).key == "coin:0:-2"
    assert "task Coin does not heed prompt_template" in refusal(
        Coin(), options=TaskOptions(prompt_template="{problem}!")
    )


def test_what_an_object_gives_is_checked() -> None:
    class Dicts(Coin):
        def train(self, index: int) -> Any:
            return {"problem": "p"}

    class Late(Coin):
        def train(self, index: int) -> Example:
            return super().train([0, 1][index])

        def held_out(self, count: int) -> Any:
            return {"a": 1} if count == 1 else ["p"]

        def grade(self, example: Example, answer: str) -> Any:
            return "good"

    class Raises(Coin):
        def train(self, index: int) -> Example:
            raise SystemExit("done")

    assert (
        "task Dicts: train(0) gave dict {'problem': 'p'}: give a selfteach.task.example.Example"
        in refusal(Dicts())
    )
    assert f"task Raises: train failed: SystemExit: done ({__file__}:" in refusal(Raises())
    task = make_task(Late())
    for call, said in (
        (lambda: task.train(2), f"task Late: train failed: IndexError: list index out of range ({__file__}:"),
        (lambda: task.held_out(1), "task Late: held_out(1) gave dict {'a': 1}: give a list of Examples"),
        (lambda: task.held_out(2), "task Late: held_out(2) gave str 'p'"),
        (
            lambda: task.grade(task.train(0), "x"),
            "task Late: grade gave str 'good' for example coin:0:0; give one",
        ),
    ):
        with pytest.raises(UserError) as error:
            call()
        assert said in str(error.value)


# --- functions that make one --------------------------------------------------------------------------------------


def test_a_function_is_called_with_the_seed_if_it_takes_it() -> None:
    def seeded(*, seed: int) -> Coin:
        return Coin(seed)

    def plain() -> Rows:
        return SUMS

    def wide(**settings: Any) -> Coin:
        assert not settings
        return Coin(8)

    @dataclass
    class Made(Coin):
        seed: int = 0
        sides: int = 2

    keys = [
        make_task(one, seed=7).train(0).key for one in (seeded, wide, Coin, Made, lambda seed=3: Coin(seed))
    ]
    assert keys == ["coin:7:0", "coin:8:0", "coin:7:0", "coin:7:0", "coin:7:0"]
    assert isinstance(make_task(plain), FileTask)
    assert make_task(lambda: "table", seed=4).train(0) == open_task("table", seed=4).train(0)
    assert make_task(lambda: pandas.DataFrame(SUMS)).train(0) == make_task(SUMS).train(0)


def test_a_function_that_makes_nothing_usable_is_told() -> None:
    def needy(seed: int, path: str) -> Rows:
        return SUMS

    def broken() -> Rows:
        return [SUMS[0][name] for name in ("problem", "gone")]

    def lazy() -> Iterator[dict[str, Any]]:
        yield from SUMS

    assert "needy is made with seed alone, but needs 'path': give it a default" in refusal(needy)
    message = refusal(broken)
    assert "broken cannot be made: KeyError: 'gone' (" in message
    assert f"{__file__}:{broken.__code__.co_firstlineno + 1})" in message
    assert refusal(lazy) == "a generator has no length: give a list of its rows"
    assert "no task can be made of function" in refusal(lambda: needy)


# --- references ---------------------------------------------------------------------------------------------------


def test_references_name_rows_objects_classes_and_functions(tmp_path: Path) -> None:
    file = write(
        tmp_path / "my.py",
        """\
        from selfteach.task.example import Example, Grade

        ROWS = [{"problem": f"{i}?", "solution": "s", "answer": str(i)} for i in range(40)]
        NAME = "table"

        def make(seed):
            return Coin(seed)

        class Coin:
            def __init__(self, seed=1):
                self.seed = seed

            def train(self, index):
                return Example(f"{self.seed}:{index}", ({"role": "user", "content": "Flip."},))

            def held_out(self, count):
                return [self.train(-1)]

            def grade(self, example, answer):
                return Grade(1.0)

        coin = Coin(9)

        def score(completion, answer=""):
            return 0.25
        """,
    )
    made = make_task(f"{file}:make", seed=5)
    assert isinstance(made, OwnTask)
    assert (made.train(0).key, made.name) == ("5:0", "Coin")
    assert make_task(f"{file}:Coin", seed=6).train(0).key == "6:0"
    assert make_task(f"{file}:coin", seed=6).train(0).key == "9:0"
    assert make_task(f"{file}:NAME", seed=6).train(0) == open_task("table", seed=6).train(0)
    rows = make_task(f"{file}:ROWS", reward=f"{file}:score")
    assert rows.train(0).key.startswith("my.py:ROWS:")
    assert rows.grade(rows.train(0), "x").reward == 0.25
    assert f"{file}:ROWS, row 1: no field 'q'" in refusal(
        f"{file}:ROWS", options=TaskOptions(problem_column="q")
    )
    assert refusal(f"{file}:score") == (
        f"task {file}:score is made with seed alone, but needs 'completion': give it a default"
    )
    assert refusal(f"{file}:Example").startswith(
        f"task {file}:Example is made with seed alone, but needs 'key'"
    )
    assert refusal(f"{file}:coin.seed").startswith(f"{file}:coin.seed: no task can be made of int 9")
    assert refusal(f"{file}:Cion") == f"{file} has no 'Cion'; did you mean Coin or coin?"
    assert refusal(file) == f"{file}: which object of it? Write {file}:NAME"


def test_a_name_is_opened_as_ever(tmp_path: Path) -> None:
    assert make_task("table", seed=3).train(0) == open_task("table", seed=3).train(0)
    assert make_task("gym:chain_sum").name == "gym:chain_sum"
    assert "there is no task 'tabel'" in refusal("tabel")
    assert "gone.jsonl: there is no such file" in refusal(tmp_path / "gone.jsonl")


def test_the_example_of_the_documentation_trains(tiny: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    block = text.split("## Rows, tasks and rewards of one's own\n")[1].split("\nOn the command line")[0]
    few = partial(
        selfteach.train,
        steps=1, prompts=1, max_tokens=4, samples_every=0, eval_problems=1, lora_rank=0, student_thinking=None,
        teacher_thinking=None, out=tmp_path / "run", progress=Silent,
    )  # fmt: skip
    names: dict[str, Any] = {"selfteach": SimpleNamespace(train=few), "model": tiny}
    exec(dedent(block), names)
    assert selfteach.load_run(tmp_path / "run").finished
    task = make_task(names["rows"], reward=names["reward"], options=TaskOptions(held_out_fraction=0.2))
    example = task.held_out(1)[0]
    assert task.grade(example, f"It is {example.private['answer']}\n").reward == 1.0
    assert task.grade(example, "It is x").reward == 0.0
    assert 2 <= len(task.held_out(40)) <= 20


def test_the_task_of_the_documentation_is_one() -> None:
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    block = text.split("`my.py:Sums`, where rows are not enough:\n")[1].split("\nA reference **executes")[0]
    names: dict[str, Any] = {}
    exec(dedent(block), names)
    task = make_task(names["Sums"])
    asked = task.held_out(100)
    assert len({one.problem for one in asked}) == len(asked) == 30
    assert not {one.problem for one in asked} & {task.train(i).problem for i in range(200)}
    assert [task.grade(asked[0], text).reward for text in (asked[0].private["answer"], "x")] == [1.0, 0.0]


# --- in a run -----------------------------------------------------------------------------------------------------


def test_an_evaluation_asks_what_is_held_out_and_says_how_much_that_was(tiny: str) -> None:
    task = make_task(BARE, reward=lambda completion: 0.75, options=BARE_OPTIONS)
    policy = load_policy(tiny, trained=False, device="cpu")
    held_out = task.held_out(128)
    result, answers = evaluate(policy, task, problems=128, samples=2, sampling=Sampling(4), seed=1)
    assert result.problems == len(held_out)
    assert [one.example for one in answers] == [one for one in held_out for _ in range(2)]
    assert (result.accuracy, result.pass_at_k) == (0.75, 1.0)
    with pytest.raises(
        UserError, match=r"task two has no held-out problem to be measured on \(128 were asked for\)"
    ):
        evaluate(policy, NoneHeldOut(), problems=128, samples=2, sampling=Sampling(4))


class NoneHeldOut(Whole):
    name = "two"

    def held_out(self, count: int) -> list[Example]:
        return []


def test_a_run_trains_on_bare_rows_with_a_reward(tiny: str) -> None:
    def reward(completions: list[str], prompts: list[str], **kwargs: Any) -> list[float | None]:
        assert prompts[0].startswith("Say ")
        return [None if len(completions[0]) < 3 else float("a" in completions[0])]

    task = make_task(BARE, reward=reward, options=BARE_OPTIONS)
    run = with_task(run_of(tiny, "--max-tokens", "8", recipe="grpo"), task)
    row = run.stepped()
    graded = [one.grade for one in run.batch.rows]
    rewards = [one.reward for one in graded if one is not None]
    assert len(rewards) == len(graded) == 8
    assert row["reward/mean"] == pytest.approx(sum(rewards) / 8)
    counted = {name: count for name, count in row.items() if name.startswith("verdicts/")}
    assert sum(counted.values()) == 8
    assert set(counted) <= {"verdicts/right", "verdicts/wrong", "verdicts/no reward"}
    assert counted.get("verdicts/right", 0) == sum(rewards)
