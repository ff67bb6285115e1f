"""What a run reads beside its settings, by fingerprint: a resumed run must find the same."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import CodeType
from typing import Any

from torch import nn

from selfteach.importing import is_reference
from selfteach.recipes import RECIPES
from selfteach.roles.weights import External
from selfteach.task.arena import resolve_model
from selfteach.training.config import TrainConfig

WHOLE = 64 * 2**20
"""Bytes up to which a file is read whole; of a larger one its length, beginning and end count."""
PART = 8 * 2**20
WEIGHTS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""What makes up a model's folder."""


def inputs_of(config: TrainConfig) -> dict[str, str]:
    """Role → fingerprint of every file or folder that the settings name and that is there; hub names have none."""
    found = {role: fingerprint(path) for role, path in named_files(config) if path.exists()}
    objects = {"task": config.task, "reward": config.reward}
    found |= {r: of_object(one) for r, one in objects.items() if not isinstance(one, str | Path | None)}
    kind = type(config.recipe)
    if kind not in RECIPES.values() and "recipe" not in found:
        found["recipe"] = of_object(kind)
    if config.network is not None:
        found["model"] = of_weights(config.network[0])
    return dict(sorted(found.items()))


def of_weights(network: nn.Module) -> str:
    """16 hex digits of a model in memory: names, shapes and sums of its weights."""
    sums = {
        name: (list(value.shape), float(value.double().sum())) for name, value in network.state_dict().items()
    }
    return sha256(json.dumps(sums).encode()).hexdigest()[:16]


def of_object(given: Any) -> str:
    """16 hex digits of what was given from Python: of rows their content, of code its source."""
    if isinstance(known := getattr(given, "_fingerprint", None), str):  # a datasets.Dataset
        return known
    rows = given.to_dict("records") if hasattr(given, "to_dict") and hasattr(given, "columns") else given
    text = json.dumps(rows, default=str, sort_keys=True) if isinstance(rows, list | tuple) else of_code(given)
    return sha256(text.encode()).hexdigest()[:16]


def of_code(given: Any) -> str:
    """What a function, a class or an object's class does: the bytecode of its functions with their constants.

    Source may not be at hand in a notebook, and line numbers do not matter.
    """
    kind = given if isinstance(given, type) or inspect.isroutine(given) else type(given)
    members = [kind] if inspect.isroutine(kind) else [vars(kind)[name] for name in sorted(vars(kind))]
    found = [getattr(one, "fget", None) or getattr(one, "__func__", one) for one in members]
    codes = [code for one in found if isinstance(code := getattr(one, "__code__", None), CodeType)]
    return repr([compiled(code) for code in codes])


def compiled(code: CodeType) -> tuple[Any, ...]:
    constants = [compiled(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return code.co_code, code.co_names, constants


def named_files(config: TrainConfig) -> Iterator[tuple[str, Path]]:
    """(what it is for, path) of all that the settings name and that may be a file."""
    options: dict[str, Any] = {
        "task": config.task,
        "reward": config.reward,
        "recipe": config.recipe_name,
        "held_out_file": config.task_options.held_out_file,
        "chat_template": config.loading.chat_template,
        "token_classes": config.bookkeeping.token_classes,
        **{f"eval_also.{i}": name for i, name in enumerate(config.evaluation.eval_also)},
    }
    for role, named in options.items():
        if isinstance(named, str | Path) and str(named):
            yield role, file_of(str(named))
    models = {f"teacher.{i}": name for i, name in enumerate(external_models(config))}
    for role, model in {"model": config.loading.model, **models}.items():
        if model:
            yield role, Path(resolve_model(model))


def file_of(named: str) -> Path:
    """The file of a path or of a reference FILE:NAME."""
    return Path(named.rpartition(":")[0] if is_reference(named) else named)


def external_models(config: TrainConfig) -> list[str]:
    """Every other model that a stage's roles score with, in order."""
    stages = config.recipe.stages.values()
    weights = [role.weights for stage in stages for role in stage.roles.values()]
    return list(dict.fromkeys(one.model for one in weights if isinstance(one, External)))


def fingerprint(path: Path) -> str:
    """16 hex digits of a file's content, or of a folder's model or data files with their names."""
    if path.is_file():
        return digest(path)
    inside = sorted({file for pattern in WEIGHTS for file in path.glob(pattern)} or set(path.iterdir()))
    whole = sha256()
    for file in inside:
        if file.is_file():
            whole.update(f"{file.name} {digest(file)}\n".encode())
    return whole.hexdigest()[:16]


def digest(file: Path) -> str:
    size = file.stat().st_size
    content = sha256(str(size).encode())
    with file.open("rb") as stream:
        if size <= WHOLE:
            content.update(stream.read())
        else:
            content.update(stream.read(PART))
            stream.seek(-PART, 2)
            content.update(stream.read())
    return content.hexdigest()[:16]
