"""A verifiers environment where the library is not: told in one line, and nothing else is taken for one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from selfteach.errors import UserError
from selfteach.task import verifiers_task
from selfteach.task.verifiers_task import VerifiersTask, is_environment


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: Callable[[str], Any] = lambda name: None  # noqa: E731
    monkeypatch.setattr(verifiers_task, "find_spec", absent)
    with pytest.raises(UserError, match=r"pip install 'selfteach\[verifiers\]'"):
        VerifiersTask(object())


def test_a_class_of_the_same_name_is_none_of_the_librarys() -> None:
    class Environment:
        pass

    class Theirs(type("Environment", (), {"__module__": "verifiers.envs.environment"})):  # type: ignore[misc]
        pass

    assert not is_environment(Environment())
    assert not is_environment(5)
    assert is_environment(Theirs())


def test_making_a_task_does_not_import_the_library() -> None:
    program = (
        "import sys, selfteach.task.rows as r; r.make_task('gym:gcd'); assert 'verifiers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
