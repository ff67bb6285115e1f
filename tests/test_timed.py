"""A check that is interrupted anywhere, or a worker that misbehaves, never gives one question another's answer."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from linecache import getline
from types import FrameType
from typing import Any

import pytest

from selfteach.task import gym, math_answer, timed
from selfteach.task.math_answer import check_math
from selfteach.task.timed import TimedWorker
from selfteach.task.verdict import Verdict


def ready() -> None: ...


def double(number: int) -> int:
    return 2 * number


def twice(number: int, asked: int) -> int:
    """Answers by itself first, whatever the caller does: on every pipe that this process could write to."""
    spoken = f'{{"number": {asked}, "status": "done", "value": {number}}}\n'.encode()
    told(spoken)
    return number


def garbage() -> int:
    told(b"Segmentation fault (not really)\n")
    return 1


def told(text: bytes) -> None:
    """Write to the caller's pipe: the writable one among the descriptors that standard streams do not hold."""
    for descriptor in range(3, 32):
        try:
            if "pipe" in os.readlink(f"/proc/self/fd/{descriptor}"):
                os.write(descriptor, text)
        except OSError:
            continue


def interrupts_its_caller(number: int) -> int:
    """Ctrl-C in the caller, between its question and the reply."""
    os.kill(os.getppid(), signal.SIGINT)
    return number


@pytest.fixture
def worker() -> Iterator[TimedWorker]:
    worker = TimedWorker(ready)
    yield worker
    worker.close()


class InterruptedAt:
    """Within it KeyboardInterrupt arises before the n-th line of a file that is executed in this thread."""

    def __init__(self, file: str, line: int) -> None:
        self.file, self.left, self.arose = file, line, False

    def __enter__(self) -> InterruptedAt:
        self.before = sys.gettrace()
        sys.settrace(self.entered)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def entered(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        return self.stepped if frame.f_code.co_filename == self.file else None

    def stepped(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        # No signal is handled between a "with" and its body, nor between the body and its exit: there is no call.
        heads = getline(self.file, frame.f_lineno).lstrip().startswith(("with ", "try:"))
        if event == "line" and not heads:
            self.left -= 1
            if self.left == 0:
                self.arose = True
                raise KeyboardInterrupt
        return self.stepped


def interrupted_everywhere(worker: TimedWorker, *, warm: bool, every: int = 1) -> int:
    """Interrupt a call at each ``every``-th line that it executes: the next calls are right. How many lines it has."""
    for line in range(1, 400, every):
        if warm:
            assert worker.call(double, 1, seconds=60).value == 2
        else:
            worker.close()
        with InterruptedAt(timed.__file__, line) as interrupted, suppress(KeyboardInterrupt):
            assert worker.call(double, 10 + line, seconds=60).value == 20 + 2 * line
        if not interrupted.arose:
            return line
        assert [worker.call(double, i, seconds=60).value for i in (3, 4)] == [6, 8], line
    raise AssertionError("a call has no end")


def test_a_call_interrupted_at_some_lines_leaves_the_next_ones_right(worker: TimedWorker) -> None:
    assert interrupted_everywhere(worker, warm=True, every=4) > 15


@pytest.mark.slow
@pytest.mark.parametrize("warm", [True, False], ids=["a question to a worker", "the start of one"])
def test_a_call_interrupted_at_any_line_leaves_the_next_ones_right(worker: TimedWorker, warm: bool) -> None:
    assert interrupted_everywhere(worker, warm=warm) > 15


@pytest.mark.parametrize("line", range(1, 8))
def test_an_interrupted_replacement_leaves_no_dying_worker(worker: TimedWorker, line: int) -> None:
    """Ctrl-C while a worker that was too slow is being ended."""
    assert worker.call(double, 1, seconds=60).value == 2
    with InterruptedAt(timed.__file__, line), suppress(KeyboardInterrupt):
        worker._stop()
    assert worker.call(double, 3, seconds=60).value == 6


@pytest.mark.skipif(sys.platform != "linux", reason="finds the pipe in /proc")
def test_a_worker_that_answers_twice_is_heard_once(worker: TimedWorker) -> None:
    assert worker.call(double, 1, seconds=60).value == 2
    assert worker.call(twice, 7, worker._asked + 1, seconds=60).value == 7
    assert [worker.call(double, i, seconds=60).value for i in (3, 4, 5)] == [6, 8, 10]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the pipe in /proc")
def test_a_worker_that_says_what_is_no_reply_is_replaced(worker: TimedWorker) -> None:
    assert worker.call(garbage, seconds=60).status == "died"
    assert [worker.call(double, i, seconds=60).value for i in (3, 4)] == [6, 8]


def test_a_worker_that_dies_between_two_questions_is_replaced(worker: TimedWorker) -> None:
    assert worker.call(double, 5, seconds=60).value == 10
    process = worker._process
    assert process is not None
    process.kill()
    process.wait()
    assert worker.call(double, 3, seconds=60).value == 6


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_real_interrupt_between_question_and_reply(worker: TimedWorker) -> None:
    assert worker.call(double, 1, seconds=60).value == 2
    for number in range(3):
        with pytest.raises(KeyboardInterrupt):
            worker.call(interrupts_its_caller, number, seconds=60)
        assert worker.call(double, number, seconds=60).value == 2 * number


def test_interrupted_checks_are_not_remembered_and_shift_no_verdict() -> None:
    """Through the verifier and its memory: every second check is interrupted somewhere."""
    right = [(f"{number}/64", str(number / 64), Verdict.RIGHT) for number in range(1, 33, 2)]
    wrong = [(f"{number}/64", str(number / 64 + 1), Verdict.WRONG) for number in range(1, 33, 2)]
    pairs = [pair for both in zip(right, wrong, strict=True) for pair in both]
    check_math("1/128", "0.0078125")
    for line, (answer, gold, _) in enumerate(pairs[::5]):
        with InterruptedAt(timed.__file__, 3 * line + 2) as interrupted, pytest.raises(KeyboardInterrupt):
            check_math(answer, gold)
        assert interrupted.arose
    for _ in range(2):
        assert [check_math(answer, gold) for answer, gold, _ in pairs] == [verdict for *_, verdict in pairs]


def test_every_worker_that_grades_is_of_this_kind() -> None:
    """Nothing else in the package talks to a process about text: what is tested here is tested for all."""
    assert isinstance(math_answer._worker, TimedWorker)
    assert isinstance(gym._worker, TimedWorker)
