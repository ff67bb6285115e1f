"""What a run reads beside its settings, by fingerprint: a resumed run must find the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from selfteach.importing import is_reference
from selfteach.recipes import METHODS
from selfteach.roles.weights import External
from selfteach.task.arena import resolve_model
from selfteach.training.config import TrainConfig
from selfteach.training.network_config import NetworkConfig

MAY_NAME_FILES: Mapping[str, str] = {
    "task": "run.task",
    "reward": "run.reward",
    "recipe": "recipe.name",
    "model": "loading.model",
    "chat_template": "loading.chat_template",
    "teacher_cache": "loading.teacher_cache",
    "held_out_file": "task_options.held_out_file",
    "corpus": "task_options.corpus",
    "eval_also": "evaluation.eval_also",
    "token_classes": "bookkeeping.token_classes",
}
"""What a run may read → the setting that names it, as in config.toml. Models that teach are named by the recipe's own
knobs, whatever these are called."""
KNOBS = ("recipe.data", "recipe.environment", "recipe.teacher")
"""The knobs of a recipe without tokens that may name a file."""
WHOLE = 64 * 2**20
"""Bytes up to which a file is read whole; of a larger one its length, beginning and end count."""
PART = 8 * 2**20
PLAIN = (bool, int, float, str, bytes, type(None), list, tuple, dict, set, frozenset)
"""Values that code may depend on and that say all of themselves."""
WEIGHTS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""What makes up a model's folder."""


def inputs_of(config: TrainConfig) -> dict[str, str]:
    """Role → fingerprint of every file or folder that the settings name and that is there; hub names have none."""
    found = {role: fingerprint(path) for role, path in named_files(config) if os.path.exists(path)}
    objects = {"task": config.task, "reward": config.reward}
    found |= {r: of_object(one) for r, one in objects.items() if not isinstance(one, str | Path | None)}
    kind = type(config.recipe)
    if kind not in METHODS.values() and "recipe" not in found:
        found["recipe"] = of_object(kind)
    if config.network is not None:
        found["model"] = of_weights(config.network[0])
    return dict(sorted(found.items()))


def network_inputs(config: NetworkConfig) -> dict[str, str]:
    """The same of a run without tokens: its data, environment or teacher, where that is a file, and a recipe of the
    user's own."""
    named = {
        "data": config.task_name,
        "teacher": str(getattr(config.recipe, "teacher", "")),
        "recipe": config.recipe_name,
        "learner": config.recipe.learner,
    }
    files = {role: file_of(name) for role, name in named.items() if name}
    found = {role: fingerprint(path) for role, path in files.items() if os.path.isfile(path)}
    if type(config.recipe) not in METHODS.values() and "recipe" not in found:
        found["recipe"] = of_object(type(config.recipe))
    return dict(sorted(found.items()))


def of_weights(network: nn.Module) -> str:
    """16 hex digits of a model in memory: names, shapes and sums of its weights."""
    sums = {
        name: (list(value.shape), float(value.double().sum())) for name, value in network.state_dict().items()
    }
    return sha256(json.dumps(sums).encode()).hexdigest()[:16]


def of_object(given: Any) -> str:
    """16 hex digits of what was given from Python: of rows their content, of code what it does.

    Of the same Python: its bytecode is another's.
    """
    if isinstance(known := getattr(given, "_fingerprint", None), str):  # a datasets.Dataset
        return known
    rows = given.to_dict("records") if hasattr(given, "to_dict") and hasattr(given, "columns") else given
    content = rows if isinstance(rows, list | tuple) else of_code(given)
    return sha256(json.dumps(canonical(content)).encode()).hexdigest()[:16]


def of_code(given: Any) -> Any:
    """What a function, a class or an object does, as plain values: bytecode, not source, which may not be at hand in a
    notebook; with defaults, and the plain values that it closes over or finds in its module."""
    if isinstance(given, partial):
        return [of_code(given.func), given.args, given.keywords]
    if isinstance(given, MethodType):
        return [of_code(given.__func__), of_code(given.__self__)]
    if isinstance(given, FunctionType):
        return of_function(given)
    kind = given if isinstance(given, type) else type(given)
    members = {
        name: getattr(one, "fget", None) or getattr(one, "__func__", one) for name, one in vars(kind).items()
    }
    methods = {name: of_function(one) for name, one in members.items() if isinstance(one, FunctionType)}
    constants = {name: one for name, one in members.items() if isinstance(one, PLAIN) and name[:2] != "__"}
    own = (
        {}
        if kind is given
        else {k: v for k, v in getattr(given, "__dict__", {}).items() if isinstance(v, PLAIN)}
    )
    return [methods, constants, own]


def of_function(function: FunctionType) -> Any:
    code = function.__code__
    closed = [cell.cell_contents for cell in function.__closure__ or ()]
    found = {name: function.__globals__[name] for name in code.co_names if name in function.__globals__}
    reached = {**dict(zip(code.co_freevars, closed, strict=True)), **found}
    values = {name: one for name, one in reached.items() if isinstance(one, PLAIN)}
    defaults = [function.__defaults__, function.__kwdefaults__]
    return [compiled(code), values, defaults]


def compiled(code: CodeType) -> Any:
    constants = [compiled(one) if isinstance(one, CodeType) else one for one in code.co_consts]
    return [code.co_code.hex(), code.co_names, constants]


def canonical(value: Any) -> Any:
    """A value as text and lists, equal in every process: sets have no order, and a place in memory says nothing."""
    if isinstance(value, dict):
        return sorted((repr(key), canonical(one)) for key, one in value.items())
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, list | tuple):
        return [canonical(one) for one in value]
    text = repr(value)
    return f"{type(value).__module__}.{type(value).__qualname__}" if " at 0x" in text else text


def named_files(config: TrainConfig) -> Iterator[tuple[str, Path]]:
    """(what it is for, path) of all that the settings name and that may be a file."""
    for role, setting in MAY_NAME_FILES.items():
        named = value_of(config, setting)
        several = role == "eval_also"
        for i, one in enumerate(named if several else [named]):
            if isinstance(one, str | Path) and str(one):
                file = Path(resolve_model(str(one))) if role == "model" else file_of(str(one))
                yield (f"{role}.{i}" if several else role), file
    for i, model in enumerate(external_models(config)):
        yield f"teacher.{i}", Path(resolve_model(model))


def value_of(config: TrainConfig, setting: str) -> Any:
    """The value of a setting that may name a file, as it was given: an object too."""
    table, _, knob = setting.partition(".")
    if table == "recipe":
        return config.recipe_name
    return getattr(config if table == "run" else getattr(config, table), knob)


def file_of(named: str) -> Path:
    """The file of a path or of a reference FILE:NAME."""
    return Path(named.rpartition(":")[0] if is_reference(named) else named)


def external_models(config: TrainConfig) -> list[str]:
    """Every other model that a stage's roles score with, in order."""
    stages = config.recipe.stages.values()
    weights = [role.weights for stage in stages for role in stage.roles.values()]
    return list(dict.fromkeys(one.model for one in weights if isinstance(one, External)))


def fingerprint(path: Path) -> str:
    """16 hex digits of a file's content, or of a folder's: of a model's what makes it up, of any other every file."""
    if path.is_file():
        return digest(path)
    model = (path / "config.json").is_file() or (path / "adapter_config.json").is_file()
    inside = [file for pattern in WEIGHTS for file in path.glob(pattern)] if model else path.rglob("*")
    whole = sha256()
    for file in sorted(set(inside)):
        if file.is_file():
            whole.update(f"{file.relative_to(path)} {digest(file)}\n".encode())
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
