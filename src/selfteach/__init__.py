"""On-policy self-distillation for language models: one small core, each method a short recipe.

``train``, ``evaluate``, ``chat``, ``export``, ``compare`` and ``load_run`` are the command line's commands as
functions (docs/python.md).
They are loaded when they are first asked for: ``import selfteach`` alone loads no model library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfteach.api.chatting import chat
    from selfteach.api.comparing import Comparison, compare
    from selfteach.api.evaluating import evaluate
    from selfteach.api.exporting import export
    from selfteach.api.result import Result, load_run
    from selfteach.api.training import train
    from selfteach.errors import UserError
    from selfteach.recipes import NetworkRecipe, Recipe
    from selfteach.task.example import Example, Grade, Task

__version__ = "0.1.0"

_HOME = {
    "train": "api.training",
    "evaluate": "api.evaluating",
    "chat": "api.chatting",
    "export": "api.exporting",
    "compare": "api.comparing",
    "Comparison": "api.comparing",
    "load_run": "api.result",
    "Result": "api.result",
    "Recipe": "recipes",
    "NetworkRecipe": "recipes",
    "Task": "task.example",
    "Example": "task.example",
    "Grade": "task.example",
    "UserError": "errors",
}

__all__ = [
    "Comparison",
    "Example",
    "Grade",
    "NetworkRecipe",
    "Recipe",
    "Result",
    "Task",
    "UserError",
    "__version__",
    "chat",
    "compare",
    "evaluate",
    "export",
    "load_run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'selfteach' has no attribute {name!r}")
    return getattr(import_module(f"selfteach.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
