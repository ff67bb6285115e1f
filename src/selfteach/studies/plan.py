"""Which runs a study asks for: one a seed of every variant, those that others build on first, then the common task."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from selfteach.errors import UserError
from selfteach.studies.runs import Planned
from selfteach.studies.study import Claim, Study, built_on
from selfteach.training.config import TrainConfig
from selfteach.words import given_names, option

BASELINES = ("opsd", "grpo", "sft")
"""Stand on the common task beside the studies' methods, at their settings as they are."""
MEASURED = {"eval_problems": "256", "eval_samples": "2", "samples_every": "0"}
"""What every run is told, unless its variant's words say otherwise."""

Resolve = Callable[[Sequence[str]], TrainConfig]
"""The words after ``selfteach train`` → the run they ask for. The command line's: the runner
is handed it, because it stands on a lower floor."""


@dataclass(frozen=True)
class StudySettings:
    """What is asked: whose claims, how many seeds, where runs go; the task on which all methods are compared at equal
    generated tokens (empty: none), and how many tokens."""

    studies: tuple[Study, ...]
    out: Path
    seeds: int = 3
    common_task: str = ""
    tokens: int = 200_000


@dataclass(frozen=True)
class Plan:
    """The runs: by a variant's words, and by method on the common task; one a seed each."""

    claims: Sequence[tuple[Study, Claim]]
    variants: Mapping[str, list[Planned]]
    common: Mapping[str, list[Planned]]

    @property
    def waves(self) -> list[list[Planned]]:
        """Variants that others build on come first, within a wave in the claims' order; the common task is last."""
        by_depth: dict[int, dict[Path, Planned]] = {}
        for _, claim in self.claims:
            for label, words in claim.variants.items():
                wave = by_depth.setdefault(claim.depth(label), {})
                wave |= {run.folder: run for run in self.variants[words]}
        waves = [list(wave.values()) for _, wave in sorted(by_depth.items())]
        waves.append([run for runs in self.common.values() for run in runs])
        return [wave for wave in waves if wave]


def planned(asked: StudySettings, resolve: Resolve) -> Plan:
    """The plan, every run's words understood. UserError naming the variant whose words are wrong, before any run is
    made, or if the same words would mean two different runs."""
    claims = [(study, claim) for study in asked.studies for claim in study.claims]
    variants: dict[str, list[Planned]] = {}
    for study, claim in claims:
        for label, words in claim.variants.items():
            runs = planned_variant(asked, study, claim, label)
            if words not in variants:
                require_understood(f"study of {study.method}, variant {label!r}", runs[0], resolve)
            refuse_two_meanings(words, variants.setdefault(words, runs), runs)
    return Plan(claims, variants, planned_on_common_task(asked, resolve))


def planned_variant(asked: StudySettings, study: Study, claim: Claim, label: str) -> list[Planned]:
    """One run a seed. Variants of equal words are one run, whichever claims ask for it."""
    runs = []
    for seed in range(asked.seeds):
        words = study.words(claim, label)
        for one in built_on(words):
            trained = folder_of(asked, claim.variants[one], seed)
            words = words.replace(f"{{variant {one}}}", shlex.quote(str(trained)))
        own = claim.variants[label]
        folder = folder_of(asked, own, seed)
        runs.append(Planned(label_of(own), seed, folder, command(shlex.split(words), seed, folder)))
    return runs


def command(words: Sequence[str], seed: int, folder: Path) -> list[str]:
    """A whole command: a run's words, its seed and folder, and what every run is told."""
    own = given_names(words)
    told = [word for name, value in MEASURED.items() if name not in own for word in (option(name), value)]
    return ["train", *words, "--seed", str(seed), "--out", str(folder), *told]


def folder_of(asked: StudySettings, words: str, seed: int) -> Path:
    return asked.out / f"{label_of(words)}-{seed}"


def label_of(words: str) -> str:
    """A short name for a variant's words, fit for a folder: recipe and fingerprint."""
    return f"{plain(words.split()[0])}-{sha256(words.encode()).hexdigest()[:8]}"


def plain(name: str) -> str:
    """A recipe's name or reference as part of a folder's name."""
    return re.sub(r"[^\w-]+", "-", name).strip("-")


def refuse_two_meanings(words: str, earlier: Sequence[Planned], runs: Sequence[Planned]) -> None:
    """A run's folder is found by its words alone, so these may not mean two runs."""
    if [run.words for run in earlier] != [run.words for run in runs]:
        raise UserError(
            f"two claims mean different runs by the words {words!r} (another task, or another {{variant …}}); "
            "say the difference in the words, e.g. by --task"
        )


def require_understood(about: str, run: Planned, resolve: Resolve) -> None:
    try:
        resolve(run.words[1:])
    except UserError as error:
        raise UserError(f"{about}: {error}") from None


def planned_on_common_task(asked: StudySettings, resolve: Resolve) -> dict[str, list[Planned]]:
    """The baselines and the studies' methods by name; nothing without a common task."""
    if not asked.common_task:
        return {}
    names = dict.fromkeys((*BASELINES, *(study.method for study in asked.studies)))
    return {name: planned_method(asked, name, resolve) for name in names}


def planned_method(asked: StudySettings, name: str, resolve: Resolve) -> list[Planned]:
    """A method with its preset of the common task, until the token budget is spent.

    One that does not sample as it trains is given its preset's steps: a budget would not end it.
    """
    words = [name, "--task", asked.common_task]
    recipe = resolve(words).recipe
    steps = recipe.optimization.steps
    words += ["--eval-every", str(max(1, steps // 6))]
    if recipe.generates and not recipe.rollouts.stored:
        words += ["--token-budget", str(asked.tokens), "--steps", str(10 * steps)]
    runs = []
    for seed in range(asked.seeds):
        folder = asked.out / f"{plain(asked.common_task)}-{asked.tokens}-{plain(name)}-{seed}"
        runs.append(Planned(name, seed, folder, command(words, seed, folder)))
    return runs
