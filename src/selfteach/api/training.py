"""``selfteach.train``: one run from Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfteach.api.configfile import given_from_python, is_of_a_run, read_settings
from selfteach.api.fit import fitted
from selfteach.api.network import network_draft, with_network_values
from selfteach.api.progress import Silent, progress_for_here
from selfteach.api.resolve import (
    MethodLike,
    draft,
    flat,
    in_memory,
    is_network,
    placed,
    require_model,
    with_values,
)
from selfteach.api.result import Result
from selfteach.errors import UserError
from selfteach.report import build_report
from selfteach.training.config import TrainConfig
from selfteach.training.interruption import Interrupted
from selfteach.training.launch import Config, launch
from selfteach.training.network_config import NetworkConfig
from selfteach.training.progress import Progress
from selfteach.training.rundir import STOPPED

ModelLike = str | Path | PreTrainedModel | Result


def train(
    recipe: MethodLike | None = None,
    model: ModelLike | None = None,
    task: Any = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    reward: Callable[..., Any] | str | None = None,
    preset: str | None = None,
    seed: int | None = None,
    out: Path | str | None = None,
    config: Path | str | None = None,
    resume: bool = False,
    progress: Callable[[], Progress] | None = progress_for_here,
    **knobs: Any,
) -> Result:
    """Train a model with a recipe, and return the run.

    ``recipe``: a name ("opsd"), NAME:PRESET, FILE:NAME, a class or an object. ``model``: a folder, a hub id,
    "arena:NAME", or a model in memory with its ``tokenizer`` (a copy of it is trained); None: the arena world's own.
    ``task``: a name (docs/data.md), FILE:NAME, rows (dicts, a datasets.Dataset, a DataFrame), a task, or a function
    that makes one; None: the world that suits the recipe. ``reward``: a function of one's own in the place of the
    task's verifier. ``knobs``: any setting by its name on the command line, with underscores (``lr=1e-4,
    eval_every=10``); ``config``: a file of settings, which they override.

    ``progress``: who shows the run while it goes on (None: nobody). ``out``: the run's folder (None:
    runs/RECIPE-TASK-TIME); with ``resume`` the run there goes on, by its own settings. Raises UserError, in one line,
    for whatever cannot be meant; ``Interrupted`` after Ctrl-C, when the run is saved.
    """
    if resume:
        require_run(out)
    chosen = resolved(
        recipe, model, task, tokenizer=tokenizer, reward=reward, preset=preset, seed=seed, out=out,
        config=config or (out if resume else None), **knobs,
    )  # fmt: skip
    try:
        with reported(chosen.out):
            folder, _ = launch(chosen, progress or Silent, Silent, resume=resume)
    except Interrupted as stop:
        stop.add_note(
            f"the run is saved; go on with selfteach.train(resume=True, out={str(chosen.out)!r}, …)"
        )
        raise
    if folder is not None:
        build_report(folder)
    objects = {"recipe": recipe, "model": model, "task": task, "tokenizer": tokenizer, "reward": reward}
    return Result(chosen.out, {k: v for k, v in objects.items() if not isinstance(v, str | Path | None)})


@contextmanager
def reported(out: Path) -> Iterator[None]:
    """Within it a run that stops by itself leaves its report too."""
    try:
        yield
    except UserError:
        if os.path.isfile(out / STOPPED) and PartialState().is_main_process:
            with suppress(UserError, OSError):  # why it stopped counts more
                build_report(out)
        raise


def require_run(folder: Path | str | None) -> None:
    """Refuse to resume where no run is."""
    if folder is None:
        raise UserError("resume needs the run's folder: out=…")
    if not os.path.isfile(Path(folder) / "config.toml"):
        raise UserError(f"{folder} holds no run to resume (no config.toml); start it without resume")


def configured(*given: Any, **told: Any) -> TrainConfig:
    """``resolved`` of the same arguments, where it is a run of text. UserError for a recipe without tokens."""
    found = resolved(*given, **told)
    if isinstance(found, NetworkConfig):
        raise UserError(
            f"recipe {found.recipe_name} trains no causal language model: selfteach.train takes it"
        )
    return found


def resolved(
    recipe: MethodLike | None = None,
    model: ModelLike | None = None,
    task: Any = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    reward: Callable[..., Any] | str | None = None,
    preset: str | None = None,
    seed: int | None = None,
    out: Path | str | None = None,
    config: Path | str | None = None,
    **knobs: Any,
) -> Config:
    """The resolved settings of a run, which ``train`` would make of the same arguments."""
    table = read_settings(config) if config is not None else {}
    if is_network(recipe, table):
        given_text = {"model": model, "task": task, "tokenizer": tokenizer, "reward": reward}
        values = {**knobs, **{name: one for name, one in given_text.items() if one is not None}}
        own = with_network_values(
            network_draft(recipe, preset=preset, table=table),
            values if seed is None else {**values, "seed": seed},
        )
        return placed(own, out if out is not None else table.get("out"))
    chosen = with_values(draft(recipe, preset=preset, task=task, reward=reward, table=table), knobs)
    given = given_from_python(table) if is_of_a_run(table) else ()
    if "model" in given and not isinstance(model, PreTrainedModel):
        raise UserError("the run's model was given from Python: pass it again, with its tokenizer")
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    model = model.folder if isinstance(model, Result) else model
    if isinstance(model, PreTrainedModel):
        name, tokenizer = in_memory(model, tokenizer)
        chosen, model = replace(chosen, network=(model, tokenizer)), name
    if model is not None:
        chosen = replace(chosen, loading=replace(chosen.loading, model=str(model)))
    require_model(chosen)
    if not is_of_a_run(table):
        chosen = fitted(chosen, {*knobs, *flat(table)})
    return placed(chosen, out if out is not None else table.get("out"))
