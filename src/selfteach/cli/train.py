"""``selfteach train RECIPE``: one run from words to a run folder."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from selfteach.api.configfile import given_from_python, is_of_a_run, read_settings
from selfteach.api.fit import AUTO, fitted
from selfteach.api.network import network_draft
from selfteach.api.progress import Silent, progress_for_here
from selfteach.api.resolve import BUNDLES, draft, flat, is_network, placed, require_model
from selfteach.api.training import reported, require_run
from selfteach.checks import require
from selfteach.cli.brief import brief, option_lines
from selfteach.cli.console import parsed
from selfteach.cli.train_network import NetworkWhere, network_run
from selfteach.errors import UserError
from selfteach.policy.adapter import is_adapter
from selfteach.recipes import METHODS, Recipe
from selfteach.report import build_report
from selfteach.settings import Seed, settings
from selfteach.studies.laptop import presets
from selfteach.task.options import yielding
from selfteach.training.config import TrainConfig
from selfteach.training.launch import Config, launch, table_of
from selfteach.training.runconfig import toml_text
from selfteach.words import given_names, given_values, value_of


@settings
class Where:
    """What is trained on, and where the run goes."""

    own_recipe: Annotated[str, tyro.conf.arg(name="recipe")] = ""
    """FILE:NAME of a recipe of your own, in the place of RECIPE (docs/add-a-method.md)."""
    task: str = ""
    """A world of the arena, gym:NAME, hf:ID, a data file (docs/data.md), or FILE:NAME of your own (empty:
    the arena world that suits the recipe)."""
    reward: str | None = None
    """FILE:NAME of a reward function of your own, docs/data.md (none: the task's verifier)."""
    out: Path | None = None
    """Run folder (none: runs/RECIPE-TASK-TIME)."""
    preset: str | None = None
    """A named setting of the recipe (none: "auto", the paper's with sizes for this machine; in a world "arena")."""
    config: Path | None = None
    """Settings to start from: a run's folder or config.toml, or TOML, YAML or JSON of your own; flags override it."""
    seed: Seed = 0
    """Seed of data order, sampling and evaluation."""
    resume: bool = False
    """Go on with the run in --out: its settings are read from there. --steps and --token-budget may be raised."""
    dry_run: bool = False
    """Print the resolved settings, as --config takes them, and do nothing."""


def command(words: Sequence[str]) -> int:
    """Parse, train, report."""
    config, where = resolved(words)
    if where.dry_run:
        # Of several processes, which have not met yet, the first one speaks.
        if os.environ.get("RANK", "0") == "0":
            fitted_to = getattr(config, "fitted", "")
            print(fitted_to, end="\n" * bool(fitted_to), file=sys.stderr)
            sys.stdout.write(toml_text(table_of(config)))
        return 0
    with reported(config.out):
        folder, _ = launch(config, progress_for_here, Silent, resume=where.resume)
    if folder is not None:
        page = build_report(folder)
        for other in (folder / "model", *sorted(folder.glob("model-*"))):
            print(f"model    {other}")
        print(f"report   {page}")
        if is_adapter(str(folder / "model")):
            print(
                f"merged   selfteach export {folder} --merge --out FOLDER makes a whole model of the adapter"
            )
    return 0


def trained(words: Sequence[str], *, check: bool) -> None:
    """The run that the words ask for, without a report; ``check``: with preflight."""
    config, where = resolved(words)
    launch(config, progress_for_here, Silent, resume=where.resume, check=check)


def configured(words: Sequence[str], command: str = "train") -> tuple[TrainConfig, Where]:
    """The run of text that the words ask for, and what they say of where it goes. UserError for a run without
    tokens."""
    config, where = resolved(words, command, only_text=True)
    assert isinstance(config, TrainConfig)
    assert isinstance(where, Where)
    return config, where


def resolved(
    words: Sequence[str], command: str = "train", *, only_text: bool = False
) -> tuple[Config, Where | NetworkWhere]:
    """The run that the words ask for, and what they say of where it goes. ``only_text``: UserError for a run without
    tokens, whatever else is said of it."""
    name, rest = named_recipe(words)
    if name is None and {"-h", "--help", "--help-all"} & set(rest) and not value_of(rest, "config"):
        print(
            f"usage: selfteach {command} RECIPE [OPTIONS]   (selfteach {command} RECIPE --help lists its options)\n"
        )
        print(textwrap.fill(", ".join(METHODS), 90, initial_indent="  ", subsequent_indent="  "))
        print("  FILE:NAME, a recipe of your own\n\n`selfteach recipes` says what each is.")
        raise SystemExit(0)
    require(
        not ("--resume" in rest and value_of(rest, "out") is None),
        "--resume needs the run's folder: --out RUN",
    )
    out, resume = value_of(rest, "out"), "--resume" in rest
    file = value_of(rest, "config") or (out if resume else None)
    if resume and out:
        require_run(out)
    table = read_settings(file) if file else {}
    if is_network(name, table):
        if only_text:
            recipe = network_draft(name, table=table).recipe_name
            raise UserError(
                f"recipe {recipe} trains no causal language model, which selfteach {command} is about: train, doctor, "
                "study and report take it"
            )
        return network_run(name, rest, table, command)
    require(
        "model" not in given_from_python(table),
        "the run's model was given from Python: go on there",
    )
    task, reward = value_of(rest, "task"), value_of(rest, "reward")
    begun = draft(name, preset=value_of(rest, "preset"), task=task or None, reward=reward, table=table)
    begun = replace(begun, task_options=yielding(begun.task_options, given_values(rest)))
    where = Where(task=begun.task_name, reward=begun.reward, preset=begun.preset, seed=begun.seed)
    if "--help-all" not in rest and {"-h", "--help"} & set(rest):
        print(
            brief(f"selfteach {command} {begun.recipe_name} [OPTIONS]", described(begun), shown(begun, where))
        )
        raise SystemExit(0)
    rest = ["--help" if word == "--help-all" else word for word in rest]
    kind, parts = arguments(type(begun.recipe)), tuple(BUNDLES)
    given = parsed(
        kind, rest, program=f"selfteach {command} {begun.recipe_name}",
        default=kind(begun.recipe, where, *(getattr(begun, part) for part in parts)),
        description=described(begun),
    )  # fmt: skip
    config = replace(
        begun, recipe=given.recipe, seed=given.where.seed, loading=given.loading, task_options=given.task_options,
        evaluation=given.evaluation, bookkeeping=given.bookkeeping, vllm=given.vllm,
    )  # fmt: skip
    require_model(config)
    if not is_of_a_run(table):
        config = fitted(config, {*given_names(rest), *flat(table)})
    return placed(config, given.where.out or table.get("out")), given.where


def run_of(words: Sequence[str]) -> Config:
    """The run that the words after ``selfteach train`` ask for."""
    return resolved(words)[0]


def named_recipe(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The recipe that the words name first, or by --recipe, and the other words."""
    own = value_of(words, "recipe")
    if not words or words[0].startswith("-"):
        return own, list(words)
    require(own is None, f"two recipes are named: {words[0]} and {own}")
    return words[0], list(words[1:])


COMMON = ("lr", "steps", "prompts", "schedule", "per_prompt", "temperature", "max_tokens", "lora_rank")
"""What every method has, and most runs set."""
MODEL = ("model", "precision", "chat_template", "device")
EVALUATION = ("eval_every", "eval_problems", "eval_samples", "eval_max_tokens")


def shown(begun: TrainConfig, where: Where) -> Iterator[tuple[str, Iterable[str]]]:
    """The groups of the short help: what most runs set, and the knobs that are the method's own."""
    yield "What and where", [*option_lines(where), *option_lines(begun.loading, MODEL)]
    yield f"Knobs of {begun.recipe_name} alone", option_lines(begun.recipe)
    parts = [getattr(begun.recipe, one.name) for one in fields(begun.recipe)]
    bundles = [one for one in parts if is_dataclass(one)]
    common = [line for one in bundles for line in option_lines(one, COMMON)]
    yield "Knobs of every method", [*common, *option_lines(begun.evaluation, EVALUATION)]


def arguments(recipe: type[Recipe], parts: Sequence[str] = tuple(BUNDLES)) -> Any:
    """The knobs of ``selfteach train`` for one recipe, as a dataclass."""
    bundles = [(part, BUNDLES[part], field(default_factory=BUNDLES[part])) for part in parts]
    where = ("where", Where, field(default_factory=Where))
    return make_dataclass("Arguments", [("recipe", recipe), where, *bundles], frozen=True)


def described(begun: TrainConfig) -> str:
    known = ", ".join([AUTO, *presets(type(begun.recipe))])
    lowered = " (the paper's; sizes are lowered to what this machine can do)" if begun.preset == AUTO else ""
    return (
        f"Defaults below are those of preset {begun.preset}{lowered}. Presets: {known}.\n"
        "--help-all says more, and has every option: data, optimizer, checkpoints, trackers …"
    )
