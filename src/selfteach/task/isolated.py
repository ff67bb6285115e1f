"""Environments in worker processes: one that hangs, crashes or eats the memory costs its episode, not the run.

A worker plays several episodes at a time. Where it is killed, those that it had are played again in another up to where
they stood, which is what an environment must allow anyway (``environment.Environment``); so an episode's answers depend
neither on its neighbors nor on how many workers there are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import count
from threading import Lock, RLock
from typing import Any, TypeVar
from weakref import finalize

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.task import isolated_worker
from selfteach.task.around import Around
from selfteach.task.environment import Reply, environment_of, messages_in, opening_in
from selfteach.task.example import Example, Message, Task
from selfteach.task.options import TaskOptions
from selfteach.task.timed import START_SECONDS, TimedWorker

Given = TypeVar("Given")
MOST_WORKERS = 8
"""Of a task that does not say how many; fewer on a machine of fewer cores."""


class EnvironmentFailed(Exception):
    """An environment's call in a worker process came to nothing; the words say how."""


class Ended(Exception):
    """A worker process died at a call, or has no memory left for it. Whoever used that up may be another episode."""


def isolated(task: Task, name: str | None, seed: int, options: TaskOptions) -> Task:
    """The task with its environments in worker processes, as the options say. ``name``: what a worker makes it of again
    (``make_task``); UserError where it is None, and for a task that is no environment."""
    require(
        environment_of(task) is not None,
        f"environment_timeout limits an environment's calls, but task {task.name} is none: leave it out",
    )
    if name is None:
        raise UserError(
            f"task {task.name} was given as an object, which no worker process can make again: leave "
            "environment_timeout out, or name the task by FILE.py:NAME"
        )
    return Isolated(task, name, seed, options)


class Isolated(Around):
    """A task whose ``environment`` gives environments that run elsewhere. Its examples are made here."""

    def __init__(self, task: Task, name: str, seed: int, options: TaskOptions) -> None:
        super().__init__(task)
        default = TaskOptions()
        plain = replace(options, only=None, **{one: getattr(default, one) for one in ISOLATION})
        source = json.dumps({"task": name, "seed": seed, "options": asdict(plain)})
        assert options.environment_timeout is not None
        limits = CallLimits(options.environment_timeout, int(options.environment_memory * 1e9))
        self.environment = Workers(
            task.name, source, limits, options.environment_workers or default_workers()
        )


ISOLATION = ("environment_timeout", "environment_memory", "environment_workers")
"""The options that say how environments are isolated."""


def default_workers() -> int:
    """As many as this process has cores, of which each training process of the machine gets its share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sharing = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1))
    return max(1, min(MOST_WORKERS, cores // sharing))


@dataclass(frozen=True)
class CallLimits:
    """``seconds`` of one call, and the bytes of ``memory`` that a worker may have beyond the loaded task's."""

    seconds: float
    memory: int


class Workers:
    """Makes environments, each in that of ``workers`` processes which has the fewest; so no more are started than play
    at once. Those of different processes may be called at the same time, which is what ``workers`` tells a player."""

    def __init__(self, name: str, source: str, limits: CallLimits, workers: int) -> None:
        self.workers = workers
        self._each = [EnvironmentWorker(name, source, limits) for _ in range(workers)]
        self._numbers = count()
        self._choosing = Lock()

    def __call__(self) -> IsolatedEnvironment:
        with self._choosing:
            number = next(self._numbers)
            worker = min(self._each, key=lambda one: len(one.playing))
            worker.playing.add(number)
        return IsolatedEnvironment(worker, number)

    def close(self) -> None:
        """End the processes; the next call would start others."""
        for one in self._each:
            one.restart()


class EnvironmentWorker:
    """A worker process and what became of its calls. ``lock``: held while an episode is called, replays included."""

    def __init__(self, name: str, source: str, limits: CallLimits) -> None:
        self.name, self.source, self.limits = name, source, limits
        self.process = TimedWorker(isolated_worker.warm_up, memory=None)
        self.lock = RLock()
        self.playing: set[int] = set()
        """The episodes that are not over, by number."""
        # A program may make one run after another: each run's processes end with its task, not with the program.
        finalize(self, self.process.close)
        self.had: set[int] = set()
        """The episodes that the present process has begun, those that are over included."""

    def restart(self) -> None:
        self.process.close()
        self.had.clear()

    def attempt(self, number: int, what: Callable[[], Given]) -> Given:
        """``what`` that is asked of an episode. Where the process ends at it, and other episodes may be to blame, it is
        asked once more in a process of its own. EnvironmentFailed where there is no answer."""
        with self.lock:
            try:
                return what()
            except Ended as end:
                others = self.had - {number}
                self.restart()
                if not others:
                    raise EnvironmentFailed(str(end)) from None
            try:
                return what()
            except Ended as end:
                self.restart()
                raise EnvironmentFailed(str(end)) from None

    def reset(self, number: int, example: Example) -> tuple[Message, ...]:
        self.had.add(number)
        told = self._asked(
            "reset", isolated_worker.reset, self.source, self.limits.memory, number, asdict(example)
        )
        return opening_in(told["value"])

    def step(self, number: int, message: Message) -> Reply | None:
        """None where the process does not know the episode: it is another than the one that began it."""
        told = self._asked("step", isolated_worker.step, self.limits.memory, number, message)
        if "lost" in told:
            return None
        fields = told["value"]
        return Reply(**{**fields, "messages": messages_in(fields["messages"])})

    def let_go(self, number: int) -> None:
        self.playing.discard(number)
        with self.lock, suppress(RuntimeError):
            if number in self.had:
                outcome = self.process.call(isolated_worker.close, number, seconds=self.limits.seconds)
                if outcome.status != "done":
                    self.restart()

    def _asked(self, what: str, function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        """What a call gave. EnvironmentFailed, Ended; UserError for a mistake in what was built."""
        try:
            # A process that takes another's place makes the task before the clock runs.
            self._loaded()
            outcome = self.process.call(function, *arguments, seconds=self.limits.seconds)
        except RuntimeError as problem:
            raise UserError(
                f"environments run in processes of their own, which did not start: {problem}"
            ) from problem
        match outcome.status:
            case "timed out":
                self.restart()
                raise EnvironmentFailed(f"{what} took longer than {self.limits.seconds:g} s")
            case "died":
                raise Ended(f"{what} ended its process (an exit, a crash or no memory)")
            case "raised":
                raise EnvironmentFailed(f"{what} in the worker process: {outcome.reason}")
        told: dict[str, Any] = outcome.value
        if "fault" in told:
            raise UserError(told["fault"])
        if "raised" in told:
            raise EnvironmentFailed(told["raised"])
        if "exhausted" in told:
            raise Ended(f"{what} ran out of memory")
        return told

    def _loaded(self) -> None:
        outcome = self.process.call(
            isolated_worker.load, self.source, self.limits.memory, seconds=START_SECONDS
        )
        told = outcome.value if outcome.status == "done" else {"fault": outcome.reason}
        if "fault" in told:
            raise UserError(f"task {self.name} cannot be made in a worker process: {told['fault']}")


class IsolatedEnvironment:
    """One episode at a time, as any environment; what it has answered is kept, to be played again if need be."""

    def __init__(self, worker: EnvironmentWorker, number: int) -> None:
        self.worker, self.number = worker, number
        self.example: Example | None = None
        self.turns: list[tuple[Message, Reply]] = []

    def reset(self, example: Example) -> Sequence[Message]:
        self.example, self.turns = example, []
        return self.worker.attempt(self.number, lambda: self.worker.reset(self.number, example))

    def step(self, message: Message) -> Reply:
        reply = self.worker.attempt(self.number, lambda: self._stepped(message))
        self.turns.append((message, reply))
        return reply

    def close(self) -> None:
        self.worker.let_go(self.number)

    def _stepped(self, message: Message) -> Reply:
        reply = self.worker.step(self.number, message)
        if reply is None:
            self._play_again()
            reply = self.worker.step(self.number, message)
        if reply is None:
            raise Ended("the worker process ended between two calls")
        return reply

    def _play_again(self) -> None:
        if self.example is None:
            raise EnvironmentFailed("step before reset")
        self.worker.reset(self.number, self.example)
        for message, before in self.turns:
            if self.worker.step(self.number, message) != before:
                raise EnvironmentFailed(
                    "its turns were answered otherwise when they were played again in another process: let what is "
                    "drawn follow from the example's key"
                )
