"""A recipe's settings by flat name, as users give them: ``lr``, ``clip_entry``, ``temperature`` …"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from selfteach.checks import nearest, require
from selfteach.errors import UserError

R = TypeVar("R", bound=Any)

RENAMED = {
    "distil": "distill",
    "learning_rate": "lr",
    "max_steps": "steps",
    "save_steps": "checkpoint_every",
    "save_every": "checkpoint_every",
    "save_total_limit": "keep",
    "eval_steps": "eval_every",
    "num_generations": "per_prompt",
    "per_device_train_batch_size": "prompts",
    "max_completion_length": "max_tokens",
    "max_new_tokens": "max_tokens",
    "warmup_steps": "warmup",
    "lr_scheduler_type": "schedule",
    "lora_r": "lora_rank",
    "target_modules": "lora_targets",
    "report_to": "track",
    "output_dir": "out",
    "model_name_or_path": "model",
    "dataset_name": "task",
    "gradient_accumulation_steps": "micro_batch",
    "warmup_ratio": "warmup",
    "bf16": "precision",
}
"""Knobs by the names that they have elsewhere, or had in earlier versions: refused with ours."""


def knobs(recipe: Any) -> dict[str, Any]:
    """Every knob by its flat name, e.g. ``clip_entry``, ``temperature``, ``lr``: names are unique by design."""
    flat: dict[str, Any] = {}
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        flat |= (
            {g.name: getattr(value, g.name) for g in fields(value)}
            if is_dataclass(value)
            else {f.name: value}
        )
    return flat


def refuse_renamed(name: str) -> None:
    """UserError with our name where a knob has another elsewhere, or had one before."""
    require(name not in RENAMED, f"knob {name!r} is called {RENAMED.get(name)!r} here")


def with_knobs(recipe: R, changes: Mapping[str, Any]) -> R:
    """The same recipe with knobs replaced by flat name. UserError for an unknown name, with the nearest ones."""
    own: dict[str, Any] = {}
    left = dict(changes)
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        if is_dataclass(value) and not isinstance(value, type):
            inner = {g.name: left.pop(g.name) for g in fields(value) if g.name in left}
            if inner:
                own[f.name] = replace(value, **inner)
        elif f.name in left:
            own[f.name] = left.pop(f.name)
    if left:
        name = next(iter(left))
        refuse_renamed(name)
        raise UserError(f"{type(recipe).__name__} has no knob {name!r}{nearest(name, knobs(recipe))}")
    return replace(recipe, **own)


def takes(recipe: Any, name: str, value: Any) -> bool:
    """Whether the recipe, otherwise as it is, may be given this value of the knob."""
    try:
        with_knobs(recipe, {name: value})
    except UserError:
        return False
    return True


def documented(recipe: Any) -> dict[str, tuple[Any, str]]:
    """Every knob by its flat name: (value, the sentence under its field)."""
    found: dict[str, tuple[Any, str]] = {}
    meanings = field_docs(type(recipe))
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        if is_dataclass(value) and not isinstance(value, type):
            inner = field_docs(type(value))
            found |= {g.name: (getattr(value, g.name), inner.get(g.name, "")) for g in fields(value)}
        else:
            found[f.name] = (value, meanings.get(f.name, ""))
    return found


def field_docs(kind: type) -> dict[str, str]:
    """Field name → the docstring that stands under it in the source, of a dataclass and its bases."""
    docs: dict[str, str] = {}
    for base in reversed([b for b in kind.__mro__ if is_dataclass(b)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, after in itertools.pairwise(body.body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                docs[statement.target.id] = " ".join(str(after.value.value).split())
    return docs
