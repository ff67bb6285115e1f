"""Processes that make a study's runs, each one run after another."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Self, TypeVar

from selfteach.studies.children import STOPPED, Children, terminated_as_interrupted
from selfteach.studies.runs import Planned, log_of, threads_for

MOST_RUNS = 40
"""Of one process; then another takes its place, so that memory which a library keeps does not add up."""


class Worker:
    """One process, started with its first run."""

    def __init__(self, children: Children, env: Mapping[str, str]) -> None:
        self.children, self.env = children, env
        self._commands: int | None = None

    def run(self, words: Sequence[str], log: Path) -> int:
        """Make a run; its exit code, or STOPPED where the process could not be started any more."""
        if self._commands is None and not self.start():
            return STOPPED
        assert self._commands is not None
        assert self.process.stdout is not None
        line = json.dumps({"words": list(words), "log": str(log.absolute())}) + "\n"
        with suppress(BrokenPipeError):  # it has ended: there is no answer then
            os.write(self._commands, line.encode())
        answer = self.process.stdout.readline()
        self.made += 1
        if answer and int(answer) != 130 and self.made < MOST_RUNS:
            return int(answer)
        code = self.end()
        return int(answer) if answer else code or 1

    def start(self) -> bool:
        read, write = os.pipe()
        command = [sys.executable, "-m", "selfteach.worker", str(read)]
        try:
            process = self.children.start(command, self.env, read)
        finally:
            os.close(read)
        if process is None:
            os.close(write)
            return False
        self.process, self._commands, self.made = process, write, 0
        return True

    def end(self) -> int:
        """Let the process end, which is idle or has ended; its exit code."""
        if self._commands is None:
            return 0
        os.close(self._commands)
        self._commands = None
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.children.forget(self.process)
        return code


W = TypeVar("W", bound=Planned)


class Crew:
    """``jobs`` workers. However the block ends that it is the context of, none of them outlives it; Ctrl-C and SIGTERM
    end runs in training, saved, and no other is started."""

    def __init__(self, jobs: int) -> None:
        self.jobs, self.children = jobs, Children()
        env = {**os.environ, **threads_for(jobs)}
        self.workers: SimpleQueue[Worker] = SimpleQueue()
        self.all = [Worker(self.children, env) for _ in range(jobs)]
        for one in self.all:
            self.workers.put(one)

    def __enter__(self) -> Self:
        self._context = ExitStack()
        self._context.enter_context(terminated_as_interrupted())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._context:
            if kind is not None:
                self.children.stop()
            for one in self.all:
                one.end()

    def make(self, runs: Sequence[W], ended: Callable[[W, int], None], more: Callable[[], bool]) -> None:
        """Make the runs, ``jobs`` at a time, in order, as long as ``more()``; interrupted ones go on. ``ended`` is
        called with each and its exit code, in any thread."""
        with ThreadPoolExecutor(self.jobs) as pool:
            ends = [pool.submit(self.one, run, ended, more) for run in runs]
            try:
                for done in as_completed(ends):
                    done.result()
            except BaseException:  # before the pool is left, which waits for all that it was given
                for one in ends:
                    one.cancel()
                self.children.stop()
                raise

    def one(self, run: W, ended: Callable[[W, int], None], more: Callable[[], bool]) -> None:
        if self.children.closed or not more():
            return
        try:
            begun = (run.folder / "config.toml").exists()
            worker = self.workers.get()
            try:
                code = worker.run([*run.words, *(["--resume"] if begun else [])], log_of(run))
            finally:
                self.workers.put(worker)
            if not self.children.closed:
                ended(run, code)
        except BaseException:
            self.children.close()  # this thread would be the first to begin another
            raise
