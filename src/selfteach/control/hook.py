"""What may happen to the weights between two optimizer steps (Sleep, EffOPD)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jaxtyping import Shaped
from torch import Tensor

Named = Mapping[str, Shaped[Tensor, "..."]]
"""The live trained tensors by name (``NAME.parameter``)."""


class Hook(Protocol):
    """Looks at the trained weights after an optimizer step, and may set them in place.

    ``state`` is any nesting of plain values and tensors; a hook with that state goes on exactly as before.
    """

    def after_step(self, step: int, weights: Named, evaluate: Callable[[], float]) -> None:
        """``step`` = 1, 2 … within the stage; ``evaluate()``: mean reward of the answers that the weights, as they are
        now, give to the problems that were kept out for the hook, by the run's settings of evaluation and with random
        numbers that are the same at every call."""

    def metrics(self) -> Mapping[str, float]:
        """What the last step is to write down, as ``hook/NAME``."""

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


class HookSpec(Protocol):
    """What a recipe declares: the hook's settings, from which a run starts one."""

    @property
    def problems(self) -> int:
        """Problems for ``evaluate``, which are neither trained on nor held out (of few rows, a quarter at most)."""

    def start(self, seed: int, weights: Named) -> Hook:
        """Begin with a stage; ``weights``: as they are before its first step."""
