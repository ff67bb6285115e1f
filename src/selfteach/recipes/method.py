"""What any method declares, whatever it trains: its name, its paper, its named settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from selfteach.settings import settings


@settings
class Method:
    """A frozen dataclass whose fields are the knobs; the defaults are the paper's values."""

    name: ClassVar[str] = ""
    """What it is called on the command line; a class of another class's name is a variant of it."""
    title: ClassVar[str] = ""
    """What the method is called in its paper."""
    source: ClassVar[str] = ""
    """The address of its paper."""
    formula: ClassVar[str] = ""
    """The loss in one line."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}}
    """Named settings: the knobs in which each differs from the fields' defaults. The first is the default, the
    paper's."""
