"""What studies leave: ``methods.json`` with every number, ``methods.md`` to read, ``methods.html`` with the plot."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfteach.recipes import RECIPES
from selfteach.report import comparison_page
from selfteach.studies.answer import Answer, Open
from selfteach.studies.plan import Plan, StudySettings
from selfteach.studies.runs import cells, condensed, curve, finished, heads, labels, write_aside
from selfteach.training.jsonrows import jsonable
from selfteach.training.launch import versions

UNTUNED = (
    "No variant is tuned, the baselines as little as the methods: both sides of a claim run at their settings as "
    "written below, so a verdict speaks of these settings in a small world, not of either method at its best."
)


def write_results(
    asked: StudySettings,
    plan: Plan,
    answers: Sequence[Answer],
    left: Sequence[Open],
    command: str,
    folder: Path,
) -> None:
    """Write what is known by now; ``command`` is what repeats it."""
    folder.mkdir(parents=True, exist_ok=True)
    common = {name: runs for name, runs in plan.common.items() if finished(runs)}
    curves = {name: [curve(run) for run in runs] for name, runs in common.items()}
    table = {name: {"runs": own, **condensed(own)} for name, own in curves.items()}
    facts = {
        "task": asked.common_task,
        "model": f"arena {asked.common_task}",
        "equal": "tokens",
        "seeds": asked.seeds,
        "command": command,
        "versions": {**versions(), "cores": str(os.cpu_count())},
        **labels([run for runs in common.values() for run in runs]),
        "missing": [f"{one.method}: {one.claim.says}: {one.reason}" for one in left]
        + [f"{name} on {asked.common_task}: not finished" for name in plan.common if name not in table],
    }
    claims = [as_json(one, plan) for one in answers]
    write_aside(
        folder / "methods.json", json.dumps(jsonable({**facts, "claims": claims, "recipes": table}), indent=1)
    )
    write_aside(folder / "methods.md", markdown(facts, claims, answers, table))
    print(f"results  {folder / 'methods.md'}")
    if table or claims:
        whole = {**facts, "claims": claims, "recipes": table}
        print(f"page     {comparison_page(whole, folder / 'methods.html')}")


def as_json(one: Answer, plan: Plan) -> dict[str, Any]:
    """``variants``: label → its words after ``selfteach train``, the task among them."""
    study = next(study for study, claim in plan.claims if claim is one.claim)
    return {
        "method": one.method,
        "says": one.claim.says,
        "variants": {label: study.written(one.claim, label) for label in one.claim.variants},
        "metric": one.claim.metric,
        "higher": {"variant": one.claim.higher, "by_seed": one.higher},
        "lower": {"variant": one.claim.lower, "by_seed": one.lower},
        "rule": one.claim.rule.relation,
        "verdict": "withdrawn" if one.claim.withdrawn else one.verdict,
        "caveat": one.claim.withdrawn or "baselines not tuned",
    }


def markdown(
    facts: Mapping[str, Any],
    claims: Sequence[Mapping[str, Any]],
    answers: Sequence[Answer],
    table: Mapping[str, Any],
) -> str:
    made = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    lines = [
        "# Studies: what each paper claims, and what a small world shows",
        "",
        f"Command: `{facts['command']}` (resumable; it wrote this file, `methods.json` with every number and, where "
        "methods share a task, the plot `methods.html`).",
        "",
        f"Made with {made}.",
        "",
        *claims_section(facts["seeds"], claims, answers),
        *(common_section(facts, table) if table else []),
    ]
    if facts["missing"]:
        lines += ["## Without a verdict", "", *[f"- {one}" for one in facts["missing"]], ""]
    return "\n".join(lines)


def claims_section(seeds: int, claims: Sequence[Mapping[str, Any]], answers: Sequence[Answer]) -> list[str]:
    spread = (
        f"Means ± standard errors over {seeds} seeds, which variants share."
        if seeds > 1
        else "One seed: there is no spread to hold a difference against, so every claim is undecided."
    )
    rules = dict.fromkeys(one.claim.rule.says for one in answers)
    return [
        "## Claims",
        "",
        f"{spread} {UNTUNED}",
        "",
        *[f"- {rule}" for rule in rules],
        "",
        "| method | the paper's claim | metric | measured | verdict |",
        "| --- | --- | --- | --- | --- |",
        *[table_row(claim_cells(one)) for one in answers],
        "",
        "The variants, as words after `selfteach train`:",
        "",
        *dict.fromkeys(
            f"- {claim['method']}, {label}: `{words}`"
            for claim in claims
            for label, words in claim["variants"].items()
        ),
        "",
    ]


def claim_cells(one: Answer) -> list[str]:
    claim = one.claim
    seen = (
        f"{claim.higher} {mean_and_error(one.higher)} {claim.rule.relation} {claim.lower} "
        f"{mean_and_error(one.lower)}? difference {mean_and_error(one.differences)}"
    )
    verdict = (
        f"*withdrawn*: {claim.withdrawn}" if claim.withdrawn else f"*{one.verdict}*, baselines not tuned"
    )
    return [one.method, claim.says, f"`{claim.metric}`", seen, verdict]


def table_row(texts: Sequence[str]) -> str:
    """A row of a Markdown table; a bar in a text stays in its cell."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def mean_and_error(values: Sequence[float]) -> str:
    """Mean ± standard error; the number alone where there is but one."""
    mean = f"{statistics.fmean(values):.3g}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.2g}"


def common_section(facts: Mapping[str, Any], table: Mapping[str, Any]) -> list[str]:
    top = heads(facts["unit"])
    rows = [top, ["---"] * len(top), *(cells(label, row) for label, row in table.items())]
    not_run = [name for name in RECIPES if name not in table]
    return [
        f"## All on {facts['task']!r}, equal generated tokens",
        "",
        "Each with the preset that `selfteach train` takes for this task, none tuned. A method that writes its answers "
        "once, or none, runs its preset's steps.",
        "",
        *map(table_row, rows),
        "",
        *([f"Not run here: {', '.join(not_run)}.", ""] if not_run else []),
    ]
