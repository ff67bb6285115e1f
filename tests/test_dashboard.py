"""What a terminal, a pipe and a log see of a run."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from selfteach.api.progress import BARS, RECENT, Lines, Live, sparkline
from selfteach.training.text.evaluation import EvaluationResult

ALARM = {"name": "length dies", "since": 3, "seen": "30 → 10 tokens [red]", "advice": "look (card 04)"}


def row(step: int, **more: Any) -> dict[str, Any]:
    return {
        "step": step,
        "loss": 1 / step,
        "reward/mean": 0.25,
        "length/mean": 30.4,
        "entropy/student": 0.125,
        "divergence/teacher": 2.0,
        "divergence/teacher/style": 7.0,
        "tokens_per_second": 1234.5,
        **more,
    }


def seen(live: Live) -> str:
    """The dashboard as one would read it now."""
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(live.picture())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def live() -> Live:
    return Live(Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None))


def test_the_dashboard_shows_the_last_numbers_and_their_course(live: Live) -> None:
    live.start(40, 0, "held-out accuracy")
    for step in range(1, 11):
        live.step(row(step))
    result = EvaluationResult(0.5, 0.02, 0.75, 4, 30.0, 1.0, 128)
    live.evaluated(10, {**result.headline(), **result.row()})
    text = seen(live)
    live.stop()
    for part in ("10/40", "loss", "0.1000", "30 tokens", "0.125 nats", "divergence teacher", "2.0000 nats"):
        assert part in text
    assert "1,234 tokens/s" in text
    assert "0.500 ± 0.020 at step 10" in text
    assert "█" in text
    assert "7.0000" not in text


def test_the_dashboard_keeps_the_latest_alarms_as_plain_text(live: Live) -> None:
    live.start(40, 0, "held-out accuracy")
    live.step(row(1, alarms=[ALARM]))
    live.step(row(2))
    text = " ".join(seen(live).split())
    live.stop()
    assert "alarm: length dies (since step 3): 30 → 10 tokens [red]; look (card 04)" in text


def test_a_run_that_has_not_stepped_yet_has_a_dashboard(live: Live) -> None:
    live.start(40, 20, "held-out accuracy")
    assert "20/40" in seen(live)
    live.stop()


def test_a_log_gets_an_alarm_at_its_step_and_other_steps_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = Lines()
    lines.start(100, 0, "distance")
    for step in range(1, 14):
        lines.step(row(step, **({"alarms": [ALARM]} if step == 7 else {})))
    said = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in said if line.startswith("step")] == ["step 1/100", "step 10/100"]
    assert [line for line in said if line.startswith("alarm: length dies (since step 3)")] == [said[1]]


def test_a_log_shows_what_a_run_without_tokens_has_and_names_its_headline(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = Lines(every=1)
    lines.start(2, 0, "distance")
    lines.step({"step": 1, "loss": 0.25})
    lines.evaluated(1, {"step": 1, "eval/headline": 0.5})
    assert capsys.readouterr().err.splitlines() == ["step 1/2  loss 0.2500", "step 1  distance 0.500"]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([1.0], BARS[0]),
        ([2.0, 2.0], BARS[0] * 2),
        ([0.0, 7.0], BARS[0] + BARS[7]),
        ([0.0, math.nan, 7.0], f"{BARS[0]} {BARS[7]}"),
        ([math.inf], " "),
    ],
)
def test_a_sparkline_spans_from_least_to_greatest(values: list[float], line: str) -> None:
    assert sparkline(values) == line


def test_a_long_run_keeps_only_its_recent_rows(live: Live) -> None:
    live.start(1000, 0, "held-out accuracy")
    for step in range(1, 3 * RECENT):
        live.step(row(step))
    live.stop()
    assert [one["step"] for one in live.rows] == list(range(2 * RECENT, 3 * RECENT))
