"""Environments in worker processes: what they say is what they say in the run, and what breaks costs its episode."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doors import run_of_recipe
from hostile_worlds import HostileTask
from selfteach.cli import main
from selfteach.errors import UserError
from selfteach.recipes.grpo import GRPO
from selfteach.recipes.kit import Optimization, Rollouts
from selfteach.task import isolated, isolated_worker
from selfteach.task.environment import Reply, turns_of
from selfteach.task.example import Example, Message
from selfteach.task.isolated import EnvironmentFailed, IsolatedEnvironment
from selfteach.task.opening import TaskOptions
from selfteach.task.rows import make_task
from selfteach.training.text.preflight.environment import environment_checks
from tiny import CHATML, tiny_model_folder

HOSTILE = str(Path(__file__).parent / "hostile_worlds.py") + ":make"
SMALL = {
    "rollouts": Rollouts(max_tokens=4, per_prompt=3, max_turns=3),
    "optimization": Optimization(prompts=2),
}
ENDS = {
    "hang": "step took longer than 0.9 s",
    "fail": "ValueError: no such luck",
    "mute": "Mute",
    "leave": "SystemExit: 3",
    "vanish": "step ended its process",
    "crash": "step ended its process",
    "eat": "step ran out of memory",
    "nibble": "step ran out of memory",
    "endless": "messages have 20,000,000 characters",
}


def options(workers: int = 1, seconds: float = 0.9) -> TaskOptions:
    return TaskOptions(environment_timeout=seconds, environment_memory=0.3, environment_workers=workers)


@pytest.fixture
def task(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One process for all, so that every episode has neighbors; a deadline (conftest) where something hangs."""
    hangs = "hang" in request.node.name
    made = make_task(HOSTILE, options=options(seconds=0.9 if hangs else 60))
    yield made
    made.environment.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_folder(tmp_path_factory.mktemp("model"), template=CHATML))


def said(environment: Any, text: str) -> Reply:
    return environment.step(Message(role="assistant", content=text))


def begun(task: Any, index: int = 0, **private: str) -> tuple[Any, Example]:
    environment, example = task.environment(), task.train(index).told(**private)
    assert tuple(environment.reset(example)) == example.prompt
    return environment, example


def wrong(example: Example) -> str:
    return "0" if example.private["answer"] != "0" else "1"


@pytest.mark.parametrize("what", ENDS)
def test_what_breaks_in_a_step_costs_its_episode_and_no_other(task: Any, what: str) -> None:
    neighbor, example = begun(task, 1)
    before = said(neighbor, wrong(example))
    broken, _ = begun(task, 2)
    with pytest.raises(EnvironmentFailed, match=ENDS[what]) as failure:
        said(broken, what)
    assert len(str(failure.value)) < 600
    own = HostileTask().environment()
    own.reset(example)
    assert before == own.step(Message(role="assistant", content=wrong(example)))
    assert said(neighbor, example.private["answer"]) == own.step(
        Message(role="assistant", content=example.private["answer"])
    )


@pytest.mark.parametrize("what", ["hang", "fail", "vanish", "eat"])
def test_what_breaks_in_a_reset_does_so_too(task: Any, what: str) -> None:
    neighbor, example = begun(task, 1)
    said(neighbor, wrong(example))
    with pytest.raises(EnvironmentFailed, match=ENDS[what].replace("step", "reset")):
        task.environment().reset(task.train(2).told(reset=what))
    reply = said(neighbor, example.private["answer"])
    assert (reply.done, reply.reward) == (True, 1.0)


def test_a_neighbor_that_holds_the_memory_takes_none_of_it_away(task: Any) -> None:
    hog, example = begun(task, 1)
    said(hog, "keep 180")
    other, _ = begun(task, 2)
    assert said(other, "keep 180").messages  # each within 300 MB, both not
    assert said(hog, example.private["answer"]).done
    with pytest.raises(EnvironmentFailed, match="ran out of memory"):
        said(other, "keep 400")


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(12, "no"), RuntimeError("can't start new thread")], ids=repr
)
def test_memory_that_is_used_up_is_known_by_its_errors(error: Exception) -> None:
    def fail() -> None:
        raise error

    assert isolated_worker.answered(fail, 1 << 30) == {"exhausted": True}


def test_a_limit_that_no_machine_has_limits_nothing() -> None:
    task = make_task(HOSTILE, options=replace(options(seconds=60), environment_memory=1e12))
    begun(task)
    task.environment.close()


def test_processes_end_with_their_task() -> None:
    task = make_task(HOSTILE, options=options(seconds=60))
    environment, _ = begun(task)
    process = environment.worker.process._process
    del task, environment
    gc.collect()
    assert process.poll() is not None


def test_no_more_processes_start_than_episodes_play() -> None:
    task = make_task(HOSTILE, options=options(seconds=60, workers=50))
    for _ in range(3):
        playing = [begun(task, i)[0] for i in range(2)]
        for one in playing:
            one.close()
    started = [one for one in task.environment._each if one.process._process is not None]
    assert len(started) == 2
    task.environment.close()


def test_a_megabyte_comes_through(task: Any) -> None:
    environment, _ = begun(task)
    assert said(environment, "megabyte").messages[0]["content"] == "é" * 1_000_000


def test_episodes_that_cannot_be_played_again_are_told_so(task: Any) -> None:
    fickle, _ = begun(task, 1)
    said(fickle, "time")
    broken, _ = begun(task, 2)
    with pytest.raises(EnvironmentFailed):
        said(broken, "vanish")
    with pytest.raises(EnvironmentFailed, match="answered otherwise when they were played again"):
        said(fickle, "1")


def test_what_is_over_is_let_go(task: Any) -> None:
    environment, _ = begun(task)
    environment.close()
    worker = environment.worker
    assert worker.step(environment.number, Message(role="assistant", content="1")) is None


def test_a_mistake_in_what_was_built_stops_the_run(task: Any) -> None:
    environment, _ = begun(task)
    with pytest.raises(UserError, match="the world was built wrongly"):
        said(environment, "mistake")


def test_several_processes_are_called_at_the_same_time(model: str, tmp_path: Path) -> None:
    """Two episodes wait for each other, which none of two in a row could."""
    task = make_task(HOSTILE, options=options(workers=2, seconds=60))
    learner = run_of_recipe(GRPO(**SMALL), model, tmp_path / "run", problems=2, task=task)[1]
    folder = tmp_path / "meeting"
    folder.mkdir()
    learner.now.step = 0
    tools = learner.writing.tools(0)
    blanks = [tools.started(one) for one in learner.writing.drawn(2, 0)]
    both = tools.player(task.environment).play(blanks, 0, [[f"meet {folder}"]] * 2)
    assert [one.text.splitlines()[1] for one in both] == ["user: met"] * 2
    task.environment.close()


def test_a_batch_goes_on_without_the_one_that_hangs(model: str, tmp_path: Path, task: Any) -> None:
    learner = run_of_recipe(GRPO(**SMALL), model, tmp_path, problems=2, task=task)[1]
    learner.now.step = 0
    tools = learner.writing.tools(0)
    prompts = learner.writing.drawn(4, 0)
    blanks = [tools.started(one) for one in prompts]
    turns = [[wrong(one.example), one.example.private["answer"]] for one in prompts]
    turns[1] = [wrong(prompts[1].example), "hang", "1"]
    found = tools.player(task.environment).play(blanks, 0, turns)
    alone = tools.player(HostileTask().environment)
    expected = alone.play([blanks[i] for i in (0, 2, 3)], 0, [turns[i] for i in (0, 2, 3)])
    assert [found[i] for i in (0, 2, 3)] == expected
    grade = found[1].grade
    assert grade is not None
    assert (grade.numbers["environment_failed"], grade.numbers["turns"], grade.reward) == (1, 2, 0.01)
    with pytest.raises(UserError, match=r"failed in 2 of 2 episodes.*step took longer than 0.9 s"):
        tools.player(task.environment).play(blanks[:2], 0, [["hang"], ["hang"]])


@pytest.mark.parametrize("workers", [1, 3])
def test_trajectories_are_those_of_the_runs_own_process(model: str, tmp_path: Path, workers: int) -> None:
    task = make_task(HOSTILE, options=options(workers, seconds=60))
    here, elsewhere = (
        run_of_recipe(GRPO(**SMALL), model, tmp_path / name, problems=2, task=one)[1]
        for name, one in (("here", make_task(HOSTILE)), ("elsewhere", task))
    )
    for step in (0, 1):
        expected, found = here.collect(step).rows, elsewhere.collect(step).rows
        assert [replace(one, grade=None) for one in found] == [replace(one, grade=None) for one in expected]
        assert [one.grade and vars(one.grade) for one in found] == [
            one.grade and vars(one.grade) for one in expected
        ]
    assert all(check.ok for check in environment_checks(elsewhere, task.environment))
    task.environment.close()


def test_a_run_goes_on_with_its_workers(model: str, tmp_path: Path) -> None:
    words = [
        *("train", "grpo", "--task", HOSTILE, "--model", model, "--max-tokens", "4", "--per-prompt", "2"),
        *(
            "--prompts",
            "2",
            "--max-turns",
            "3",
            "--eval-problems",
            "2",
            "--eval-samples",
            "1",
            "--lora-rank",
            "0",
        ),
    ]
    apart = ["--environment-timeout", "20", "--environment-workers", "2"]
    assert main([*words, *apart, "--steps", "2", "--out", str(tmp_path / "whole")]) == 0
    assert main([*words, "--steps", "2", "--out", str(tmp_path / "here")]) == 0
    assert main([*words, *apart, "--steps", "1", "--out", str(tmp_path / "run")]) == 0
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--steps", "2"]) == 0
    whole, here, run = (learned(tmp_path / name) for name in ("whole", "here", "run"))
    assert run[-1] == whole[-1] == here[-1]
    assert whole[:2] == here[:2]


def learned(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics, without what a clock says."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = re.compile("time|second|per_second|memory|hours")
    return [{k: v for k, v in row.items() if not timed.search(k)} for row in rows]


@pytest.mark.parametrize("name", ["doors", "calculator"])
def test_the_arenas_worlds_are_played_elsewhere_when_asked(name: str) -> None:
    here, elsewhere = make_task(name), make_task(name, options=options(seconds=20))
    assert not isinstance(here.environment(), IsolatedEnvironment)  # type: ignore[attr-defined]
    example = here.train(0)
    one, other = here.environment(), elsewhere.environment()  # type: ignore[attr-defined]
    assert tuple(one.reset(example)) == tuple(other.reset(example))
    for turn in ("?", *turns_of(example, "solution")):
        assert played(one, turn) == played(other, turn)
    elsewhere.environment.close()  # type: ignore[attr-defined]


def played(environment: Any, turn: str) -> Reply:
    reply = said(environment, turn)
    return replace(reply, messages=tuple(reply.messages))


@pytest.mark.parametrize(
    ("task", "more", "complaint"),
    [
        (HostileTask(), {}, "given as an object, which no worker process can make again"),
        ("table", {}, "but task table is none: leave it out"),
        ([{"problem": str(i), "answer": "1"} for i in range(40)], {}, "but task rows is none"),
        (HOSTILE, {"environment_timeout": 0.0}, "environment_timeout"),
        (HOSTILE, {"environment_timeout": None}, "give an environment_timeout too"),
        (HOSTILE, {"environment_workers": 0}, "environment_workers"),
        (HOSTILE, {"environment_memory": -1.0}, "environment_memory"),
    ],
)
def test_what_cannot_be_isolated_is_refused(task: Any, more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make_task(task, options=replace(options(), **more))


def test_a_task_that_its_worker_cannot_make_is_named(tmp_path: Path) -> None:
    file = tmp_path / "gone.py"
    file.write_text(Path(HOSTILE.removesuffix(":make")).read_text())
    task = make_task(f"{file}:make", options=options())
    file.write_text("raise ValueError('not any more')")
    with pytest.raises(UserError, match=r"task hostile cannot be made in a worker process: .*not any more"):
        task.environment().reset(task.train(0))  # type: ignore[attr-defined]


def test_there_are_no_more_workers_than_cores_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated.os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    assert isolated.default_workers() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert isolated.default_workers() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert isolated.default_workers() == 1
