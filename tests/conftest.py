"""The tiny model that tests share, and what keeps every test from hanging on the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from selfteach.task.timed import Outcome, TimedWorker
from tiny import tiny_model_folder

PATIENCE = 600.0
"""Seconds that no honest check of an answer takes, on whatever machine."""

# The same examples in every run, and none of them judged by how long it takes.
settings.register_profile(
    "steady", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def patient_checks() -> Iterator[None]:
    """A deadline of the checking process passes only in tests of deadlines, which set one below a second."""
    ask = TimedWorker._ask

    def patient(
        self: TimedWorker, function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float
    ) -> Outcome:
        return ask(self, function, arguments, seconds if seconds < 1 else PATIENCE)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TimedWorker, "_ask", patient)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny random model with a character tokenizer."""
    return str(tiny_model_folder(tmp_path_factory.mktemp("tiny")))
