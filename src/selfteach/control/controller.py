"""Controllers: a knob of the recipe whose value is found while the run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Controller(Protocol):
    """Chooses a knob's value for each step, and observes what the step measured.

    ``state`` is any nesting of plain values and tensors; a controller with that state goes on exactly as before.
    """

    def choose(self, progress: float) -> float:
        """The value for the step to come; ``progress`` in [0, 1] is the share of steps already taken."""

    def observe(self, row: Mapping[str, Any]) -> None:
        """The step's metrics (docs/metrics.md): ``loss``, ``divergence/NAME``, ``reference/NAME`` …"""

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


class ControllerSpec(Protocol):
    """What a recipe declares: the controller's settings, from which a run starts one."""

    def start(self, seed: int) -> Controller: ...
