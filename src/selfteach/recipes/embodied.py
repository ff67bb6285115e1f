"""What all recipes of acting policies say of their environment."""

from __future__ import annotations

from abc import ABC

from selfteach.checks import require
from selfteach.recipes.network import NetworkRecipe
from selfteach.settings import PositiveRows, settings


@settings
class EmbodiedRecipe(NetworkRecipe, ABC):
    """A method whose policy acts in parallel environments of gymnasium."""

    environment: str = "point-reach"
    """point-reach (-dense, -two-ways, -jump, -slide, -slide-back), babyai:LEVEL, gymnasium:ID, or FILE.py:NAME of a
    function that gives an EmbodiedTask."""
    eval_episodes: PositiveRows = 200
    """Held-out episodes."""

    def __post_init__(self) -> None:
        require(self.environment != "", "environment is empty: name one, as point-reach")
