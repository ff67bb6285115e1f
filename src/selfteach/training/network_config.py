"""All that a run without tokens is told, resolved: what its config.toml holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from selfteach.recipes import NetworkRecipe, preset_of
from selfteach.settings import settings
from selfteach.training.config import FORMAT
from selfteach.training.trainer import Settings


@settings
class Tracking:
    """Whether a run's numbers go to a tracker as well."""

    track: Literal["tensorboard", "trackio", "wandb"] | None = None
    """Log the metrics to this tracker as well; its package must be installed (none: to the run folder only)."""
    project: str = "selfteach"
    """What the tracker files the run under."""
    run_name: str | None = None
    """What the tracker calls the run (none: the name of its folder)."""


@settings
class NetworkConfig:
    """One training run of a ``NetworkRecipe``: its networks, data and sizes are knobs of the recipe."""

    recipe: NetworkRecipe
    recipe_name: str
    preset: str
    out: Path
    settings: Settings = Settings()
    tracking: Tracking = Tracking()

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def task_name(self) -> str:
        """What the run's record calls its data, or what is acted in (empty: the method brings none)."""
        return str(getattr(self.recipe, "data", getattr(self.recipe, "environment", "")))

    def table(self) -> dict[str, Any]:
        """The config as nested plain values, for config.toml; ``paper`` holds the recipe's own defaults beside."""
        own = type(self.recipe)
        return {
            "about": {
                "format": FORMAT,
                "title": own.title or own.__name__,
                "source": own.source,
                "formula": own.formula,
            },
            "recipe": {"name": self.recipe_name, "preset": self.preset, **asdict(self.recipe)},
            "paper": asdict(preset_of(own)),
            "run": {"task": self.task_name, "seed": self.seed, "given": self.given},
            "settings": asdict(self.settings),
            "tracking": asdict(self.tracking),
        }

    @property
    def given(self) -> list[str]:
        """What was given as an object, so that the record alone cannot bring it back."""
        own = not (self.recipe_name.replace("-", "").isalnum() or ":" in self.recipe_name)
        return ["recipe"] if own else []
