"""Which runs a study asks for: of every side of a claim one a seed, those it is built on, and the common task.

A *side* is a variant as it is to be run, its settings chosen. Sides of equal words (task included) are one, whichever
claims and studies ask for them: they are run once.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from itertools import product
from pathlib import Path

from selfteach.errors import UserError
from selfteach.importing import is_reference, load_object
from selfteach.recipes import METHODS, NetworkRecipe, knobs, with_knobs
from selfteach.studies.fingerprint import Resolve, fingerprint
from selfteach.studies.rows import Row, Rows
from selfteach.studies.runs import Planned, plain
from selfteach.studies.study import Claim, Study, built_on, values_of
from selfteach.training.config import TrainConfig
from selfteach.training.launch import Config
from selfteach.words import given_names, name_of, option

BASELINES = ("opsd", "grpo", "sft")
"""Stand on the common task beside the studies' methods, at their settings as they are."""
MEASURED = {"eval_problems": "256", "eval_samples": "2", "samples_every": "0", "max_idle_steps": "0"}
"""What every run is told, unless its variant's words say otherwise."""
OF_NETWORKS = ("samples_every", "max_idle_steps")
"""What of it runs without tokens are told."""
QUARTER = 4
"""How many times longer the longest answer is than the shortest that is reckoned with there, in the mean."""
POINTS = 6
"""Evaluations of a run on the common task, at least."""
COMMON_SEEDS = 4
"""Most seeds of a method on the common task: there is no claim to be decided."""


@dataclass(frozen=True)
class StudySettings:
    """What is asked: whose claims, how many seeds at most, where runs go; the task on which all methods are compared
    at equal generated tokens (empty: none), how many tokens, and what is trained there (empty: the task's own model);
    other studies that stand in the same table, and the
    names of all that the table is to name (none: a table of studies of one's own)."""

    studies: tuple[Study, ...]
    out: Path
    seeds: int = 16
    common_task: str = ""
    tokens: int = 200_000
    common_model: str = ""
    others: tuple[Study, ...] = ()
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class Side:
    """One training run but for its seed. Sides are equal where their words are."""

    words: str
    """After ``selfteach train``, task included; in braces, in the place of {variant …}, the words of what it is built
    on. By these its rows are known."""
    runnable: str = field(compare=False)
    """The same as they run from here: a recipe of one's own is looked for beside its study."""
    needs: tuple[Side, ...] = ()
    """Those whose folders the words name."""
    plainly: Side | None = field(default=None, compare=False)
    """The same with the settings that its words alone mean (None: it is that)."""
    settings: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """(knob, value) that differ from ``plainly``."""

    def told(self, places: Mapping[str, str]) -> list[str]:
        """Its words, with a folder (by words) for each side that it needs."""
        words = self.runnable
        for one in self.needs:
            words = words.replace(f"{{{one.words}}}", shlex.quote(places[one.words]))
        return shlex.split(words)

    @property
    def words_of_settings(self) -> str:
        """The settings that differ from ``plainly``, as words."""
        return "" if self.plainly is None else self.words.removeprefix(self.plainly.words).strip()

    def with_settings(self, settings: Sequence[tuple[str, str]]) -> Side:
        """The same with these (option, value); without any, itself."""
        if not settings:
            return self
        more = "".join(f" {name} {value}" for name, value in settings)
        named = tuple((name_of(name) or name, value) for name, value in settings)
        return Side(self.words + more, self.runnable + more, self.needs, self, named)


def side_of(study: Study, claim: Claim, label: str, chosen: Mapping[str, Side]) -> Side:
    """A variant as its words have it; of what it is built on those in ``chosen``, by label."""
    needs = {
        one: chosen.get(one) or side_of(study, claim, one, chosen) for one in built_on(claim.variants[label])
    }
    words, runnable = study.written(claim, label), study.words(claim, label)
    for one, side in needs.items():
        words, runnable = (
            text.replace(f"{{variant {one}}}", f"{{{side.words}}}") for text in (words, runnable)
        )
    return Side(words, runnable, tuple(dict.fromkeys(needs.values())))


@dataclass
class Work(Planned):
    """A run that is to be made, and those whose folders it needs."""

    side: Side | None = None
    needs: tuple[Work, ...] = ()
    with_curve: bool = False


class Plan:
    """The runs that are asked for, and the rows that are there of them.

    UserError, before any run is made, naming the variant whose words are wrong.
    """

    def __init__(self, asked: StudySettings, resolve: Resolve, rows: Rows) -> None:
        self.asked, self.resolve, self.rows = asked, resolve, rows
        self.columns: dict[str, set[str]] = {}
        """Words of a side → all that its row must hold."""
        self._configs: dict[str, Config] = {}
        self._fingerprints: dict[str, str] = {}
        self.claims = [(study, claim) for study in asked.studies for claim in study.claims]
        self.others = [(study, claim) for study in asked.others for claim in study.claims]
        for study, claim in self.claims:
            for label in claim.variants:
                self.require_understood(study, claim, label)

    def require_understood(self, study: Study, claim: Claim, label: str) -> None:
        try:
            side = side_of(study, claim, label, {})
            self.config(side)
            if label in claim.sides:
                self.grid(claim, side)
        except UserError as error:
            raise UserError(f"study of {study.method}, variant {label!r}: {error}") from None

    # --- what a side means

    def config(self, side: Side) -> Config:
        """The run that a side's words mean; its seed and folder say nothing."""
        if side.words not in self._configs:
            self._configs[side.words] = self._config(side)
        return self._configs[side.words]

    def _config(self, side: Side) -> Config:
        if side.plainly is not None:
            config = self.config(side.plainly)
            if {name for name, _ in side.settings} <= set(
                knobs(config.recipe)
            ):  # without the parser, which is slow
                return replace(config, recipe=with_knobs(config.recipe, dict(side.settings)))  # type: ignore[arg-type]
        places = {one.words: f"variant-{self.fingerprint(one)}" for one in side.needs}
        return self.resolve(command(side.told(places), 0, Path("run"))[1:])

    def fingerprint(self, side: Side) -> str:
        """What a side's rows depend on."""
        if side.words not in self._fingerprints:
            self._fingerprints[side.words] = fingerprint(self.config(side))
        return self._fingerprints[side.words]

    def grid(self, claim: Claim, side: Side) -> list[Side]:
        """The side with each of the settings that its claim has tried for it; alone where it has none.

        UserError for a multiple of what is no number."""
        entries = [values_of(entry) for entry in claim.grid]
        choices = [[self.setting(side, name, value) for value in values] for name, values in entries]
        return [
            side.with_settings([one for one in settings if one is not None]) for settings in product(*choices)
        ]

    def setting(self, side: Side, name: str, value: str) -> tuple[str, str] | None:
        """(option, value), multiplied out; None: as the side's words have it."""
        if not value.startswith("x"):
            return name, value
        known, knob = knobs(self.config(side).recipe), name_of(name) or name
        own = known.get(knob)
        try:
            factor: float | None = float(value[1:])
        except ValueError:
            factor = None
        if factor is None or not isinstance(own, int | float) or isinstance(own, bool):
            raise UserError(f"sweep {name} {value}: {value} of {own!r} is no number")
        return None if factor == 1 else (name, f"{own * factor:.4g}")

    # --- its runs and rows

    def wants(self, side: Side, columns: set[str]) -> None:
        """The side's rows are to hold these columns too."""
        self.columns.setdefault(side.words, set()).update(columns)

    def row(self, side: Side, seed: int) -> Row | None:
        """The side's valid row of a seed."""
        return self.rows.find(side.words, seed, self.fingerprint(side), self.columns.get(side.words, ()))

    def work(self, side: Side, seed: int) -> Work:
        """The run of a side and a seed."""
        needs = tuple(self.work(one, seed) for one in side.needs)
        places = {one.words: str(work.folder) for one, work in zip(side.needs, needs, strict=True)}
        folder = self.folder(side, seed)
        return Work(label_of(side.words), seed, folder, command(side.told(places), seed, folder), side, needs)

    def folder(self, side: Side, seed: int) -> Path:
        return self.asked.out / f"{label_of(side.words)}-{seed}"

    # --- the common task

    @cached_property
    def common(self) -> dict[str, list[Work]]:
        """The baselines and the studies' methods by name, a run a seed; nothing without a common task."""
        if not self.asked.common_task:
            return {}
        named = (study.method for study in self.asked.studies)
        names = dict.fromkeys((*BASELINES, *(one for one in named if not is_network_recipe(one))))
        return {name: list(self.on_common_task(name)) for name in names}

    def on_common_task(self, name: str) -> Iterator[Work]:
        """A method with its preset of the common task, until the token budget is spent, or the steps in which answers
        of a quarter of the longest would spend it: a budget ends no method that trains on others' text."""
        words = [name, "--task", self.asked.common_task]
        words += ["--model", self.asked.common_model] if self.asked.common_model else []
        config = self.resolve(words)
        assert isinstance(config, TrainConfig)
        recipe = config.recipe
        longest = recipe.rollouts.max_tokens * recipe.rollouts.per_prompt * recipe.optimization.prompts
        enough = max(1, math.ceil(QUARTER * self.asked.tokens / longest))
        if recipe.generates and not recipe.rollouts.stored:
            words += ["--token-budget", str(self.asked.tokens), "--steps", str(enough)]
            steps = max(1, self.asked.tokens // longest)
        else:
            steps = min(recipe.optimization.steps, enough)
            words += ["--steps", str(steps)]
        words += ["--eval-every", str(max(1, steps // POINTS))]
        side = Side(shlex.join(words), shlex.join(words))
        self.wants(side, {"eval/headline"})
        for seed in range(min(self.asked.seeds, COMMON_SEEDS)):
            yield replace(self.work(side, seed), label=name, with_curve=True)


def command(words: Sequence[str], seed: int, folder: Path) -> list[str]:
    """A whole command: a run's words, its seed and folder, and what every run is told."""
    own = given_names(words)
    every = {name: MEASURED[name] for name in OF_NETWORKS} if is_network_recipe(words[0]) else MEASURED
    told = [word for name, value in every.items() if name not in own for word in (option(name), value)]
    return ["train", *words, "--seed", str(seed), "--out", str(folder), *told]


def is_network_recipe(recipe: str) -> bool:
    """Whether a recipe by name or reference is one without tokens."""
    found = load_object(recipe) if is_reference(recipe) else METHODS.get(recipe.partition(":")[0])
    kind = found if isinstance(found, type) else type(found)
    return issubclass(kind, NetworkRecipe)


def label_of(words: str) -> str:
    """A short name for a side's words, fit for a folder: recipe and fingerprint."""
    return f"{plain(words.split()[0])}-{sha256(words.encode()).hexdigest()[:8]}"
