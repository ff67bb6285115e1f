"""A side's run in a process of its own, and what it answers."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stepbench.shapes import Shape
from stepbench.side import Task

LIBRARIES = {"ours": "ours", "bare": "bare", "trl": "trl_side"}
MARK = "ANSWER "
FAILED = "failed"


def module_of(library: str) -> str:
    return f"stepbench.{LIBRARIES[library.split('-')[0]]}"


def work(words: str) -> None:
    """In the process: do the task that the words (JSON) say, and print its answer."""
    given = json.loads(words)
    task = Task(**{**given, "shape": Shape(**given["shape"]), "words": tuple(given["words"])})
    found = importlib.import_module(module_of(task.library)).run(task)
    print(MARK + json.dumps(found), flush=True)
    # What a trainer left running (a loader's threads, a server of templates) is not waited for.
    sys.stdout.flush()
    os._exit(0)


def environment(threads: int, source: str = "") -> dict[str, str]:
    """``threads`` of them (0: torch's choice), which sleep when idle, so that they cost no processor time;
    ``source``: another source tree of this library."""
    found = {
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        **os.environ,
    }
    if threads:
        found |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if source:
        found["PYTHONPATH"] = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    return found


def done(
    task: Task, script: str, threads: int = 0, source: str = "", log: Path | None = None
) -> Mapping[str, Any]:
    """The task's answer; ``{"failed": why}`` where the process gave none. ``log``: where its output is kept."""
    ran = subprocess.run(
        [sys.executable, script, "--worker", json.dumps(asdict(task))],
        capture_output=True, text=True, env=environment(threads, source),
    )  # fmt: skip
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(ran.stdout + ran.stderr, encoding="utf-8")
    for said in reversed(ran.stdout.splitlines()):
        if said.startswith(MARK):
            found: Mapping[str, Any] = json.loads(said.removeprefix(MARK))
            return found
    last = (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[-1]
    return {FAILED: last}
