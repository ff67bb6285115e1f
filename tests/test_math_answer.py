"""The answer checker: what it accepts, what it tells apart, and that hostile text cannot hang or hijack it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from selfteach.task import math_answer
from selfteach.task.answer import AnswerFormat, extract_answer, last_boxed, write_answer
from selfteach.task.math_answer import MAX_CHARS, check_math
from selfteach.task.timed import TimedWorker
from selfteach.task.verdict import Verdict


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("1/2", "0.5"),
        (r"\frac{1}{2}", "0.5"),
        (r"\boxed{\frac{1}{2}}", "1/2"),
        ("$5$", "5"),
        ("5.", "5"),
        ("1,000", "1000"),
        ("x=5", "5"),
        (r"3\sqrt{2}", r"\sqrt{18}"),
        (r"x^2+2x+1", r"(x+1)^2"),
        (r"\{2,1\}", r"\{1,2\}"),
        ("no solution", "no solution"),
    ],
)
def test_equal_answers_are_right(answer: str, gold: str) -> None:
    assert check_math(answer, gold) is Verdict.RIGHT


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("4", "5"),
        ("-5", "5"),
        ("1,2,3,4,5", "3"),
        (r"\frac{1}{3}", "0.5"),
        ("x+1", "x-1"),
        ("(1,2)", "(2,1)"),
    ],
)
def test_unequal_answers_are_wrong(answer: str, gold: str) -> None:
    assert check_math(answer, gold) is Verdict.WRONG


def test_blank_answer_is_no_answer() -> None:
    assert check_math(r"\boxed{ }", "5") is Verdict.NO_ANSWER


def test_unparseable_answer_is_told_apart_from_a_wrong_one() -> None:
    assert check_math(r"\frac{\frac{", "5") is Verdict.UNPARSEABLE


def test_unparseable_reference_is_told_apart_from_an_unparseable_answer() -> None:
    assert check_math("5", r"\frac{\frac{") is Verdict.REFERENCE_UNPARSEABLE


def test_check_that_hangs_is_timed_out_and_the_next_check_works() -> None:
    assert check_math("9^{9^{9^{9}}}", "5", seconds=0.5) is Verdict.TIMED_OUT
    assert check_math("1/4", "0.25") is Verdict.RIGHT


@pytest.mark.parametrize(
    "answer",
    [
        "9**9**9**9",
        "10000000000!",
        r"\binom{10^{9}}{5\cdot 10^8}",
        "{" * 10_000 + "5" + "}" * 10_000,
        "(" * 500 + "5" + ")" * 500,
        r"\sqrt{" * 300 + "5" + "}" * 300,
        "5\x00",
        "\x00" * 20,
        "\ud800",
        "a" * 100_000,
        "-" * (MAX_CHARS - 1),
    ],
)
def test_hostile_answer_earns_nothing_and_does_no_harm(answer: str) -> None:
    assert check_math(answer, "7", seconds=0.4) in (Verdict.WRONG, Verdict.UNPARSEABLE, Verdict.TIMED_OUT)
    assert check_math("14/2", "7") is Verdict.RIGHT


@pytest.mark.parametrize(
    "template",
    [
        "__import__('os').system('touch {}')",
        r"\text{{__import__('os').system('touch {}')}}",
        "open('{}','w')",
    ],
)
def test_answer_is_never_executed(template: str, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    text = template.format(trace)
    assert check_math(text, "5") is not Verdict.RIGHT
    check_math("5", text)
    assert not trace.exists()


def test_too_long_an_answer_does_not_reach_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_answer, "_check", lambda *arguments: pytest.fail("was parsed"))
    assert check_math("1" * (MAX_CHARS + 1), "5") is Verdict.UNPARSEABLE


def test_check_works_in_a_thread_other_than_the_main_one() -> None:
    found: list[Verdict] = []
    thread = threading.Thread(target=lambda: found.append(check_math("7/8", "0.875")))
    thread.start()
    thread.join()
    assert found == [Verdict.RIGHT]


def test_threads_share_a_worker_without_mixing_up_their_answers() -> None:
    found: dict[int, Verdict] = {}

    def check(i: int) -> None:
        found[i] = check_math(f"{i}/64", f"{i if i % 2 else i + 1}/64 + 0")

    threads = [threading.Thread(target=check, args=(i,)) for i in range(1, 41)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: Verdict.RIGHT if i % 2 else Verdict.WRONG for i in range(1, 41)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_starts_a_worker_of_its_own() -> None:
    assert check_math("3/8", "0.375") is Verdict.RIGHT
    worker = math_answer._worker
    process = worker._process
    child = os.fork()
    if child == 0:
        right = check_math("5/16", "0.3125") is Verdict.RIGHT and worker._process is not process
        worker.close()
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert worker._process is process
    assert check_math("7/16", "0.4375") is Verdict.RIGHT


def test_script_without_a_main_guard_can_check_and_ends_cleanly(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from selfteach.task.math_answer import check_math\nprint(check_math('1/2', '0.5', 600))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("right\n", "")


def test_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "from selfteach.task.math_answer import _worker, check_math\n"
        "check_math('1/2', '0.5', 600)\n"
        "print(_worker._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert _ends(worker)


def _ends(pid: int) -> bool:
    for _ in range(6000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{pid}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True  # ended; whoever adopted it has not collected it yet
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return False


def ready() -> None: ...


def loaded(name: str) -> bool:
    return name in sys.modules


def double(number: int) -> int:
    return 2 * number


def exit_at_once() -> None:
    os._exit(3)


def allocate(count: int) -> int:
    return len(bytearray(count))


def chatter(text: str) -> str:
    print(text)
    print(text, file=sys.stderr)
    return text


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def fail() -> None:
    raise KeyError("no such thing")


@pytest.fixture
def worker() -> Iterator[TimedWorker]:
    worker = TimedWorker(ready)
    yield worker
    worker.close()


def test_worker_returns_the_value(worker: TimedWorker) -> None:
    assert worker.call(double, 21, seconds=5).value == 42


class Interrupting:
    """A queue of replies whose next reader is interrupted."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.calls = inner, 0

    def put(self, line: str) -> None:
        self.inner.put(line)

    def get(self, timeout: float) -> str:
        self.calls += 1
        if self.calls == 1:
            raise KeyboardInterrupt
        return str(self.inner.get(timeout=timeout))


def test_reply_to_an_interrupted_question_is_not_taken_for_the_next_ones(worker: TimedWorker) -> None:
    assert worker.call(double, 1, seconds=60).value == 2
    worker._replies = Interrupting(worker._replies)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        worker.call(double, 2, seconds=60)
    assert [worker.call(double, i, seconds=60).value for i in (3, 4, 5)] == [6, 8, 10]


def test_reply_with_another_number_is_passed_over(worker: TimedWorker) -> None:
    worker.call(double, 1, seconds=60)
    worker._replies.put('{"number": 1, "status": "done", "value": "stale"}\n')
    assert worker.call(double, 4, seconds=60).value == 8


def test_interrupt_during_a_check_spoils_no_verdict() -> None:
    worker = math_answer._worker
    check_math("1/32", "0.03125")
    worker._replies = Interrupting(worker._replies)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        check_math("3/32", "0.1")
    assert check_math("5/32", "0.15625") is Verdict.RIGHT
    assert check_math("7/32", "0.3") is Verdict.WRONG
    assert check_math("3/32", "0.09375") is Verdict.RIGHT
    assert check_math("3/32", "0.1") is Verdict.WRONG


def test_check_that_was_not_finished_is_not_remembered() -> None:
    assert check_math("9^{9^{9^{8}}}", "5", seconds=0.5) is Verdict.TIMED_OUT
    known = math_answer._check.cache_info().currsize
    assert check_math("9^{9^{9^{8}}}", "6", seconds=0.5) is Verdict.TIMED_OUT
    assert math_answer._check.cache_info().currsize == known


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_worker_starts_without_the_heavy_libraries(worker: TimedWorker, library: str) -> None:
    assert worker.call(loaded, library, seconds=5).value is False


def test_exception_in_the_worker_is_reported_and_the_worker_lives_on(worker: TimedWorker) -> None:
    outcome = worker.call(fail, seconds=5)
    process = worker._process
    assert (outcome.status, outcome.reason) == ("raised", "KeyError: 'no such thing'")
    assert worker.call(double, 1, seconds=5).value == 2
    assert worker._process is process


def test_worker_that_dies_is_replaced(worker: TimedWorker) -> None:
    assert worker.call(exit_at_once, seconds=5).status == "died"
    assert worker.call(double, 2, seconds=5).value == 4


def test_worker_that_sleeps_past_its_deadline_is_killed(worker: TimedWorker) -> None:
    worker.call(double, 1, seconds=5)
    process = worker._process
    assert process is not None
    assert worker.call(sleep, 60, seconds=0.2).status == "timed out"
    assert process.poll() is not None


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_memory_hog_fails_instead_of_filling_the_machine(worker: TimedWorker) -> None:
    outcome = worker.call(allocate, 8 << 30, seconds=20)
    assert (outcome.status, outcome.reason) == ("raised", "MemoryError: ")


def test_text_printed_in_the_worker_does_not_mix_with_its_replies(worker: TimedWorker) -> None:
    assert worker.call(chatter, '{"status": "done"}\n\x00', seconds=5).value == '{"status": "done"}\n\x00'


def test_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        TimedWorker(fail).call(double, 1, seconds=5)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed {5}", "5"),
        (r"done: \boxed{5} and cut off \boxed{6", "5"),
        (r"{ an open brace, \boxed{5}", "5"),
        (r"} a stray one, \boxed{5}", "5"),
        ("nothing", None),
        (r"\boxed{unclosed", None),
    ],
)
def test_last_closed_box_is_found(text: str, found: str | None) -> None:
    assert last_boxed(text) == found


def test_last_box_of_a_very_long_text_is_found_in_linear_time() -> None:
    assert last_boxed(r"\boxed{5}" + r"\boxed{" * 200_000) == "5"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Answer: 5", "5"),
        ("The sum is 7. Answer: 5", "5"),
        ("Answer: 5\nno, wait\nAnswer: 6 \nbye", "6"),
        ("Answer:\n5", None),
        ("MyAnswer: 5", None),
        ("the answer is 5", None),
        ("**Answer:** 7", "7"),
        ("**Answer: 7**", "7"),
        ("**Answer**: 7", "7"),
        ("**Answer:**7", "7"),
        ("Answer: **7**", "7"),
        ("**Final Answer: $7$**", "7"),
        ("*Answer:* 7", "7"),
        ("_Answer: 7_", "7"),
        ("<b>Answer:</b> 7", "7"),
        ("### Answer: 7", "7"),
        ("- **Answer:** `7`", "7"),
        ("Answer: $7$", "7"),
        ("Answer: $\\boxed{7}$.", "7"),
        ("Answer: \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("answer: 7", "7"),
        ("ANSWER: 7.", "7"),
        ("Answer： 7", "7"),
        ("Answer: a*b", "a*b"),
        ("Answer: *", "*"),
        ("Answer: **a** and b", "**a** and b"),
        ("Answer: f(x) = \\boxed{3}", "f(x) = \\boxed{3}"),
        ("Answer: so be it.", "so be it."),
    ],
)
def test_last_answer_line_is_found(text: str, found: str | None) -> None:
    assert extract_answer(text, "line") == found


@pytest.mark.parametrize(
    ("text", "found"),
    [("<answer>a\nb</answer>", "a\nb"), ("<answer>1</answer> <answer>2</answer>", "2"), ("<answer>1", None)],
)
def test_last_answer_tags_are_found(text: str, found: str | None) -> None:
    assert extract_answer(text, "tags") == found


@pytest.mark.parametrize("answer_format", ["line", "boxed", "tags", "hashes", "text"])
def test_answer_is_read_back_from_how_it_is_written(answer_format: str) -> None:
    assert extract_answer(write_answer("x + 1", answer_format), answer_format) == "x + 1"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The answer is 18.", "18"),
        ("21 - 99 = -78", "-78"),
        ("about 1,234.50 in all", "1234.50"),
        ("none at all", None),
        ("x is –4", "-4"),
        ("x = −4", "-4"),
        ("10-3", "3"),
        ("pages 3–5", "5"),
        ("1.5e-3", "1.5e-3"),
        ("it is 1/2", "1/2"),
        ("7" * 100_000, "7" * 100_000),
    ],
)
def test_the_number_format_reads_the_last_number_written(text: str, found: str | None) -> None:
    assert extract_answer(text, "number") == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("So 3.\n#### 32", "32"),
        ("#### 1\n#### 2 \nbye", "2"),
        ("####", None),
        ("none", None),
        ("##### title", None),
    ],
)
def test_the_answer_behind_hashes_is_found(text: str, found: str | None) -> None:
    assert extract_answer(text, "hashes") == found


@pytest.mark.parametrize("answer_format", get_args(AnswerFormat))
@pytest.mark.parametrize(
    "text",
    [
        "answer:**" * 100_000,
        "Answer: " * 100_000,
        "#" * 500_000,
        "-" * 500_000,
        "1," * 300_000,
        "*" * 500_000,
    ],
)
def test_long_texts_are_read_in_linear_time(text: str, answer_format: AnswerFormat) -> None:
    extract_answer(text, answer_format)  # quadratic time would be hours
