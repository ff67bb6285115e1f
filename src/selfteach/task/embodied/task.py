"""What acting learners need of an environment, beside gymnasium's own interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

Array = np.ndarray[Any, np.dtype[Any]]
Infos = Mapping[str, Any]
"""What a vector environment says beside observations: name → [n], and _name → [n] whether it was said."""
Expert = Callable[["VectorEnv", Array], Array]
"""(environments, their observations [n, …]) → actions [n, …]."""


@dataclass(frozen=True)
class EmbodiedTask:
    """Episodes in parallel environments.

    ``make(n)`` gives n of them as gymnasium's VectorEnv whose autoreset is disabled, and whose ``reset`` knows seeds
    and ``options["reset_mask"]``; all that they draw follows from the seeds. An episode ends after ``max_steps`` at the
    latest. ``observation``: numbers, or a grid in sight with the words of a mission (``grids``).
    ``success(infos, rewards, terminated)`` says of a step whether it achieved what was asked, [n] (None: the
    environment has no such signal, and its return is what counts). ``expert`` acts well, and may ask the environments
    what no observation shows. ``places(observations)`` [n, 2]: where each is in the plane; ``pictures(environments)``:
    an image [h, w, 3] of 0 … 255 of each. Both are for the report, and None where there is no such view.
    ``way(observations, actions)`` [n] int: which of several ways to the end an action takes, 0 where it takes none
    (None: nobody tells them apart).
    """

    name: str
    make: Callable[[int], VectorEnv]
    max_steps: int
    observation: Literal["numbers", "grid"] = "numbers"
    success: Callable[[Infos, Array, Array], Array] | None = None
    expert: Expert | None = None
    places: Callable[[Array], Array] | None = None
    pictures: Callable[[VectorEnv], Sequence[Array]] | None = None
    way: Callable[[Array, Array], Array] | None = None
