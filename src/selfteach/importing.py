"""Objects of one's own files and packages by reference: ``FILE.py:NAME`` or ``package.module:NAME``."""

from __future__ import annotations

import runpy
from importlib import import_module
from pathlib import Path
from typing import Any

from selfteach.errors import UserError


def is_reference(text: str) -> bool:
    """Whether ``text`` is FILE.py:NAME or package.module:NAME."""
    place, _, name = text.rpartition(":")
    return bool(place) and name.isidentifier()


def load_object(reference: str) -> Any:
    """What ``reference`` names. UserError if its file or module, or the name in it, does not exist."""
    place, _, name = reference.rpartition(":")
    try:
        found = runpy.run_path(place) if Path(place).suffix == ".py" else vars(import_module(place))
    except (OSError, ImportError) as error:
        raise UserError(f"{reference}: {error}") from None
    if name not in found:
        raise UserError(f"{reference}: {place} has no {name!r}")
    return found[name]
