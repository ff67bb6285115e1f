"""What studies leave: ``methods.json`` with every number, ``methods.md`` to read, ``methods.html`` with the plot."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfteach.errors import UserError
from selfteach.recipes import METHODS, RECIPES
from selfteach.report import comparison_page
from selfteach.studies.answer import BEHIND, TUNING_SEEDS, Answer, Decided, Open, by_label
from selfteach.studies.plan import Plan
from selfteach.studies.rows import Row
from selfteach.studies.runs import cells, condensed, heads, write_aside
from selfteach.studies.verdict import RATE
from selfteach.training.jsonrows import jsonable
from selfteach.training.running import versions

FAIR = (
    "Both sides of a claim get the same tuning: each of the settings that its sweep names is tried for each side on "
    f"seeds {' and '.join(map(str, TUNING_SEEDS))}, which are not reported (one that is more than {BEHIND:g} behind "
    "in accuracy on the first of them on that alone), and the best of each side by held-out "
    "accuracy (or what the claim names) is run on seeds 0, 1, … Both look at the same held-out problems. A verdict "
    "speaks of a small world. Seeds are added (4, 8, 16, …) until a claim is decided; p-values and intervals account "
    f"for these looks. A verdict is given where Benjamini–Hochberg over all claims of this table holds at {RATE:.0%} "
    "false discovery. A side that does not do its own job is dead, and its claim gets no verdict."
)


def write_results(
    plan: Plan, verdicts: Sequence[Decided], left: Sequence[Open], command: str, folder: Path
) -> None:
    """Write what is known by now; ``command`` is what repeats it."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = plan.asked
    curves = {name: rows for name in plan.common if (rows := rows_on_common_task(plan, name))}
    table = {name: table_of_rows(rows) for name, rows in curves.items()}
    facts = {
        "task": asked.common_task,
        "model": asked.common_model or f"arena {asked.common_task}",
        "equal": "tokens",
        "seeds": asked.seeds,
        "command": command,
        "versions": {**versions(), "cores": str(os.cpu_count())},
        **labels_of([row for rows in curves.values() for row in rows]),
        "missing": [*without_verdict(plan, left)]
        + [f"{name} on {asked.common_task}: not finished" for name in plan.common if name not in table],
    }
    claims = [as_json(one, plan) for one in verdicts]
    whole = jsonable({**facts, "claims": claims, "recipes": table})
    write_aside(folder / "methods.json", json.dumps(whole, indent=1))
    write_aside(folder / "methods.md", markdown(facts, claims, verdicts, table))
    print(f"results  {folder / 'methods.md'}")
    if table or claims:
        whole = {**facts, "claims": claims, "recipes": table}
        print(f"page     {comparison_page(whole, folder / 'methods.html')}")


def rows_on_common_task(plan: Plan, name: str) -> list[Row]:
    """A method's rows on the common task; none while one is missing or stopped."""
    found = [plan.row(work.side, work.seed) for work in plan.common[name] if work.side is not None]
    rows = [row for row in found if row is not None and row.curve]
    return rows if len(rows) == len(found) else []


def table_of_rows(rows: Sequence[Row]) -> dict[str, Any]:
    """A method on the common task: its runs, and means over them."""
    runs = [{name: value for name, value in row.curve.items() if name != "labels"} for row in rows]
    return {"runs": runs, **condensed(runs)}


def labels_of(rows: Sequence[Row]) -> dict[str, str]:
    """``headline`` and ``unit`` of runs on the common task. UserError if they differ in either."""
    found = {"headline": "held-out accuracy", "unit": "tokens"}
    for name in found:
        different = list(dict.fromkeys(str(row.curve["labels"][name]) for row in rows)) or [found[name]]
        if len(different) > 1:
            raise UserError(f"runs of different {name} cannot be compared: {', '.join(different)}")
        found[name] = different[0]
    return found


def without_verdict(plan: Plan, left: Sequence[Open]) -> list[str]:
    """What is not in the table, with why, and the command that would show it."""
    named = [
        f"{one.method}: {one.claim.says}: {one.reason}"
        + (f"; `selfteach study {one.method}` shows it" if one.waiting else "")
        for one in left
    ]
    here = {study.method for study in (*plan.asked.studies, *plan.asked.others)}
    known = [name for name in plan.asked.known if name not in here]
    none = [name for name in METHODS if name not in here and name not in plan.asked.known]
    if not plan.asked.known:  # studies of one's own: what the methods here have is no part of them
        return named
    if known:
        named.append(f"not studied here: {', '.join(known)}; `selfteach study {' '.join(known)}` shows them")
    if none:
        named.append(f"without a claim: {', '.join(none)}; docs/add-a-method.md says how to write one")
    return named


def as_json(one: Decided, plan: Plan) -> dict[str, Any]:
    """``variants``: label → its words after ``selfteach train``, the task among them."""
    answer = one.answer
    claim = answer.claim
    study = next(study for study, own in [*plan.claims, *plan.others] if own is claim)
    seen = answer.evidence
    return {
        "method": answer.method,
        "says": claim.says,
        "variants": {label: study.written(claim, label) for label in claim.variants},
        "metric": claim.metric,
        "higher": {"variant": claim.higher, "by_seed": answer.higher},
        "lower": {"variant": claim.lower, "by_seed": answer.lower},
        "rule": claim.rule.relation,
        "effect": statistics.fmean(answer.differences),
        "interval": answer.interval,
        "p": seen.p,
        "seeds": len(answer.differences),
        "chosen": dict(by_label(answer.setup)),
        "tried": {} if answer.setup is None else answer.setup.tried,
        "verdict": one.verdict,
        "caveat": remark(one) or None,
    }


def markdown(
    facts: Mapping[str, Any],
    claims: Sequence[Mapping[str, Any]],
    verdicts: Sequence[Decided],
    table: Mapping[str, Any],
) -> str:
    made = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    lines = [
        "# Studies: what each paper claims, and what a small world shows",
        "",
        f"Command: `{facts['command']}` (resumable; it wrote this file, `methods.json` with every number, the page "
        "`methods.html`, and of each run a row in `studies/`, from which the table is made again).",
        "",
        f"Made with {made}.",
        "",
        *claims_section(claims, verdicts),
        *(common_section(facts, table) if table else []),
    ]
    if facts["missing"]:
        lines += ["## Without a verdict", "", *[f"- {one}" for one in facts["missing"]], ""]
    return "\n".join(lines)


def claims_section(claims: Sequence[Mapping[str, Any]], verdicts: Sequence[Decided]) -> list[str]:
    rules = dict.fromkeys(one.answer.claim.rule.says for one in verdicts)
    return [
        "## Claims",
        "",
        FAIR,
        "",
        *[f"- {rule}" for rule in rules],
        "",
        "| method | the paper's claim | metric | measured | effect [95 % interval] | seeds | settings chosen "
        "| verdict |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *[table_row(claim_cells(one)) for one in verdicts],
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


def claim_cells(one: Decided) -> list[str]:
    answer, claim = one.answer, one.answer.claim
    seen = (
        f"{claim.higher} {mean_and_error(answer.higher)} {claim.rule.relation} {claim.lower} "
        f"{mean_and_error(answer.lower)}?"
    )
    said = remark(one)
    return [
        answer.method,
        claim.says,
        f"`{claim.metric}`",
        seen,
        effect(answer),
        str(len(answer.differences)),
        chosen(answer),
        f"*{one.verdict}*"
        + ("" if one.why else f" (p = {answer.evidence.p:.2g})")
        + (f": {said}" if said else ""),
    ]


def remark(one: Decided) -> str:
    """Why the verdict is that, and what a second look at the claim found."""
    looked = one.answer.claim.looked
    return "; ".join(part for part in (one.why, looked and f"second look: {looked}") if part)


def effect(answer: Answer) -> str:
    """Mean difference and its interval; without one where there are too few seeds."""
    mean, between = statistics.fmean(answer.differences), answer.interval
    return f"{mean:.3g}" + (f" [{between[0]:.3g}, {between[1]:.3g}]" if between else "")


def chosen(answer: Answer) -> str:
    """The settings of each side that was tuned."""
    settings = by_label(answer.setup)
    return "; ".join(f"{label}: {words or 'as written'}" for label, words in settings.items()) or "not tuned"


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
        f"Trained is {facts['model']}, each with the preset that `selfteach train` takes for this task, none tuned. A "
        "method that writes its answers once, or none, runs its preset's steps.",
        "",
        *map(table_row, rows),
        "",
        *([f"Not run here: {', '.join(not_run)}.", ""] if not_run else []),
    ]
