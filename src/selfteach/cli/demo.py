"""``selfteach demo``: OPSD on the arena's "table", from the pretrained model to a report."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from selfteach.api.training import train
from selfteach.cli.console import parsed
from selfteach.settings import PositiveInt, Seed, settings
from selfteach.training.jsonrows import read_rows


@settings
class Arguments:
    out: Path | None = None
    """Run folder (none: runs/demo-TIME)."""
    steps: PositiveInt = 300
    """Optimizer steps."""
    seed: Seed = 0
    """Seed of the run."""


def command(words: Sequence[str]) -> int:
    given = parsed(Arguments, words, program="selfteach demo", default=Arguments())
    out = given.out or Path("runs") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    print(
        "A 0.34 M-parameter model does digit arithmetic in steps, but was never taught the operation @.\n"
        "Shown a bare list of results it can explain them in its own style; these scores of its own answers are all\n"
        "it learns from (OPSD, reverse KL, frozen teacher). No reward reaches the student. 300 steps take about four\n"
        "minutes on two CPU cores.\n",
        flush=True,
    )
    run = train("opsd", task="table", steps=given.steps, seed=given.seed, eval_every=40, out=out)
    Console().print(before_and_after(run.folder))
    print(f"report   {run.folder / 'report.html'}")
    return 0


def before_and_after(folder: Path) -> Table:
    """The run's first and last evaluation side by side."""
    rows = [row for row in read_rows(folder / "metrics.jsonl") if "eval/accuracy" in row]
    summary = json.loads((folder / "summary.json").read_text())
    k = next(name for name in rows[0] if name.startswith("eval/pass@"))
    table = Table(
        "held-out problems", "accuracy (mean ± s.e.)", k.removeprefix("eval/"), "tokens an answer", box=None
    )
    for label, row in (("before", rows[0]), ("after", rows[-1])):
        table.add_row(
            label,
            f"{row['eval/accuracy']:.3f} ± {row['eval/accuracy_se']:.3f}",
            f"{row[k]:.3f}",
            f"{row['eval/length']:.1f}",
        )
    table.caption = (
        f"{summary['spent']:,} generated tokens, {summary['training_seconds']:.0f} s of training, "
        f"{rows[0]['eval/problems']} problems"
    )
    return table
