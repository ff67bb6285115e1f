"""``selfteach compare --suite SUITE``: every method's claim put to the test, and all methods on one world."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from selfteach.cli.runs import (
    Planned,
    cells,
    condensed,
    curve,
    finish,
    heads,
    labels,
    rows_of,
    summary_of,
    write_aside,
)
from selfteach.cli.train import chosen_preset, configured
from selfteach.errors import UserError
from selfteach.recipes import RECIPES
from selfteach.recipes.checks import nearest
from selfteach.recipes.claim import Claim
from selfteach.report import comparison_page
from selfteach.training.launch import FREE, table_of, versions
from selfteach.training.rundir import changes

BASELINES = ("opsd", "grpo", "sft")
ONE_SIDED_95 = {1: 6.31, 2: 2.92, 3: 2.35, 4: 2.13, 5: 2.02, 6: 1.94, 7: 1.89, 8: 1.86, 9: 1.83}
"""Student's t by degrees of freedom: beyond it a difference counts as seen."""
SHARED = "--eval-problems 256 --eval-samples 2 --samples-every 0"
"""What every run of a suite is told, unless its variant says otherwise."""


@dataclass(frozen=True)
class Suite:
    """What is asked: the suite's methods, seeds, the common world and its budget of generated tokens."""

    name: str
    seeds: int
    jobs: int
    out: Path
    world: str
    tokens: int
    only: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """the suite's methods, in the registry's order."""
        suites = {kind.suite for kind in RECIPES.values() if kind.suite}
        if self.name not in suites:
            raise UserError(f"there is no suite {self.name!r}{nearest(self.name, suites)}")
        names = [name for name, kind in RECIPES.items() if kind.suite == self.name]
        if unknown := set(self.only) - set(names):
            raise UserError(f"suite {self.name} has no method {min(unknown)!r}{nearest(min(unknown), names)}")
        return [name for name in names if not self.only or name in self.only]


@dataclass(frozen=True)
class Answer:
    """A claim with what the runs say: the metric of both variants by seed, and the verdict."""

    method: str
    claim: Claim
    higher: list[float]
    lower: list[float]

    @property
    def differences(self) -> list[float]:
        return [a - b for a, b in zip(self.higher, self.lower, strict=True)]

    @property
    def verdict(self) -> str:
        """ "reproduced", "refuted" or "not seen": a paired one-sided t-test at 95 % over seeds."""
        mean, bound = statistics.fmean(self.differences), margin(self.differences)
        if self.claim.within is None:
            return "reproduced" if mean > bound else "refuted" if mean < -bound else "not seen"
        if abs(mean) + bound <= self.claim.within:
            return "reproduced"
        return "refuted" if abs(mean) - bound > self.claim.within else "not seen"


@dataclass(frozen=True)
class Plan:
    """The suite's runs: by a variant's words, and by method on the common world."""

    claims: list[tuple[str, Claim]]
    variants: dict[str, list[Planned]]
    common: dict[str, list[Planned]]

    @property
    def waves(self) -> list[list[Planned]]:
        """Variants that others build on come first, within a wave in the claims' order; the common world is last."""
        by_depth: dict[int, dict[Path, Planned]] = {}
        for _, claim in self.claims:
            for label, words in claim.variants.items():
                wave = by_depth.setdefault(depth_of(claim, label), {})
                wave |= {run.folder: run for run in self.variants[words]}
        waves = [list(wave.values()) for _, wave in sorted(by_depth.items())]
        return [*waves, [run for runs in self.common.values() for run in runs]]


def run_suite(suite: Suite, results: Path) -> None:
    """Bring every run of the suite to its end (finished ones are kept) and write the results.

    An interruption or a failed run leaves results of what is finished, with the rest named as missing.
    """
    suite.out.mkdir(parents=True, exist_ok=True)
    plan = planned(suite)
    for runs in (*plan.variants.values(), *plan.common.values()):
        forget_outdated(runs)
    forget_orphans(plan)
    try:
        for wave in plan.waves:
            finish(wave, suite.jobs)
    finally:
        write_results(suite, plan, results)


def planned(suite: Suite) -> Plan:
    claims = [(name, claim) for name in suite.names for claim in RECIPES[name].claims]
    variants = {
        words: planned_variant(suite, words, claim)
        for _, claim in claims
        for words in claim.variants.values()
    }
    return Plan(
        claims, variants, {name: planned_on_world(suite, name) for name in (*BASELINES, *suite.names)}
    )


def complete(runs: Sequence[Planned]) -> bool:
    return all((run.folder / "summary.json").exists() for run in runs)


def answered(plan: Plan) -> list[Answer]:
    """The claims whose two variants are finished, in order."""
    return [
        Answer(
            name,
            claim,
            [measured(claim, run) for run in plan.variants[claim.variants[claim.higher]]],
            [measured(claim, run) for run in plan.variants[claim.variants[claim.lower]]],
        )
        for name, claim in plan.claims
        if complete(plan.variants[claim.variants[claim.higher]])
        and complete(plan.variants[claim.variants[claim.lower]])
    ]


def planned_variant(suite: Suite, words: str, claim: Claim) -> list[Planned]:
    """One run a seed. Variants of equal words are one run, whichever claims ask for it."""
    runs = []
    for seed in range(suite.seeds):
        folder = suite.out / f"{label_of(words)}-{seed}"
        filled = words
        for label in built_on(words):
            trained = suite.out / f"{label_of(claim.variants[label])}-{seed}"
            filled = filled.replace(f"{{variant {label}}}", str(trained))
        own = [*shlex.split(filled), "--seed", str(seed), "--out", str(folder)]
        own += [
            word
            for option in re.findall(r"--\S+ \S+", SHARED)
            if option.split()[0] not in words
            for word in option.split()
        ]
        runs.append(Planned(label_of(words), seed, folder, ["train", *own]))
    return runs


def forget_outdated(runs: Sequence[Planned]) -> None:
    """Runs made with other settings than their words mean by now (a preset has changed) are made anew."""
    for run in runs:
        if not (run.folder / "config.toml").exists():
            continue
        config, _ = configured(run.words[1:])
        if changed := changes(run.folder, table_of(config), FREE):
            print(f"{run.label} seed {run.seed}: made with other settings ({changed[0]}); anew", flush=True)
            shutil.rmtree(run.folder)


def forget_orphans(plan: Plan) -> None:
    """Runs built on another variant's model are made anew where that one is still to be made."""
    for _, claim in plan.claims:
        for label in sorted(claim.variants, key=lambda one: depth_of(claim, one)):
            words = claim.variants[label]
            for i, run in enumerate(plan.variants[words]):
                needed = [plan.variants[claim.variants[one]][i] for one in built_on(words)]
                if run.folder.exists() and not complete(needed):
                    print(
                        f"{run.label} seed {run.seed}: what it was built on is made anew, and so is it",
                        flush=True,
                    )
                    shutil.rmtree(run.folder)


def label_of(words: str) -> str:
    """A short name for a variant's words: recipe and fingerprint."""
    return f"{words.split()[0]}-{sha256(words.encode()).hexdigest()[:8]}"


def depth_of(claim: Claim, label: str) -> int:
    """How many variants must be finished one after the other before this one can start."""
    return 1 + max((depth_of(claim, one) for one in built_on(claim.variants[label])), default=-1)


def built_on(words: str) -> list[str]:
    """The labels of the variants whose folders a variant's words name."""
    return re.findall(r"\{variant ([^}]+)\}", words)


def planned_on_world(suite: Suite, name: str) -> list[Planned]:
    """A method with its arena preset on the common world, until the token budget is spent.

    One that does not sample as it trains is given its preset's steps: a budget would not end it.
    """
    recipe, _ = chosen_preset(name, None, suite.world)
    fresh = recipe.generates and not recipe.rollouts.stored
    steps = recipe.optimization.steps
    words = ["train", name, "--task", suite.world, "--eval-every", str(max(1, steps // 6))]
    if fresh:
        words += ["--token-budget", str(suite.tokens), "--steps", str(10 * steps)]
    runs = []
    for seed in range(suite.seeds):
        folder = suite.out / f"{suite.world}-{suite.tokens}-{name}-{seed}"
        own = ["--seed", str(seed), "--out", str(folder), *SHARED.split()]
        runs.append(Planned(name, seed, folder, [*words, *own]))
    return runs


def measured(claim: Claim, run: Planned) -> float:
    """The claim's metric of one run. UserError if the run wrote no such metric."""
    if claim.column.startswith("summary/"):
        values = [summary_of(run)[claim.column.removeprefix("summary/")]]
    else:
        values = [float(row[claim.column]) for row in rows_of(run) if claim.column in row]
    if not values or values[0] is None:
        raise UserError(
            f"{run.folder} measured no {claim.column!r}; the claim's metric must be in docs/metrics.md"
        )
    match claim.reduction:
        case "mean":
            return statistics.fmean(values)
        case "max":
            return max(values)
        case "first":
            return float(values[0])
    return float(values[-1])


def margin(values: Sequence[float]) -> float:
    """Half-width of the one-sided 95 % interval of the mean; infinite for a single value."""
    if len(values) < 2:
        return math.inf
    freedom = len(values) - 1
    return ONE_SIDED_95.get(freedom, 1.8) * statistics.stdev(values) / math.sqrt(len(values))


# --- results ----------------------------------------------------------------------------------------------------


def write_results(suite: Suite, plan: Plan, results: Path) -> None:
    results.mkdir(parents=True, exist_ok=True)
    answers = answered(plan)
    table = {
        name: {"runs": (curves := [curve(run) for run in runs]), **condensed(curves)}
        for name, runs in plan.common.items()
        if complete(runs)
    }
    missing = [f"{name}: {claim.says}" for name, claim in plan.claims]
    for one in answers:
        missing.remove(f"{one.method}: {one.claim.says}")
    missing += [f"{name} on world {suite.world}" for name in plan.common if name not in table]
    command = f"selfteach compare --suite {suite.name} --seeds {suite.seeds} --tokens {suite.tokens}"
    command += f" --task {suite.world} --jobs {suite.jobs}"
    facts = {
        "task": suite.world,
        "model": f"arena {suite.world}",
        "equal": "tokens",
        "seeds": suite.seeds,
        "command": command,
        "versions": {**versions(), "cores": str(os.cpu_count())},
        **labels([run for runs in plan.common.values() if complete(runs) for run in runs]),
        "missing": missing,
    }
    claims = [as_json(one) for one in answers]
    write_aside(results / "methods.json", json.dumps({**facts, "claims": claims, "recipes": table}, indent=1))
    write_aside(results / "methods.md", markdown(facts, answers, table))
    print(f"results  {results / 'methods.md'}")
    if table:
        print(f"plot     {comparison_page({**facts, 'recipes': table}, results / 'methods.html')}")


def as_json(one: Answer) -> dict[str, Any]:
    return {
        "method": one.method,
        "says": one.claim.says,
        "variants": dict(one.claim.variants),
        "metric": one.claim.metric,
        "higher": {"variant": one.claim.higher, "by_seed": one.higher},
        "lower": {"variant": one.claim.lower, "by_seed": one.lower},
        "within": one.claim.within,
        "verdict": one.verdict,
    }


def mean_and_error(values: Sequence[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.3g} ± {error:.2g}"


def markdown(facts: Mapping[str, Any], answers: Sequence[Answer], table: Mapping[str, Any]) -> str:
    made = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    lines = [
        "# The first suite: what each paper says, and what a small world shows",
        "",
        f"Command: `{facts['command']}` (resumable; it wrote this file, `methods.json` with every run's curve and "
        "words, and the plot `methods.html`).",
        "",
        f"Made with {made}.",
        "",
        "## Claims",
        "",
        f"Means ± standard errors over {facts['seeds']} seeds; variants share seeds. *Reproduced*, *refuted*: the "
        "paired difference is beyond Student's one-sided 95 % bound, in the claim's direction or against it; *not "
        "seen*: neither. A claim of equality is reproduced where the whole interval lies within the tolerance.",
        "",
        "| method | the paper's claim | metric | measured | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += ["| " + " | ".join(claim_cells(one)) + " |" for one in answers]
    lines += [
        "",
        "The variants, as words after `selfteach train`:",
        "",
        *dict.fromkeys(
            f"- {one.method}, {label}: `{words}`"
            for one in answers
            for label, words in one.claim.variants.items()
        ),
        "",
        f"## All on world {facts['task']!r}, equal generated tokens",
        "",
        "Each with its `arena` preset. A method that writes its answers once, or none, runs its preset's steps.",
        "",
        "| " + " | ".join(heads(facts["unit"])) + " |",
        "| " + " | ".join(["---"] * len(heads(facts["unit"]))) + " |",
        *["| " + " | ".join(cells(label, row)) + " |" for label, row in table.items()],
        "",
    ]
    if facts["missing"]:
        lines += ["## Not finished", "", *[f"- {one}" for one in facts["missing"]], ""]
    return "\n".join(lines)


def claim_cells(one: Answer) -> list[str]:
    relation = "exceeds" if one.claim.within is None else f"within {one.claim.within:g} of"
    seen = (
        f"{one.claim.higher} {mean_and_error(one.higher)} {relation} {one.claim.lower} {mean_and_error(one.lower)}? "
        f"difference {mean_and_error(one.differences)}"
    )
    return [one.method, one.claim.says, f"`{one.claim.metric}`", seen, f"*{one.verdict}*"]
