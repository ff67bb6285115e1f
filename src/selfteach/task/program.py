"""Whether a program does what its tests ask, and what a judge of programs would tell its author."""

from __future__ import annotations

from collections.abc import Mapping

from selfteach.sandbox.confined import Isolation, Limits
from selfteach.sandbox.run import Tested, check, run
from selfteach.task.code_tests import Case, read_tests
from selfteach.task.example import Grade
from selfteach.task.verdict import Verdict

PASSED = "tests_passed"
"""The number of a grade: the share of the tests that were passed."""
OUTPUT = 64 << 10
"""Bytes of a program's output that are read beside twice what is expected."""
NO_PROGRAM = "No Python program was found: put it into one block that begins with ```python."
SHOWN = 400
"""Characters of one text in what is said of a program."""


def grade_program(
    program: str, private: Mapping[str, str], seconds: float, isolation: Isolation
) -> tuple[Verdict, Grade]:
    """Reward 1 for a program that passes all of ``private["tests"]``, else 0, with what went wrong as its feedback.

    ``private["starter_code"]``: what a program goes on from, if it is no whole one. ``seconds``: for all tests. Raises
    UserError where this machine has no sandbox.
    """
    tests = read_tests(private["tests"])
    if isinstance(tests, str):
        return Verdict.REFERENCE_UNPARSEABLE, _graded(Verdict.REFERENCE_UNPARSEABLE, program, 0.0, tests)
    if isinstance(tests, list):
        return _on_cases(program, tests, seconds, isolation)
    starter, limits = private.get("starter_code", ""), Limits(seconds)
    tested = check(program, tests, starter=starter, limits=limits, isolation=isolation)
    share = tested.passed / tested.of if tested.of else 0.0
    verdict = _verdict(tested)
    return verdict, _graded(verdict, program, share, _said(tested, seconds))


def _verdict(tested: Tested) -> Verdict:
    if tested.fault is not None or (tested.of == 0 and tested.failed is None and not tested.timed_out):
        return Verdict.REFERENCE_UNPARSEABLE
    if tested.fine:
        return Verdict.RIGHT
    return Verdict.TIMED_OUT if tested.timed_out and tested.failed is None else Verdict.WRONG


def _graded(verdict: Verdict, program: str, share: float, said: str | None) -> Grade:
    right = verdict is Verdict.RIGHT
    return Grade(float(right), None if right else said, program, verdict.value, {PASSED: share})


def _said(tested: Tested, seconds: float) -> str | None:
    """What the tests found, as a judge of programs would tell its author."""
    if tested.fault is not None:
        return f"The tests cannot be run: {tested.fault}"
    if tested.failed is None:
        where = tested.at or "before its first test"
        return (
            f"The program took longer than {seconds:g} s: {where}"
            if tested.timed_out
            else "There is no test."
        )
    test, why, call = (tested.failed[name] for name in ("test", "why", "call"))
    if not test:
        return f"The program cannot be run: {why}"
    more = [why, call and f"Its last call: {call}"]
    return "\n".join([f"The program fails a test: {test}", *filter(None, more)])


def _on_cases(program: str, cases: list[Case], seconds: float, isolation: Isolation) -> tuple[Verdict, Grade]:
    """Of a program that reads its input and prints its output: it is run for one case after the other, up to the first
    that it fails. Outputs are compared word by word."""
    left = seconds
    for number, case in enumerate(cases):
        limits = Limits(max(left, 0.01), output=OUTPUT + 2 * len(case.expected.encode()))
        ended = run(program, case.given, limits, isolation)
        left -= ended.seconds
        if ended.fine and ended.output.split() == case.expected.split():
            continue
        verdict = Verdict.TIMED_OUT if ended.how == "timed out" else Verdict.WRONG
        last = ended.errors.strip().splitlines()[-1:]
        found = f"took longer than {seconds:g} s" if verdict is Verdict.TIMED_OUT else _cut(ended.output)
        said = [f"Input: {_cut(case.given)}", f"Output: {found}", f"Expected: {_cut(case.expected)}"]
        said += [f"Error: {_cut(last[0])}"] if last and not ended.fine else []
        return verdict, _graded(verdict, program, number / len(cases), "\n".join(said))
    return Verdict.RIGHT, _graded(Verdict.RIGHT, program, 1.0, None)


def _cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
