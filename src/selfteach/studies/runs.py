"""Training runs as commands of their own: brought to an end several at a time, then read and put in a table."""

from __future__ import annotations

import math
import os
import re
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfteach.errors import UserError
from selfteach.outside import read_json
from selfteach.report.older import row_of_today, summary_of_today
from selfteach.report.text import measured
from selfteach.studies.children import Children, terminated_as_interrupted
from selfteach.training.jsonrows import read_rows
from selfteach.training.runconfig import saved_config


@dataclass
class Planned:
    """One run that is to be made: ``words`` stand after ``selfteach`` and name the seed and the folder."""

    label: str
    seed: int
    folder: Path
    words: list[str] = field(default_factory=list)


def finished(runs: Sequence[Planned]) -> bool:
    return all((run.folder / "summary.json").exists() for run in runs)


def finish(runs: Sequence[Planned], jobs: int) -> None:
    """Bring every run to its end, ``jobs`` at a time: finished ones are kept, interrupted ones go on.

    Where one fails (UserError), or this process is interrupted (Ctrl-C, SIGTERM), those in training are ended, saved,
    and no other is started; however this process ends, none of them outlives it.
    """
    threads = threads_for(jobs)
    children = Children()
    with terminated_as_interrupted(), ThreadPoolExecutor(jobs) as pool:
        ends = [pool.submit(bring_or_close, run, threads, children) for run in runs]
        try:
            for done in as_completed(ends):
                done.result()
        except BaseException:  # before the pool is left, which waits for all that it was given
            for one in ends:
                one.cancel()
            children.stop()
            raise


def threads_for(jobs: int) -> dict[str, str]:
    """The environment that gives each of several runs its share of the cores; one at a time has the machine, and
    chooses for itself."""
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}


def log_of(run: Planned) -> Path:
    """What a run says while it is made."""
    return run.folder.with_name(f"{run.folder.name}.log")


def last_line(log: Path) -> str:
    """The last line of a log; empty where there is none."""
    if not log.exists():
        return ""
    return " ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:])


def bring_or_close(run: Planned, threads: Mapping[str, str], children: Children) -> None:
    """Finish the run. Whatever goes wrong, ``children`` start no other from then on: this thread would be the first to
    begin one."""
    try:
        bring_to_end(run, threads, children)
    except BaseException:
        children.close()
        raise


def bring_to_end(run: Planned, threads: Mapping[str, str], children: Children) -> None:
    """Finish the run. Raises UserError where it fails."""
    if finished([run]):
        print(f"{run.label} seed {run.seed}: finished before", flush=True)
        return
    if children.closed:
        return
    begun = (run.folder / "config.toml").exists()
    print(f"{run.label} seed {run.seed}: {'going on' if begun else 'starting'}", flush=True)
    began = time.monotonic()
    log = log_of(run)
    words = [*run.words, *(["--resume"] if begun else [])]
    with log.open("ab") as stream:
        command = [sys.executable, "-m", "selfteach.child", *words]
        code = children.run(command, stream, {**os.environ, **threads})
    if code and children.closed:  # ended, or never begun, because of another: what went wrong there is told
        return
    if code:
        raise UserError(
            f"{run.label} seed {run.seed} ended with code {code} ({last_line(log)}); the log is {log}"
        )
    print(f"{run.label} seed {run.seed}: {time.monotonic() - began:.0f} s", flush=True)


# --- results ----------------------------------------------------------------------------------------------------


def rows_of(run: Planned) -> list[dict[str, Any]]:
    """Its metrics.jsonl, in today's names."""
    return [row_of_today(row) for row in read_rows(run.folder / "metrics.jsonl")]


def summary_of(run: Planned) -> dict[str, Any]:
    """Its summary.json, in today's names."""
    path = run.folder / "summary.json"
    summary = read_json(path, str(path), "take the run's folder away")
    if not isinstance(summary, dict):
        raise UserError(f"{path} is no table: take the run's folder away")
    return summary_of_today(summary)


def curve(run: Planned) -> dict[str, Any]:
    """A run's headline along its way, and its summary."""
    summary = summary_of(run)
    points = [
        {"step": row["step"], "spent": row[f"spent/{summary['unit']}"], "headline": row["eval/headline"]}
        for row in rows_of(run)
        if "eval/headline" in row
    ]
    return {"seed": run.seed, "points": points, "summary": summary}


def labels(runs: Sequence[Planned]) -> dict[str, str]:
    """``headline`` and ``unit``: what the runs' headline is and what they spent. UserError if they differ in either."""
    files = [run.folder / "config.toml" for run in runs]
    tables = [saved_config(file).get("run", {}) for file in files]
    found: dict[str, str] = {}
    for name, older in (("headline", "held-out accuracy"), ("unit", "tokens")):
        different = list(dict.fromkeys(table.get(name, older) for table in tables)) or [older]
        if len(different) > 1:
            raise UserError(f"runs of different {name} cannot be compared: {', '.join(different)}")
        found[name] = different[0]
    return found


def condensed(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds: the headline at the start and at the end, its standard error (None for one seed), what
    was spent."""
    ends = [run["points"][-1]["headline"] for run in runs]
    starts = [run["points"][0]["headline"] for run in runs]
    mean = statistics.fmean
    return {
        "start": mean(starts),
        "headline": mean(ends),
        "headline_se": statistics.stdev(ends) / math.sqrt(len(ends)) if len(ends) > 1 else None,
        "steps": mean(run["summary"]["steps"] for run in runs),
        "spent": mean(run["summary"]["spent"] for run in runs),
        "training_seconds": mean(run["summary"]["training_seconds"] for run in runs),
    }


def cells(label: str, row: dict[str, Any]) -> list[str]:
    return [
        label,
        measured(row["start"]),
        measured(row["headline"], row["headline_se"]),
        f"{row['steps']:.0f}",
        f"{row['spent']:,.0f}",
        f"{row['training_seconds']:.0f}",
    ]


def heads(unit: str) -> list[str]:
    return ["recipe", "before", "after (mean ± s.e. over seeds)", "steps", f"{unit} spent", "seconds"]


def plain(name: str) -> str:
    """A recipe's name or reference as part of a file's name."""
    return re.sub(r"[^\w-]+", "-", name).strip("-")


def write_aside(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
